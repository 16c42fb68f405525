"""Our LLaMA under stock `t5x.train` and `t5x.infer`; docs/t5x.md says how.

What gin_configs/t5x/*.gin bind: `llama_model` is T5X's MODEL, `optimizer` its OPTIMIZER,
`learning_rate` the schedule that the Trainer logs, `base_initializer` the start from a base model.
T5X is not installed with this package, so it is imported when one of these is called.

T5X keeps the KV cache in flax variables. Ours is passed in and out of the model, so here it is a
plain dict between the two: {"cached_key", "cached_value" [L, B, S, K, H], "cache_index" [1, B]}.
Layers come first, as in T5X's own scanned models: it then leaves the leading axis alone.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import core, traverse_util
from flax import linen as nn
from flax.linen import partitioning as flax_partitioning
from jaxtyping import Array, Float, Int

from humpback_jax.checkpoints import bundle, importing, orbax
from humpback_jax.errors import UsageError, UserError
from humpback_jax.models.cache import KVCache
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import abstract_params, flatten, init_params
from humpback_jax.models.llama import Llama
from humpback_jax.train.optimizer import OptimizerConfig, make_optimizer, make_schedule

Batch = Mapping[str, jax.Array]
NEVER = -1e9  # the logit of padding, which T5X counts to the vocabulary


@dataclasses.dataclass(frozen=True)
class ScannedLlama:
    """What T5X wants to know of a model's module: its layers are one scan."""

    config: LlamaConfig
    scan_layers: bool = True


class LlamaMethods:
    """What a T5X model has to say for itself; mixed into `t5x.models.DecoderOnlyModel`.

    Ids of the batch are those of the vocabulary; where it counts from 1 so that 0 is padding (see
    TokenizerVocabulary), embedding row i is id i + 1.
    """

    module: ScannedLlama
    output_vocabulary: Any

    def get_initial_variables(
        self,
        rng: jax.Array,
        input_shapes: Mapping[str, Any],
        input_types: Mapping[str, Any] | None = None,
    ) -> core.FrozenDict:
        """Returns fresh "params", and "params_axes" with the logical axes of each."""
        del input_shapes, input_types  # parameters do not depend on the batch
        boxed = init_params(self.module.config, rng)
        flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(
            boxed, is_leaf=lambda _, x: isinstance(x, nn.LogicallyPartitioned)
        )
        axes = {
            (*path[:-1], f"{path[-1]}_axes"): flax_partitioning.AxisMetadata(names=box.names)
            for path, box in flat.items()
        }
        tree = {"params": nn.unbox(boxed), "params_axes": traverse_util.unflatten_dict(axes)}
        return core.freeze(tree)

    def _compute_logits(
        self,
        params: Any,
        batch: Batch,
        dropout_rng: jax.Array | None = None,
        mutable: Any = False,
        other_variables: Any = None,
    ) -> Any:
        """Returns the logits [B, T, V] of a batch, packed or not; with `mutable`, (logits, {})."""
        del other_variables
        tokens = batch["decoder_input_tokens"]
        positions = batch.get("decoder_positions")
        logits, _ = self._apply(
            params,
            tokens,
            _all_positions(tokens) if positions is None else positions,
            batch.get("decoder_segment_ids"),
            deterministic=dropout_rng is None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        )
        return (logits, {}) if mutable else logits

    def _compute_kv_cache(
        self, params: Any, inputs: Int[Array, "B T"], causal_attention_mask: Any
    ) -> tuple[dict[str, jax.Array], Int[Array, " B"]]:
        """Returns (the cache of the prompts, the index of each prompt's last token).

        Prompts begin with BOS and are padded on the right. What lies behind a prompt is written
        into the cache as well, and overwritten before anything attends to it.
        """
        del causal_attention_mask
        last = jnp.sum(inputs[:, 1:] != 0, axis=-1)
        cache = KVCache.zeros(self.module.config, inputs.shape[0], inputs.shape[1])
        _, cache = self._apply(params, inputs, _all_positions(inputs), cache=cache)
        return _to_t5x(cache, last[None]), last

    def _compute_logits_from_slice(
        self, decoding_state: Any, params: Any, max_decode_length: int
    ) -> tuple[Float[Array, "B V"], dict[str, jax.Array]]:
        """Returns (the logits after each row's current token, the cache with that token)."""
        del max_decode_length
        state = decoding_state.cache
        index = state["cache_index"]
        cache = KVCache(state["cached_key"], state["cached_value"])
        positions = index.reshape(-1, 1)  # a beam search has [1, B, beams]
        logits, cache = self._apply(params, decoding_state.cur_token, positions, cache=cache)
        return logits[:, 0], _to_t5x(cache, index + 1)

    def _apply(
        self, params: Any, tokens: Int[Array, "B T"], *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Calls the model with its own ids; returns logits over the vocabulary's."""
        offset = _offset(self.output_vocabulary)
        llama = Llama(self.module.config)
        tokens = jnp.maximum(tokens - offset, 0)
        logits, cache = llama.apply({"params": params}, tokens, *args, **kwargs)
        widths = ((0, 0), (0, 0), (offset, 0))
        return jnp.pad(logits, widths, constant_values=NEVER), cache  # pyright: ignore


def _offset(vocabulary: Any) -> int:
    return getattr(vocabulary, "offset", 0)


def _all_positions(tokens: Int[Array, "B T"]) -> Int[Array, "B T"]:
    return jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)


