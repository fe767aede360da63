"""The norm's kernels for GPUs, interpreted: norms and gradients of plain JAX."""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.model.layers.norm_kernel import NORM, NORM_GRADIENT, rows_of_program
from jaxgpt.model.layers.norms import LayerNorm, Norm, RmsNorm
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh
from jaxgpt.runtime.target import CompileTarget, compiling_for
from tests.model.tiny_model import PLAIN

INTERPRETED = CompileTarget(platform="gpu", interprets_kernels=True)
PLAIN_GPU = CompileTarget(platform="gpu")


class Case(NamedTuple):
    """A norm and the shape of its input."""

    norm: Norm
    shape: tuple[int, int, int]


CASES = {
    # 75 rows are nine programs of 8 and a part of a tenth one; 96 columns stand in 128.
    "several programs": Case(LayerNorm(eps=1e-3), (3, 25, 96)),
    "no bias": Case(LayerNorm(use_bias=False), (2, 3, 64)),
    "rms": Case(RmsNorm(offset=1.0), (1, 7, 33)),
}


def _layer(case: Case, dtype: Any) -> Any:
    settings = type(PLAIN.settings)(**{**vars(PLAIN.settings), "compute_dtype": dtype})
    return case.norm.build(case.shape[-1], "norm", settings, "norm")


def _inputs(case: Case, dtype: Any) -> tuple[Any, jax.Array]:
    """Parameters, and numbers far from zero, one of each row far from the others."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = (5 + 3 * jax.random.normal(keys[0], case.shape)).at[..., 0].set(30.0).astype(dtype)
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(keys[1], leaf.shape),
        nn.unbox(_layer(case, dtype).init(keys[2], x)),
    )
    return params, x


def _results(case: Case, dtype: Any) -> Any:
    """The input and its norm, and gradients of parameters and input."""
    layer, (params, x) = _layer(case, dtype), _inputs(case, dtype)
    weights = jax.random.normal(jax.random.key(5), (2, *case.shape))

    def objective(params: Any, x: jax.Array) -> Any:
        results = layer.apply(params, x, method="with_input")
        pulls = zip(weights, results, strict=True)
        return sum(jnp.sum(weight * y.astype(jnp.float32)) for weight, y in pulls), results

    run = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    (_, results), gradients = jax.jit(run)(params, x)
    return results, gradients


def _kernels(function: Any, *arguments: Any) -> list[int]:
    """How often the two kernels stand in what JAX makes of a function."""
    text = str(jax.make_jaxpr(function)(*arguments))
    return [text.count(f"name={name}\n") for name in (NORM, NORM_GRADIENT)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_give_the_norms_and_gradients_of_plain_jax(name: str, dtype: str) -> None:
    expected = _results(CASES[name], dtype)
    with compiling_for(INTERPRETED):
        found = _results(CASES[name], dtype)
        assert _kernels(lambda: _results(CASES[name], dtype)) == [1, 1]
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        distance = np.linalg.norm(one - other) / np.linalg.norm(other)
        # Plain JAX rounds each term of a gradient to bfloat16, the kernel their sum.
        assert distance <= (1e-5 if dtype == "float32" else 2**-7)


def test_the_norm_alone_has_the_gradients_of_plain_jax() -> None:
    case = CASES["several programs"]
    layer, (params, x) = _layer(case, "float32"), _inputs(case, "float32")

    def gradients() -> Any:
        run = jax.grad(lambda params, x: jnp.sum(jnp.sin(layer.apply(params, x))), (0, 1))
        return run(params, x)

    expected = gradients()
    with compiling_for(INTERPRETED):
        found = gradients()
        assert NORM_GRADIENT in str(jax.make_jaxpr(lambda: gradients())())
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_one_kernel_a_pass_and_none_without_a_gradient() -> None:
    case = CASES["rms"]
    layer, (params, x) = _layer(case, "float32"), _inputs(case, "float32")

    def run(x: jax.Array) -> jax.Array:
        x, y = layer.apply(params, x, method="with_input")
        return jnp.sum(x * y)

    with compiling_for(INTERPRETED):
        assert _kernels(run, x) == [0, 0]
        assert _kernels(jax.grad(run), x) == [1, 1]
    with compiling_for(PLAIN_GPU):
        assert _kernels(jax.grad(run), x) == [0, 0]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 3, 8193), "float32"), ((2, 3, 4, 8), "float32"), ((6, 8), "float32")]
)
def test_other_arrays_take_plain_jax(shape: tuple[int, ...], dtype: str) -> None:
    layer = replace(RmsNorm(), eps=1e-3).build(shape[-1], "norm", PLAIN.settings, "norm")
    x, apply = jnp.ones(shape, dtype), cast(Any, layer.apply)
    params = layer.init(jax.random.key(0), x)
    with compiling_for(INTERPRETED):
        text = str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(apply(params, x))))(x))
    assert "pallas_call" not in text


def _mesh() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(data=2, context=2, tensor=2), jax.devices()[:8])


def test_a_stage_of_a_pipeline_and_a_mesh_without_rules_take_plain_jax() -> None:
    case = CASES["rms"]._replace(shape=(4, 8, 32))
    layer, (params, x) = _layer(case, "float32"), _inputs(case, "float32")

    def gradient(x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(jnp.sin(layer.apply(params, x))))(x)

    with compiling_for(INTERPRETED), on_mesh(_mesh(), ShardingRules()):
        assert _kernels(gradient, x) == [1, 1]
        rows = jax.sharding.PartitionSpec("data")
        stage = jax.shard_map(gradient, in_specs=rows, out_specs=rows, axis_names={"data"})
        assert _kernels(stage, x) == [0, 0]
    with compiling_for(INTERPRETED), jax.set_mesh(_mesh()):
        # Another function: JAX does not trace one again because rules differ.
        assert _kernels(lambda x: gradient(x), x) == [0, 0]


@pytest.mark.parametrize("width", [256, 768, 2048, 4096, 8192])
def test_programs_of_the_gradient_keep_the_card_busy_where_there_are_rows_enough(
    width: int,
) -> None:
    warps = min(16, -(-width // 256))
    for num_tokens in (1, 100, 4096, 16_384, 65_536, 1_000_000):
        rows = rows_of_program(num_tokens, width)
        assert 8 <= rows <= 64, "sums are few"
        programs = -(-num_tokens // rows)
        # An H100 has 132 multiprocessors; a half of them would be idle with one program for two.
        assert rows == 8 or programs * warps > 132 * 16


def test_devices_that_share_rows_and_tokens_find_the_results_of_one() -> None:
    case = CASES["several programs"]._replace(shape=(4, 34, 96))
    expected = _results(case, "float32")
    with compiling_for(INTERPRETED), on_mesh(_mesh(), ShardingRules()):
        found = _results(case, "float32")
        assert _kernels(lambda: _results(case, "float32")) == [1, 1]
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
