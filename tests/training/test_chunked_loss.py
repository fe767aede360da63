"""Logits in chunks of tokens: the sums and gradients of all logits at once, in less memory."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh
from jaxgpt.training.chunked_loss import LinearCrossEntropy, LossInputs, TokenChunks, WholeLogits
from jaxgpt.training.loss import cross_entropy, token_losses

WIDTH, VOCAB, PADDED = 8, 20, 24
HEAD = LanguageModelHead(tied=False, soft_cap=5.0)


def _score(head: LanguageModelHead, inputs: LossInputs) -> Any:
    logits = head.logits(inputs.x, inputs.kernel, VOCAB)
    return cross_entropy(logits, inputs.targets, inputs.weights, z_loss=0.1)


def _inputs(rows: int, length: int, tied: bool = False, dtype: Any = jnp.float32) -> Any:
    rng = np.random.default_rng(rows * 100 + length)
    shape = (PADDED, WIDTH) if tied else (WIDTH, PADDED)
    return (
        jnp.asarray(rng.normal(size=(rows, length, WIDTH)), dtype),
        jnp.asarray(rng.normal(size=shape), jnp.float32),
        jnp.asarray(rng.integers(0, VOCAB, (rows, length)), jnp.int32),
        jnp.asarray(rng.random((rows, length)) < 0.8, jnp.float32),
    )


def _gradient(way: LinearCrossEntropy, head: LanguageModelHead = HEAD, factor: float = 3.0) -> Any:
    """((objective, sums), gradients) of inputs; the objective is scaled, as by a mean."""

    def objective(x: Any, kernel: Any, targets: Any, weights: Any) -> Any:
        sums = way.sums(functools.partial(_score, head), LossInputs(x, kernel, targets, weights))
        # What is reported besides must not be pulled on.
        return factor * sums.objective + 7.0 * sums.loss, sums

    return jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)


def _per_token(way: LinearCrossEntropy, head: LanguageModelHead = HEAD) -> Any:
    """(objective, losses), gradients of inputs; the objective pulls on tokens by their sums."""

    def score(inputs: LossInputs) -> jax.Array:
        return token_losses(head.logits(inputs.x, inputs.kernel, VOCAB), inputs.targets)[0]

    def objective(x: Any, kernel: Any, targets: Any, weights: Any) -> Any:
        losses_BT = way.per_token(score, LossInputs(x, kernel, targets, weights))
        return jnp.sum(jax.nn.softplus(jnp.sum(losses_BT * weights, axis=1))), losses_BT

    return jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)


@functools.cache
def _whole(gradient: Any) -> Any:
    """Return the function of all logits at once, compiled once for the tests that compare."""
    return jax.jit(gradient(WholeLogits()))


def _assert_same(found: Any, expected: Any, tolerance: float) -> None:
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        distance = np.linalg.norm(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
        assert distance <= tolerance * np.linalg.norm(np.asarray(theirs, np.float64))


@pytest.mark.parametrize("gradient", [_gradient, _per_token])
@pytest.mark.parametrize("chunk", [1, 4, 14, 15, 30])
def test_chunks_of_any_size_add_up(chunk: int, gradient: Any) -> None:
    inputs = _inputs(3, 5)
    found = jax.jit(gradient(TokenChunks(num_tokens=chunk)))(*inputs)
    _assert_same(found, _whole(gradient)(*inputs), 2e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_chunks_equal_the_whole(tied: bool, dtype: Any) -> None:
    inputs, head = _inputs(4, 16, tied, dtype), replace(HEAD, tied=tied)
    found = jax.jit(_gradient(TokenChunks(num_tokens=10), head))(*inputs)
    expected = jax.jit(_gradient(WholeLogits(), head))(*inputs)
    _assert_same(found, expected, 1e-6 if dtype == jnp.float32 else 4e-3)


def test_losses_of_tokens_are_those_of_automatic_differentiation() -> None:
    def score(inputs: LossInputs) -> jax.Array:
        logits = HEAD.logits(inputs.x, inputs.kernel, VOCAB)
        log_probabilities = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_probabilities, inputs.targets[..., None], -1)[..., 0]

    def pull(x: Any, kernel: Any) -> Any:
        return WholeLogits().per_token(score, LossInputs(x, kernel, targets, weights))

    x, kernel, targets, weights = _inputs(4, 16)
    losses_BT, vjp = jax.vjp(pull, x, kernel)
    (_, found_BT), gradients = _per_token(TokenChunks(num_tokens=10))(x, kernel, targets, weights)
    _assert_same(found_BT, losses_BT, 1e-6)
    pulls_B1 = jax.nn.sigmoid(jnp.sum(losses_BT * weights, axis=1, keepdims=True))
    _assert_same(gradients, vjp(pulls_B1 * weights), 1e-6)


def test_without_a_gradient_only_the_sums_are_computed() -> None:
    inputs = _inputs(4, 16)

    def sums(*inputs: Any) -> Any:
        return TokenChunks(num_tokens=16).sums(functools.partial(_score, HEAD), LossInputs(*inputs))

    _assert_same(sums(*inputs), _whole(_gradient)(*inputs)[0][1], 1e-6)
    assert str(jax.make_jaxpr(sums)(*inputs)).count("dot_general") == 1


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=2, fsdp=2, tensor=2),
        pytest.param(MeshConfig(data=2, context=4), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_devices_score_their_own_tokens(mesh: MeshConfig) -> None:
    inputs = _inputs(4, 16)
    expected = _whole(_gradient)(*inputs)
    with on_mesh(make_mesh(mesh), ShardingRules()):
        compiled = jax.jit(_gradient(TokenChunks(num_tokens=4))).lower(*inputs).compile()
        _assert_same(jax.device_get(compiled(*inputs)), expected, 1e-6)


def test_losses_of_tokens_do_not_depend_on_the_devices() -> None:
    inputs = _inputs(4, 16)
    expected = _whole(_per_token)(*inputs)
    with on_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), ShardingRules()):
        compiled = jax.jit(_per_token(TokenChunks(num_tokens=4))).lower(*inputs).compile()
        _assert_same(jax.device_get(compiled(*inputs)), expected, 1e-6)


@pytest.mark.parametrize("gradient", [_gradient, _per_token])
def test_no_array_of_all_logits_exists(gradient: Any) -> None:
    rows, length, vocab = 4, 64, 4096
    x = jax.ShapeDtypeStruct((rows, length, WIDTH), jnp.float32)
    kernel = jax.ShapeDtypeStruct((WIDTH, vocab), jnp.float32)
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    weights = jax.ShapeDtypeStruct((rows, length), jnp.float32)
    bytes_of = {}
    for way in (WholeLogits(), TokenChunks(num_tokens=16)):
        compiled = jax.jit(gradient(way)).lower(x, kernel, tokens, weights).compile()
        bytes_of[type(way)] = compiled.memory_analysis().temp_size_in_bytes
    all_logits = rows * length * vocab * 4
    assert bytes_of[WholeLogits] >= all_logits
    assert bytes_of[TokenChunks] <= 0.3 * bytes_of[WholeLogits]
