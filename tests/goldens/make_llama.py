"""Remakes the goldens of the parity tests; needs torch and transformers.

llama.npz         states after each layer and logits of transformers, for each variant
stories260K.npz   the same of ../shared/models/stories260K, where that is present
meta/<name>/      folders as Meta gives them, written by torch.save, and logits.npz, computed by
                  Meta's own form of the model: neighbours rotated as complex numbers
"""

import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import meta_variants  # noqa: E402
from llama_variants import POSITIONS, TOKENS, VARIANTS, write_folder  # noqa: E402

STORIES = HERE.parents[2] / "shared" / "models" / "stories260K"


def states_and_logits(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (residual stream after each layer [L, B, P, D], logits [B, P, V])."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    states = []

    def keep(module, arguments, output):
        states.append((output[0] if isinstance(output, tuple) else output)[:, POSITIONS].numpy())

    for layer in model.model.layers:
        layer.register_forward_hook(keep)
    with torch.no_grad():
        logits = model(torch.tensor(TOKENS, dtype=torch.long)).logits
    return np.stack(states), logits[:, POSITIONS].numpy()


def main() -> None:
    """Writes the goldens beside this file."""
    torch.manual_seed(0)
    goldens = {}
    for name in VARIANTS:
        folder = pathlib.Path(tempfile.mkdtemp())
        write_folder(name, folder)
        goldens[f"{name}/states"], goldens[f"{name}/logits"] = states_and_logits(folder)
        print(name, "logits up to", np.abs(goldens[f"{name}/logits"]).max())
    np.savez_compressed(HERE / "llama.npz", **goldens)
    if STORIES.is_dir():
        states, logits = states_and_logits(STORIES)
        np.savez_compressed(HERE / "stories260K.npz", states=states, logits=logits)
    for name in meta_variants.VARIANTS:
        folder = HERE / "meta" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        meta_variants.write_folder(name, folder)
        logits = meta_variants.logits(name, TOKENS % 24)
        np.savez_compressed(folder / "logits.npz", logits=logits[:, POSITIONS])
        print(name, json.dumps(meta_variants.VARIANTS[name]["params"]))


if __name__ == "__main__":
    main()
