"""The places by name, and which bindings a stage's place has."""

from launch.jobs.command import Place
from launch.jobs.dataflow import Dataflow
from launch.jobs.flink import Flink
from launch.jobs.local import Local
from launch.jobs.tpu_vm import TpuVm
from launch.jobs.xpk import Xpk

PLACES: dict[str, type[Place]] = {
    "local": Local,
    "tpu-vm": TpuVm,
    "xpk": Xpk,
    "dataflow": Dataflow,
    "flink": Flink,
}

_GROUPS = {"segment": "segment", "augment": "augment", "evaluate": "evaluate"}


def group_of(stage: str) -> str:
    """Returns the group of a stage, whose name is the scope of its place: "train" for "M1"."""
    if stage.startswith("curate") and stage.removeprefix("curate").isdigit():
        return "curate"
    if stage in ("world", "seed", "report"):
        return "rest"
    return _GROUPS.get(stage, "train")
