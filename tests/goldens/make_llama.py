"""Remakes llama.npz, the logits of transformers for the variants; needs torch, transformers."""

import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from llama_variants import TOKENS, VARIANTS, write_folder


def main() -> None:
    """Writes the goldens beside this file."""
    logits = {}
    for name in VARIANTS:
        folder = pathlib.Path(tempfile.mkdtemp())
        write_folder(name, folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            output = model(torch.tensor(TOKENS, dtype=torch.long)).logits
        logits[name] = output[:, ::8].numpy()
    np.savez_compressed(pathlib.Path(__file__).parent / "llama.npz", **logits)


if __name__ == "__main__":
    main()
