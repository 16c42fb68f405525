"""A model in somebody else's files: its tensors checked by their headers, then read by slice."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from humpback_jax import partitioning
from humpback_jax.checkpoints.layouts import Place
from humpback_jax.checkpoints.stored import FLOATS, Index, Tensor
from humpback_jax.errors import UserError
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import abstract_params, boxed_params, flatten

LAYERS = "layers/"


@dataclasses.dataclass(frozen=True)
class ForeignModel:
    """A folder whose headers are read and whose tensors are the configuration's.

    Attributes:
      folder: where its files are.
      config: param_dtype is the widest dtype of its tensors, or the one that was asked for.
      eos_ids: what ends a generation; () if the folder does not say.
      tensors: by their names in the files.
      places: which tensor is which of our parameters.
      notes: what had to be decided without being told, a line each.
    """

    folder: epath.Path
    config: LlamaConfig
    eos_ids: tuple[int, ...]
    tensors: Mapping[str, Tensor]
    places: Mapping[str, Place]
    notes: tuple[str, ...] = ()

    def params(self, targets: Any) -> Any:
        """Returns the parameters, built one after the other straight onto their devices.

        Args:
          targets: the tree of ShapeDtypeStructs with shardings. Each process reads what its own
            devices are to hold; floats are cast to the targets' dtype.
        """
        return jax.tree_util.tree_map_with_path(
            lambda path, target: self._parameter("/".join(str(key.key) for key in path), target),
            targets,
        )

    def _parameter(self, name: str, target: jax.ShapeDtypeStruct) -> jax.Array:
        place = self.places[name]
        shards: dict[tuple, np.ndarray] = {}  # devices that hold the same are read once

        def read(index: Index | None) -> np.ndarray:
            assert index is not None
            index = tuple(
                slice(*s.indices(n)[:2]) for s, n in zip(index, target.shape, strict=True)
            )
            key = tuple((s.start, s.stop) for s in index)
            if key not in shards:
                out = np.empty([s.stop - s.start for s in index], target.dtype)
                self._read(name, place, index, out)
                shards[key] = out
            return shards[key]

        assert target.sharding is not None
        array = jax.make_array_from_callback(
            target.shape, target.sharding, read, dtype=target.dtype
        )
        # The host's copy is free before the next one is made.
        return jax.block_until_ready(array)

    def _read(self, name: str, place: Place, index: Index, out: np.ndarray) -> None:
        if not name.startswith(LAYERS):
            place.read(self.tensors[place.name], index, out)
            return
        for row, layer in enumerate(range(index[0].start, index[0].stop)):
            place.read(self.tensors[place.name.format(layer)], index[1:], out[row])


def check_tensors(
    folder: epath.Path,
    config: LlamaConfig,
    tensors: Mapping[str, Tensor],
    places: Mapping[str, Place],
    settings: str,
) -> None:
    """Raises UserError for a tensor that is missing, misshaped, of no float dtype, or too many.

    Args:
      folder: named in the message.
      config: what the tensors are to be.
      tensors: by name, without those that are known and ignored.
      places: which tensors there are to be.
      settings: the name of the file that the configuration is from.
    """
    assert places.keys() == flatten(abstract_params(config)).keys(), "a place for each parameter"
    left = dict(tensors)
    for ours, place in places.items():
        layers = range(config.num_layers) if ours.startswith(LAYERS) else (0,)
        for name in [place.name.format(layer) for layer in layers]:
            if name not in left:
                raise UserError(
                    f"{folder} has no tensor '{name}' {list(place.shape)}: the weights are "
                    f"incomplete, or {settings} is of another model"
                )
            tensor = left.pop(name)
            if tensor.shape != place.shape:
                raise UserError(
                    f"tensor '{name}' of {tensor.path} has the shape {list(tensor.shape)}, but "
                    f"{settings} wants {list(place.shape)}: they do not belong together"
                )
            if tensor.dtype not in FLOATS:
                raise UserError(
                    f"tensor '{name}' of {tensor.path} is none of {', '.join(FLOATS.values())}: "
                    "give the weights unquantized"
                )
    if left:
        name, tensor = min(left.items())
        others = f" and {len(left) - 1} more tensors" if len(left) > 1 else ""
        raise UserError(
            f"{folder} has the tensor '{name}' {list(tensor.shape)}{others} that the model of "
            f"{settings} does not have: they do not belong together"
        )


def settle_dtype(
    config: LlamaConfig, tensors: Mapping[str, Tensor], dtype: str | None
) -> tuple[LlamaConfig, tuple[str, ...]]:
    """Returns (the configuration with its param_dtype, notes about the choice).

    Args:
      config: of the model.
      tensors: its tensors, all floats.
      dtype: what was asked for; None takes the files', the widest if they are mixed.
    """
    if dtype is not None:
        return dataclasses.replace(config, param_dtype=dtype), ()
    found = sorted({FLOATS[np.dtype(t.dtype)] for t in tensors.values()})
    if len(found) == 1:
        return dataclasses.replace(config, param_dtype=found[0]), ()
    widest = str(jax.numpy.result_type(*found))
    note = f"the tensors are of {' and '.join(found)}: all become {widest}"
    return dataclasses.replace(config, param_dtype=widest), (note,)


def targets(config: LlamaConfig, mesh: jax.sharding.Mesh | None) -> Any:
    """Returns the parameters' ShapeDtypeStructs with the rules' shardings, or on one device."""
    plain = abstract_params(config)
    if mesh is None:
        alone = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: alone, plain)
    else:
        shardings = partitioning.tree_shardings(boxed_params(config), mesh)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        plain,
        shardings,
    )