def _to_t5x(cache: KVCache, index: jax.Array) -> dict[str, jax.Array]:
    return {"cached_key": cache.keys, "cached_value": cache.values, "cache_index": index}


def _t5x(module: str) -> Any:
    """Imports a module of T5X; raises UserError where T5X is not installed."""
    try:
        return importlib.import_module(f"t5x.{module}")
    except ImportError as error:
        raise UserError(
            f"t5x.{module} cannot be imported ({error}): install T5X as docs/t5x.md says"
        ) from error


def llama_model(
    config: LlamaConfig,
    vocabulary: Any,
    optimizer_def: Any,
    *,
    dropout_rate: float = 0.0,
    decode_fn: Callable[..., Any] | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    loss_normalizing_factor: Any = None,
) -> Any:
    """Returns our LLaMA as a T5X model, which T5X's gin files call MODEL.

    Args:
      config: its shape; parameters are float32, as T5X trains.
      vocabulary: a TokenizerVocabulary; its BOS begins every row.
      optimizer_def: a T5X optimizer.
      dropout_rate: in training.
      decode_fn: of t5x.decoding; None is its temperature sampling.
      label_smoothing: as in T5X; 0 where the vocabulary counts from 1.
      z_loss: as in T5X.
      loss_normalizing_factor: as in T5X, whose default, None, makes the loss a sum over tokens.

    Raises:
      UserError: T5X is not installed.
      UsageError: the vocabulary does not fit the model, or label smoothing the vocabulary.
    """
    models = _t5x("models")
    offset = _offset(vocabulary)
    if vocabulary.vocab_size - offset > config.vocab_size:
        raise UsageError(
            f"the vocabulary has {vocabulary.vocab_size - offset} pieces, the model only "
            f"{config.vocab_size} embeddings: bind VOCABULARY and LlamaConfig to the same folder"
        )
    if label_smoothing and offset:
        raise UsageError(
            f"LABEL_SMOOTHING is {label_smoothing}, but T5X would smooth over the padding id of "
            "this vocabulary as well: set it to 0.0"
        )
    config = dataclasses.replace(config, param_dtype="float32", dropout_rate=dropout_rate)
    cls: Any = type("LlamaModel", (LlamaMethods, models.DecoderOnlyModel), {})
    converter = models.DecoderOnlyModel.FEATURE_CONVERTER_CLS
    return cls(
        module=ScannedLlama(config),
        vocabulary=vocabulary,
        optimizer_def=optimizer_def,
        feature_converter_cls=functools.partial(converter, bos_id=vocabulary.bos_id),
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        loss_normalizing_factor=loss_normalizing_factor,
        **({} if decode_fn is None else {"decode_fn": decode_fn}),
    )


def folder_config(
    folder: epath.PathLike, dtype: str = "float32", remat: str = "none"
) -> LlamaConfig:
    """Returns the configuration of a model folder of ours, of Hugging Face or of Meta.

    Args:
      folder: of the model.
      dtype: of the computation.
      remat: of LlamaConfig.
    """
    if (epath.Path(folder) / bundle.CARD_NAME).exists():
        config = bundle.read_card(folder).config
    else:
        config = importing.open_folder(folder)[0].config
    # T5X's mesh is not the one under which Pallas kernels are split.
    return dataclasses.replace(config, dtype=dtype, remat=remat, attention="xla")


def optimizer(config: OptimizerConfig, train_steps: int) -> Any:
    """Returns our AdamW, its schedule inside, as a T5X optimizer."""
    return _t5x("optimizers").OptaxWrapper(make_optimizer(config, train_steps))


def learning_rate(config: OptimizerConfig, train_steps: int) -> Callable[[Any], Any]:
    """Returns the schedule of `optimizer`, for the Trainer to log: it is not used otherwise."""
    return make_schedule(config, train_steps)


def base_initializer(folder: epath.PathLike) -> Callable[..., Any]:
    """Returns T5X's TrainStateInitializer whose fresh state has the weights of a model folder.

    A checkpoint in MODEL_DIR goes first, as always, so that a training that is started again
    resumes. Each process reads what its own devices hold.

    Args:
      folder: of ours, of Hugging Face or of Meta.
    """
    utils = _t5x("utils")

    class BaseInitializer(utils.TrainStateInitializer):
        def from_scratch(self, init_rng: jax.Array) -> Any:
            state = super().from_scratch(init_rng)
            return state.replace_params(core.freeze(read_params(folder, state.params)))

    return BaseInitializer


def read_params(folder: epath.PathLike, like: Any) -> dict[str, Any]:
    """Returns the parameters of a model folder with the dtypes and shardings of others.

    Args:
      folder: of ours, of Hugging Face or of Meta.
      like: arrays, or ShapeDtypeStructs with shardings.

    Raises:
      UserError: the folder's model has another shape.
    """
    folder = epath.Path(folder)
    targets = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), core.unfreeze(like)
    )
    if (folder / bundle.CARD_NAME).exists():
        return orbax.restore_params(folder / bundle.read_card(folder).checkpoint, targets)
    model, _ = importing.open_folder(folder)
    shapes = [
        {name: leaf.shape for name, leaf in flatten(tree).items()}
        for tree in (targets, abstract_params(model.config))
    ]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{folder} is of another model ({model.config.num_parameters:,} parameters) than the "
            "one to be trained: bind BASE once, for both"
        )
    return model.params(targets)
