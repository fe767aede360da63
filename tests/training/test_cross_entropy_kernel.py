"""The kernel of the loss for GPUs, interpreted: sums and gradients of the plain cross-entropy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.runtime.target import CompileTarget, compiling_for
from jaxgpt.training import cross_entropy_kernel
from jaxgpt.training.cross_entropy_kernel import (
    CROSS_ENTROPY,
    KernelSettings,
    with_gradient_kernel,
)
from jaxgpt.training.loss import cross_entropy

INTERPRETED = CompileTarget(platform="cpu", interprets_kernels=True)
VOCAB, PADDED = 100, 112


def _inputs() -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(20 * rng.normal(size=(3, 4, PADDED)), jnp.float32)
    weights = jnp.asarray(rng.random((3, 4)) * (rng.random((3, 4)) < 0.8), jnp.float32)
    return logits, jnp.asarray(rng.integers(0, VOCAB, (3, 4)), jnp.int32), weights


def _plain(z_loss: float, logits: Any, targets: Any, weights: Any) -> Any:
    return cross_entropy(LanguageModelHead.pad(logits, VOCAB), targets, weights, z_loss)


@pytest.mark.parametrize("block", [32, 16_384], ids=["several blocks", "one block"])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_the_kernel_gives_the_plain_sums_and_gradient(dtype, z_loss, block, monkeypatch) -> None:
    monkeypatch.setattr(cross_entropy_kernel, "_BLOCK", block)
    plain = functools.partial(_plain, z_loss)
    inputs, settings = _inputs(), KernelSettings(z_loss, VOCAB, jnp.float32, dtype)

    def objective(sums: Any, logits: Any) -> Any:
        found = sums(logits, *inputs[1:])
        return 3 * found.objective, found

    def gradient(sums: Any) -> Any:
        run = jax.value_and_grad(functools.partial(objective, sums), has_aux=True)
        return jax.jit(run)(inputs[0])

    expected = gradient(plain)
    with compiling_for(INTERPRETED):
        found = gradient(functools.partial(with_gradient_kernel, settings, plain))
    np.testing.assert_allclose(found[0][0], expected[0][0], rtol=1e-6)
    np.testing.assert_allclose(found[0][1], expected[0][1], rtol=1e-6)
    assert not jnp.any(found[1][..., VOCAB:])
    distance = np.linalg.norm(found[1] - expected[1]) / np.linalg.norm(expected[1])
    assert distance <= (1e-6 if dtype == jnp.float32 else 2**-8)


def test_without_a_gradient_the_kernel_is_not_there() -> None:
    plain = functools.partial(_plain, 0.0)
    settings = KernelSettings(0.0, VOCAB, jnp.float32, jnp.float32)
    run = functools.partial(with_gradient_kernel, settings, plain)
    with compiling_for(INTERPRETED):
        assert CROSS_ENTROPY not in str(jax.make_jaxpr(run)(*_inputs()))
        assert CROSS_ENTROPY in str(
            jax.make_jaxpr(jax.grad(lambda x, *tokens: run(x, *tokens).loss))(*_inputs())
        )


def test_logits_in_bfloat16_are_computed_with_in_float32() -> None:
    logits, targets, weights = _inputs()
    rounded, plain = logits.astype(jnp.bfloat16), functools.partial(_plain, 0.1)
    settings = KernelSettings(0.1, VOCAB, jnp.bfloat16, jnp.bfloat16)
    run = functools.partial(with_gradient_kernel, settings, plain)

    def gradient(sums: Any, logits: Any) -> Any:
        return jax.value_and_grad(lambda x: sums(x, targets, weights).objective)(logits)

    expected = gradient(plain, rounded.astype(jnp.float32))
    with compiling_for(INTERPRETED):
        found = gradient(run, rounded)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    assert found[1].dtype == jnp.bfloat16
    distance = np.linalg.norm(np.asarray(found[1], np.float32) - expected[1])
    assert distance <= 2**-8 * np.linalg.norm(expected[1])
