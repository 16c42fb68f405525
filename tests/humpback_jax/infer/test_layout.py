import jax
import numpy as np
from flax import linen as nn
from small_llama import SMALL

from humpback_jax.infer import layout
from humpback_jax.models.init import init_params
from humpback_jax.models.llama import Llama


def _params():
    return nn.unbox(jax.jit(lambda: init_params(SMALL, jax.random.key(0)))())


def _orders(params):
    return {
        name: leaf.format.layout.major_to_minor
        for part in ("attention", "mlp")
        for name, leaf in params["layers"][part].items()
    }


def test_weights_are_kept_as_they_are_but_on_a_tpu():
    params = _params()
    assert layout.lay_out(params) is params


def test_a_tpu_gets_its_order_one_array_at_a_time_and_the_model_is_the_same(monkeypatch):
    params = _params()
    tokens = np.arange(10)[None]
    expected, _ = jax.jit(Llama(SMALL).apply)({"params": params}, tokens, tokens)
    before = jax.tree.map(np.array, params)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    moved = layout.lay_out(params)
    assert params["layers"]["attention"]["query"].is_deleted()
    assert not params["layers"]["mlp"]["gate"].is_deleted()  # it lay well already
    assert _orders(moved) == {
        "query": (0, 2, 1, 3), "key": (0, 2, 1, 3), "value": (0, 2, 1, 3), "out": (0, 1, 2, 3),
        "gate": (0, 1, 2), "up": (0, 1, 2), "down": (0, 1, 2),
    }  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, moved, before)
    monkeypatch.undo()
    again, _ = jax.jit(Llama(SMALL).apply)({"params": moved}, tokens, tokens)
    np.testing.assert_allclose(again, expected, atol=1e-6)
