"""What a training run has told under T5X's names; free of TensorFlow.

<model dir>/train/metrics.jsonl                  the steps
<model dir>/training_eval/<task>/metrics.jsonl   the loss on pairs that are not trained on
"""

import json

from etils import epath

METRICS_NAME = "metrics.jsonl"
TRAIN = "train"


def eval_folder(task: str) -> str:
    """Returns where in the model directory the evaluation of a task during training lies."""
    return f"training_eval/{task}"


def read_metrics(model_dir: epath.PathLike, folder: str = TRAIN) -> list[dict[str, float]]:
    """Returns the lines of a log of a training run, none if there is no such file."""
    path = epath.Path(model_dir) / folder / METRICS_NAME
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
