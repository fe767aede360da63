"""Layers in stages on different devices: the numbers of one device, and what is moved for them."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.config import replace
from jaxgpt.errors import ConfigError
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig, make_cache
from jaxgpt.model.layer_stack import Scanned, Unrolled
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.layers.projection import Dropout
from jaxgpt.model.pipeline import Pipelined
from jaxgpt.model.remat import FullRemat, NoRemat, Remat
from jaxgpt.parallel.mesh import MeshConfig, make_mesh

VOCAB_SIZE = 60
ROWS = 8
CONFIG = GptConfig(
    num_layers=4,
    d_model=16,
    attention=GroupedQueryAttention(num_heads=2, num_kv_heads=1, windows=(None, 3)),
    feed_forward=SwiGlu(hidden=32),
    vocab_multiple=4,
)
TOKENS = jax.random.randint(jax.random.key(1), (ROWS, 8), 3, VOCAB_SIZE)
# Another division into documents in each row, and padding.
SEGMENTS = jnp.asarray([[1] * first + [2] * (6 - first) + [0] * 2 for first in range(1, 7)] * 2)[
    :ROWS
]


@pytest.fixture(scope="module")
def params() -> Any:
    return nn.unbox(CONFIG.build(VOCAB_SIZE).init(jax.random.key(0), TOKENS)["params"])


@pytest.fixture(scope="module")
def expected(params: Any) -> Any:
    return _gradient(CONFIG)(params, TOKENS, SEGMENTS)


def _gradient(config: GptConfig, seed: int | None = None) -> Any:
    model = config.build(VOCAB_SIZE)

    def loss(params: Any, tokens: jax.Array, segments: jax.Array) -> jax.Array:
        rngs = None if seed is None else {"dropout": jax.random.key(seed, impl="rbg")}
        logits, _ = model.apply(
            {"params": params}, tokens, segments, deterministic=seed is None, rngs=rngs
        )
        return jnp.sum(jnp.square(logits[..., :VOCAB_SIZE]))

    return jax.jit(jax.value_and_grad(loss))


def _place(params: Any, mesh: Mesh) -> Any:
    def place(path: Any, leaf: jax.Array) -> jax.Array:
        axes = ("pipeline",) if path[0].key == "blocks" else ()
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

    return jax.tree_util.tree_map_with_path(place, params)


def _rows(mesh: Mesh) -> Any:
    sharding = NamedSharding(mesh, PartitionSpec(("data", "pipeline")))
    return jax.device_put((TOKENS, SEGMENTS), sharding)


@pytest.mark.parametrize(
    ("layers", "remat"),
    [
        (Pipelined(num_micro_batches=4), NoRemat()),
        pytest.param(
            Pipelined(num_micro_batches=1, stage=Unrolled()), NoRemat(), marks=pytest.mark.slow
        ),
        pytest.param(Pipelined(num_micro_batches=8), FullRemat(), marks=pytest.mark.slow),
    ],
)
def test_stages_compute_what_one_device_does(
    params: Any, expected: Any, layers: Pipelined, remat: Remat
) -> None:
    config = replace(CONFIG, layers=layers, remat=remat)
    mesh = make_mesh(MeshConfig(pipeline=2, data=-1))
    with jax.set_mesh(mesh):
        loss, gradient = _gradient(config)(_place(params, mesh), *_rows(mesh))
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected[1]), strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


def test_a_device_holds_its_stage_and_hands_on_rows(params: Any) -> None:
    mesh = make_mesh(MeshConfig(pipeline=2, data=1), jax.devices()[:2])
    config = replace(CONFIG, layers=Pipelined(num_micro_batches=2))
    with jax.set_mesh(mesh):
        placed = _place(params, mesh)
        compiled = _gradient(config).lower(placed, *_rows(mesh)).compile()
    text = compiled.as_text()
    assert re.search(r"collective-permute(-start)?\(", text)
    # No stage's parameters travel: every gathered array is smaller than a kernel of the stage.
    kernel = placed["blocks"]["feed_forward"]["gate"]["kernel"]
    assert kernel.addressable_shards[0].data.nbytes * 2 == kernel.nbytes
    gathered = re.findall(r"= \w+\[([\d,]*)\][^=]* all-gather(?:-start)?\(", text)
    sizes = [int(np.prod([int(size) for size in shape.split(",") if size])) for shape in gathered]
    assert max(sizes, default=0) < kernel.size


def test_each_micro_batch_drops_other_units(params: Any) -> None:
    """Equal rows in different micro-batches differ, unlike without dropout."""
    config = replace(CONFIG, layers=Pipelined(num_micro_batches=2), dropout=Dropout(residual=0.5))
    model = config.build(VOCAB_SIZE)
    tokens = jnp.broadcast_to(TOKENS[:1], (2, 8))

    def apply(params: Any, tokens: jax.Array, deterministic: bool) -> jax.Array:
        rngs = {"dropout": jax.random.key(0, impl="rbg")}
        return model.apply({"params": params}, tokens, deterministic=deterministic, rngs=rngs)[0]

    mesh = make_mesh(MeshConfig(pipeline=2, data=1), jax.devices()[:2])
    with jax.set_mesh(mesh):
        placed = _place(params, mesh)
        run = jax.jit(apply, static_argnums=2)
        same, dropped = run(placed, tokens, True), run(placed, tokens, False)
    np.testing.assert_array_equal(same[0], same[1])
    assert np.abs(dropped[0] - dropped[1]).max() > 1e-3


def test_with_a_cache_the_layers_run_in_turn(params: Any) -> None:
    config = replace(CONFIG, layers=Pipelined(num_micro_batches=8))
    mesh = make_mesh(MeshConfig(pipeline=2, data=1), jax.devices()[:2])
    tokens = TOKENS[:1]
    whole, _ = CONFIG.build(VOCAB_SIZE).apply({"params": params}, tokens)
    with jax.set_mesh(mesh):
        cache = make_cache(config, 1, 8)
        model = config.build(VOCAB_SIZE)
        logits, _ = jax.jit(model.apply)({"params": _place(params, mesh)}, tokens, cache=cache)
    np.testing.assert_allclose(logits, whole, rtol=1e-4, atol=1e-5)


def test_layers_that_do_not_divide_into_stages_are_refused() -> None:
    model = replace(CONFIG, num_layers=6, layers=Pipelined(num_micro_batches=2)).build(VOCAB_SIZE)
    mesh = make_mesh(MeshConfig(pipeline=2, data=1), jax.devices()[:2])
    with jax.set_mesh(mesh):
        params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"])
        with pytest.raises(ConfigError, match="6 layers in patterns of 2 do not divide into 2"):
            jax.eval_shape(lambda params: model.apply({"params": params}, TOKENS), params)


def test_rows_that_do_not_divide_and_layers_that_pass_none_on_are_refused() -> None:
    sizes = {"pipeline": 2, "data": 2, "fsdp": 1, "expert": 1}
    Pipelined(num_micro_batches=4).check(sizes, 8, num_layers=4, pattern_length=2)
    with pytest.raises(ConfigError, match="a multiple of 8"):
        Pipelined(num_micro_batches=4).check(sizes, 12, num_layers=4, pattern_length=2)
    with pytest.raises(ConfigError, match="6 layers in patterns of 2 do not divide into 2"):
        Pipelined(num_micro_batches=4).check(sizes, 8, num_layers=6, pattern_length=2)
    with pytest.raises(ConfigError, match=r"mesh.pipeline=2 .* use Pipelined"):
        Scanned().check(sizes, 8, num_layers=4, pattern_length=2)
