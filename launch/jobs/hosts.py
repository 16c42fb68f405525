"""A subcommand on the hosts of a pod, each of which runs it."""

from collections.abc import Sequence

from humpback_jax.errors import UsageError

_TRAINING = ("train", "pretrain", "base")
_INFERENCE = ("augment", "curate")


def on_hosts(humpback: Sequence[str], hosts: int, where: str) -> tuple[str, ...]:
    """Returns the arguments of the process of each host.

    Args:
      humpback: the arguments of the subcommand alone.
      hosts: on how many it is to run.
      where: they are, for the error.

    Raises:
      UsageError: it is a subcommand that one process must do.
    """
    if hosts == 1:
        return tuple(humpback)
    command = humpback[0]
    if command not in (*_TRAINING, *_INFERENCE):
        raise UsageError(
            f"`humpback {command}` is one process and {where} has {hosts} hosts: launch the stages "
            f"one by one ({', '.join((*_TRAINING, *_INFERENCE))}), or choose a slice of one host"
        )
    engine = () if command in _TRAINING or _has_engine(humpback) else ("--engine=pod",)
    return (*humpback, *engine, "--distributed")


def _has_engine(humpback: Sequence[str]) -> bool:
    return any(argument.split("=")[0] == "--engine" for argument in humpback)
