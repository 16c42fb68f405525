"""Remakes stories260K_greedy.npz: what transformers generates greedily, one prompt at a time.

Needs torch, transformers and ../shared/models/stories260K. Prompts are random ids. A prompt whose
best two logits ever come closer than MIN_GAP is left out, since another order of summation may then
choose the other token: float32 logits of this model are up to 2e-5 off.
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
STORIES = HERE.parents[2] / "shared" / "models" / "stories260K"
PROMPTS, LONGEST, NEW_TOKENS = 200, 40, 32
MIN_GAP = 1e-4
# The model closes a story with BOS and seldom writes its EOS, so both end a prompt here.
STOP_IDS = (1, 2)
FIRST_ORDINARY_ID = 3


def greedy(model: torch.nn.Module, prompt: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns (new ids, the stop id included where there is one; the smallest gap on the way)."""
    made = model.generate(
        torch.tensor(prompt, dtype=torch.long)[None],
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=list(STOP_IDS),
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.topk(torch.cat(made.logits), 2).values
    return made.sequences[0, len(prompt) :].numpy(), float((best[:, 0] - best[:, 1]).min())


def padded(rows: list[np.ndarray], width: int) -> np.ndarray:
    """Returns [rows, width] int16, padded with -1."""
    table = np.full((len(rows), width), -1, np.int16)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return table


def main() -> None:
    """Writes the golden beside this file."""
    if not STORIES.is_dir():
        sys.exit(f"no {STORIES}: put the model there to remake its goldens")
    model = transformers.AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
    random = np.random.default_rng(0)
    prompts, outputs, gaps, left_out = [], [], [], []
    while len(prompts) < PROMPTS:
        length = random.integers(1, LONGEST + 1)
        prompt = random.integers(FIRST_ORDINARY_ID, model.config.vocab_size, length)
        output, gap = greedy(model, prompt)
        if gap < MIN_GAP:
            left_out.append(gap)
            continue
        prompts.append(prompt)
        outputs.append(output)
        gaps.append(gap)
    np.savez_compressed(
        HERE / "stories260K_greedy.npz",
        prompts=padded(prompts, LONGEST),
        outputs=padded(outputs, NEW_TOKENS),
        stop_ids=np.array(STOP_IDS),
    )
    stopped = sum(int(output[-1] in STOP_IDS) for output in outputs)
    print(
        f"{len(prompts)} prompts, {stopped} stopped, smallest gap {min(gaps):.1e}; "
        f"{len(left_out)} left out with a gap under {MIN_GAP}: {left_out}"
    )


if __name__ == "__main__":
    main()
