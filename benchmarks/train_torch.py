"""The other side of `make bench-train`: torch and transformers, with torch.compile.

Runs in an environment of its own (`.venv-peers`) and speaks as train_ours.py does.
"""

import json
import resource
import sys
import time

import paired
import torch
import transformers


def main() -> None:
    case = json.loads(sys.argv[1])
    rows, length, llama, optimizer = (case[k] for k in ("rows", "length", "llama", "optimizer"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = transformers.LlamaConfig(
        vocab_size=llama["vocab_size"],
        hidden_size=llama["embed_dim"],
        num_hidden_layers=llama["num_layers"],
        num_attention_heads=llama["num_heads"],
        num_key_value_heads=llama["num_kv_heads"],
        head_dim=llama["head_dim"],
        intermediate_size=llama["mlp_dim"],
        max_position_embeddings=llama["max_length"],
        tie_word_embeddings=llama["tie_embeddings"],
        use_cache=False,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(device)
    if case["remat"] != "none":
        model.gradient_checkpointing_enable()
    adamw = torch.optim.AdamW(
        model.parameters(),
        lr=optimizer["learning_rate"],
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.1,
        fused=True,
    )
    compiled = torch.compile(model, dynamic=False)
    tokens = torch.randint(0, llama["vocab_size"], (rows, length), device=device)
    half = case["dtype"] == "bfloat16"

    def step() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = compiled(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return loss.detach()

    def work(job: dict) -> dict:
        began = time.perf_counter()
        for _ in range(job["steps"]):
            loss = step()
        loss = loss.item()
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if device == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        return {"seconds": seconds, "loss": loss, "peak_mib": peak}

    kernels = [torch.nn.attention.SDPBackend.CUDNN_ATTENTION] if device == "cuda" else []
    began = time.perf_counter()
    with torch.nn.attention.sdpa_kernel(kernels) if kernels else torch.enable_grad():
        loss = step().item()
        paired.serve({"ready": time.perf_counter() - began, "loss": loss}, work)


if __name__ == "__main__":
    main()
