"""The side of llama.cpp in `make bench-infer`; speaks as infer_ours.py does.

Runs in an environment with llama-cpp-python, gguf and safetensors. The Hugging Face folder is
written as a GGUF file without a vocabulary; weights and cache stay float32. Prompts are decoded in
parallel sequences through llama_decode, and a sequence that is done takes the next prompt.
"""

import collections
import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np
import paired
from safetensors.numpy import load_file

THREADS = len(os.sched_getaffinity(0))
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
}


CONTEXT_MULTIPLE = 256  # tokens that llama.cpp rounds a sequence's cache up to
WARNING, ERROR = 3, 4  # of ggml's log levels


@llama_cpp.llama_log_callback
def _log(level: int, text: bytes, _: object) -> None:
    if level in (WARNING, ERROR):
        sys.stderr.write(text.decode())


def write_gguf(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Writes the model of a Hugging Face folder in float32."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            writer.add_tensor(_their_name(name), _their_layout(name, tensor, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _their_name(name: str) -> str:
    name = name.removeprefix("model.").removesuffix(".weight")
    if name.startswith("layers."):
        _, layer, rest = name.split(".", 2)
        return f"blk.{layer}.{NAMES[rest]}.weight"
    return f"{NAMES[name]}.weight"


def _their_layout(name: str, tensor: np.ndarray, config: dict) -> np.ndarray:
    """Returns the tensor; queries and keys with the neighbours rotated, not the halves."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    kind = name.split(".")[-2]
    if kind in heads:
        halves = tensor.reshape(config[heads[kind]], 2, -1, tensor.shape[1])
        tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
    return np.ascontiguousarray(tensor, np.float32)


@dataclasses.dataclass
class _Sequence:
    """A request in a slot: what is to be read next, from which position, and what was written."""

    index: int
    limit: int
    unread: list[int]
    position: int = 0
    written: list[int] = dataclasses.field(default_factory=list)


class LlamaCpp:
    """The actions of this side; a job's fields are those of infer_ours.py."""

    def __init__(self, folder: pathlib.Path):
        llama_cpp.llama_log_set(_log, None)
        llama_cpp.llama_backend_init()
        with tempfile.TemporaryDirectory() as scratch:
            path = pathlib.Path(scratch) / "model.gguf"
            write_gguf(folder, path)
            params = llama_cpp.llama_model_default_params()
            self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            sys.exit("llama.cpp does not load the GGUF file: see its log above")
        self._vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _context(self, slots: int, longest: int):
        """Returns a context whose float32 cache has `slots` sequences of at least `longest`."""
        longest = -(-longest // CONTEXT_MULTIPLE) * CONTEXT_MULTIPLE
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = slots * longest, slots
        params.n_batch = slots * longest
        params.n_threads = params.n_threads_batch = THREADS
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        # Its fused attention computes partly in half precision: 2.5e-4 nats off, against 5e-7.
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            sys.exit("llama.cpp makes no context: see its log above")
        return context, llama_cpp.llama_batch_init(slots * longest, 0, 1)

    def _decode(self, context, batch, reads: list[tuple[int, int, list[int]]]) -> np.ndarray:
        """Reads (slot, position, ids) of each sequence; returns the last logits of each [n, V]."""
        row = 0
        for slot, position, ids in reads:
            for i, token in enumerate(ids):
                batch.token[row], batch.pos[row] = token, position + i
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, slot
                batch.logits[row] = i == len(ids) - 1
                row += 1
        batch.n_tokens = row
        code = llama_cpp.llama_decode(context, batch)
        if code:
            sys.exit(f"llama_decode returned {code} for {row} tokens of {len(reads)} sequences")
        logits = llama_cpp.llama_get_logits(context)
        return np.ctypeslib.as_array(logits, (len(reads), self._vocabulary))

    def generate(self, job: dict) -> dict:
        waiting = collections.deque(
            _Sequence(i, limit, prompt)
            for i, (prompt, limit) in enumerate(zip(job["prompts"], job["limits"], strict=True))
        )
        ids: list[list[int]] = [[] for _ in waiting]
        longest = max(sequence.limit + len(sequence.unread) for sequence in waiting)
        context, batch = self._context(job["slots"], longest)
        memory = llama_cpp.llama_get_memory(context)
        llama_cpp.llama_memory_clear(memory, False)
        free, active = list(range(job["slots"])), {}
        while waiting or active:
            while free and waiting:
                active[free.pop()] = waiting.popleft()
            reads = [(slot, s.position, s.unread) for slot, s in active.items()]
            tokens = self._decode(context, batch, reads).argmax(-1).tolist()
            for (slot, sequence), token in zip(list(active.items()), tokens, strict=True):
                sequence.written.append(token)
                sequence.position += len(sequence.unread)
                sequence.unread = [token]
                if len(sequence.written) == sequence.limit:
                    ids[sequence.index] = sequence.written
                    llama_cpp.llama_memory_seq_rm(memory, slot, -1, -1)
                    del active[slot]
                    free.append(slot)
        return {"ids": ids}

    def score(self, job: dict) -> dict:
        log_probs = []
        context, batch = self._context(1, max(map(len, job["prompts"])))
        for prompt in job["prompts"]:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
            logits = self._decode(context, batch, [(0, 0, prompt)])[0].astype(np.float64)
            logits -= logits.max()
            log_probs.append((logits - np.log(np.exp(logits).sum()))[job["choices"]].tolist())
        return {"log_probs": log_probs}


def main() -> None:
    side = LlamaCpp(pathlib.Path(json.loads(sys.argv[1])["folder"]))
    versions = {"llama-cpp-python": importlib.metadata.version("llama-cpp-python")}
    actions = {"generate": side.generate, "score": side.score}
    paired.serve({"versions": versions}, paired.timed(actions))


if __name__ == "__main__":
    main()
