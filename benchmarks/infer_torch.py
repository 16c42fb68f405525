"""The side of transformers in `make bench-infer`; speaks as infer_ours.py does.

"generate_padded" is `generate` on batches padded on the left, each until its longest limit;
"generate_continuous" is what `generate_batch` does, with a limit for each request.
"""

import itertools
import json
import sys
from collections.abc import Iterator

import paired
import torch
import transformers

PAD_ID = 0
PAGE_SIZE = 32


class Transformers:
    """The actions of this side; a job's fields are those of infer_ours.py."""

    def __init__(self, folder: str):
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        self._model.generation_config.eos_token_id = None  # every request runs to its limit
        self._sessions = itertools.count()

    @torch.no_grad()
    def generate_padded(self, job: dict) -> dict:
        ids = []
        for batch, start in _batches(job):
            limits = job["limits"][start : start + job["slots"]]
            made = self._model.generate(
                **batch, max_new_tokens=max(limits), do_sample=False, pad_token_id=PAD_ID
            )
            new = made[:, batch["input_ids"].shape[1] :].tolist()
            ids += [row[:limit] for row, limit in zip(new, limits, strict=True)]
        return {"ids": ids}

    @torch.no_grad()
    def generate_continuous(self, job: dict) -> dict:
        session = next(self._sessions)
        names = [f"{session}/{i}" for i in range(len(job["prompts"]))]
        results = {}
        with self._model.continuous_batching_context_manager(
            generation_config=transformers.GenerationConfig(
                do_sample=False, eos_token_id=-1, pad_token_id=PAD_ID
            ),
            continuous_batching_config=_room(job),
            persistent_manager=True,  # its cache is made once, not in every turn
        ) as manager:
            for name, prompt, limit in zip(names, job["prompts"], job["limits"], strict=True):
                manager.add_request(prompt, request_id=name, max_new_tokens=limit)
            while len(results) < len(names):
                result = manager.get_result(timeout=1)
                if result is None and not manager.is_running():
                    sys.exit("transformers' continuous batching ended early: see its log above")
                if result is not None and result.is_finished():
                    results[result.request_id] = result
        failed = [r.error for r in results.values() if r.error is not None]
        if failed:
            sys.exit(f"transformers' continuous batching failed: {failed[0]}")
        return {"ids": [results[name].generated_tokens for name in names]}

    @torch.no_grad()
    def score(self, job: dict) -> dict:
        log_probs = []
        for batch, _ in _batches(job):
            positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            logits = self._model(
                **batch, position_ids=positions, logits_to_keep=1, use_cache=False
            ).logits
            log_probs += torch.log_softmax(logits[:, -1], -1)[:, job["choices"]].tolist()
        return {"log_probs": log_probs}


def _batches(job: dict) -> Iterator[tuple[dict, int]]:
    """Yields (prompts of a batch padded on the left, index of its first), in the job's order."""
    for start in range(0, len(job["prompts"]), job["slots"]):
        prompts = job["prompts"][start : start + job["slots"]]
        width = max(map(len, prompts))
        pads = [width - len(prompt) for prompt in prompts]
        rows = [[PAD_ID] * pad + prompt for pad, prompt in zip(pads, prompts, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in pads]
        yield {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}, start


def _room(job: dict) -> transformers.ContinuousBatchingConfig:
    """Returns a cache that holds as many requests as there are slots, whatever their length."""
    longest = max(len(p) + n for p, n in zip(job["prompts"], job["limits"], strict=True))
    return transformers.ContinuousBatchingConfig(
        page_size=PAGE_SIZE,
        num_blocks=job["slots"] * -(-longest // PAGE_SIZE),
        max_batch_tokens=job["slots"] * max(map(len, job["prompts"])),
        max_requests_per_batch=job["slots"],
    )


def main() -> None:
    side = Transformers(json.loads(sys.argv[1])["folder"])
    actions = {
        "generate_padded": side.generate_padded,
        "generate_continuous": side.generate_continuous,
        "score": side.score,
    }
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    paired.serve({"versions": versions}, paired.timed(actions))


if __name__ == "__main__":
    main()
