"""The TPU slice that a plan is for."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError
from humpback_jax.hardware import CHIPS, TPU_COMPILER_OPTIONS, Chip

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16",
    "16x16x16",
)  # fmt: skip
SHAPES: dict[str, tuple[str, ...]] = {
    "v4": _CUBES[:7],
    "v5e": _FLAT,
    "v5p": _CUBES,
    "v6e": _FLAT,
    "tpu7x": _CUBES[:8],
}


# Chips of one virtual machine; slices of v5e and v6e of up to 8 chips are one.
_CHIPS_PER_HOST = 4
_CHIPS_OF_ONE_HOST = {"v5e": 8, "v6e": 8}


@configurable
@dataclasses.dataclass(frozen=True)
class Topology:
    """One TPU slice, or several alike.

    Attributes:
      kind: "v4", "v5e", "v5p", "v6e" or "tpu7x".
      shape: chips along each axis of a slice, "4x4" or "2x2x4".
      slices: how many such slices; the data-centre network joins them.
      trains: whether models are trained on it; if not, it is for augment, curate and evaluate.
      price_per_chip_hour: in any currency; 0 prints no money.
      compiler_options: the TPU compiler's flags; a run gets the same from LIBTPU_INIT_ARGS.
    """

    kind: str
    shape: str
    slices: int = 1
    trains: bool = True
    price_per_chip_hour: float = 0.0
    compiler_options: dict[str, str] = dataclasses.field(
        default_factory=lambda: dict(TPU_COMPILER_OPTIONS)
    )

    def __post_init__(self):
        if self.kind not in SHAPES:
            raise UsageError(
                f"Topology.kind = {self.kind!r} is no TPU that can be planned for: choose one of "
                f"{', '.join(SHAPES)}"
            )
        if self.shape not in SHAPES[self.kind]:
            raise UsageError(
                f"Topology.shape = {self.shape!r} is no slice of {self.kind}: choose one of "
                f"{', '.join(SHAPES[self.kind])}"
            )
        if self.slices < 1 or self.price_per_chip_hour < 0:
            raise UsageError(
                f"Topology has {self.slices} slices at {self.price_per_chip_hour} a chip and hour: "
                "give at least 1 slice and no negative price"
            )

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Chips along each axis of one slice."""
        return tuple(map(int, self.shape.split("x")))

    @property
    def chips(self) -> int:
        return math.prod(self.dimensions) * self.slices

    @property
    def name(self) -> str:
        """The public name, "v4-128": v4, v5p and tpu7x are counted in TensorCores, two a chip."""
        count = math.prod(self.dimensions) * self.chip.cores_per_chip
        return f"{self.kind}-{count}" + (f" x {self.slices}" if self.slices > 1 else "")

    @property
    def accelerator_type(self) -> str:
        """The name of one slice to Google Cloud, "v5litepod-16" or "v4-128"."""
        count = math.prod(self.dimensions) * self.chip.cores_per_chip
        return f"{'v5litepod' if self.kind == 'v5e' else self.kind}-{count}"

    @property
    def hosts(self) -> int:
        """Virtual machines of one slice, as Cloud TPU makes them."""
        chips = math.prod(self.dimensions)
        if chips <= _CHIPS_OF_ONE_HOST.get(self.kind, 0):
            return 1
        return chips // _CHIPS_PER_HOST

    @property
    def num_devices(self) -> int:
        """JAX devices of all slices together."""
        return self.chips * self.chip.devices_per_chip

    def describe(self) -> str:
        """Returns "v4-128 (64 chips, 4x4x4)"."""
        return f"{self.name} ({self.chips} chips, {self.shape})"

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Which axes of a slice close to a ring: v5e's and v6e's at 16 chips, others' at 4, 8 .."""
        if self.kind in ("v5e", "v6e"):
            return tuple(n == 16 for n in self.dimensions)
        return tuple(n % 4 == 0 for n in self.dimensions)

    def devices(self) -> Sequence[Any]:
        """Returns the slice's JAX devices, which can be compiled for and nothing else.

        It needs libtpu and the environment that `launch.plan.worker` is started in.
        """
        from jax.experimental import topologies

        options: dict[str, Any] = {"num_slices": self.slices} if self.slices > 1 else {}
        if self.kind in ("v4", "v5p"):
            options["chip_config_name"] = "megacore"  # else each of its two cores is a device
        if self.shape == "1x1":
            options["chips_per_host_bounds"] = (1, 1, 1)
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{self.kind}:{self.shape}", **options
        )
        return described.devices


def bound_or_none() -> Topology | None:
    """Returns the topology that the gin files bind, under the scope at hand; None without one."""
    try:
        return Topology()  # pyright: ignore
    except TypeError:
        return None


def bound() -> Topology:
    """Returns the topology that the gin files bind, under the scope at hand.

    Raises:
      UsageError: they bind none.
    """
    found = bound_or_none()
    if found is None:
        raise UsageError(
            "the gin files name no TPU slice: add one, as --gin_file=meshes/v5e_16.gin, or bind "
            "Topology.kind and Topology.shape"
        )
    return found
