"""Every kernel against attention in float64 NumPy, and the choice between kernels."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.attention import cpu, kernels
from jaxgpt.model.attention.chunked_prefill import ChunkedPrefill
from jaxgpt.model.attention.cpu import CpuBlockwise
from jaxgpt.model.attention.gpu import Cudnn, Pallas
from jaxgpt.model.attention.kernel import AttentionInputs, ProbabilityDropout, Scores
from jaxgpt.model.attention.kernels import Fastest, choose_kernel
from jaxgpt.model.attention.masks import AttentionMask, visible_keys
from jaxgpt.model.attention.one_query import OneQuery
from jaxgpt.model.attention.reference import Reference, SavedProbabilities
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh
from jaxgpt.runtime.target import CompileTarget, compiling_for

B, T, N, K, H = 2, 150, 4, 2, 8
KERNELS = [Reference(), SavedProbabilities(), CpuBlockwise()]
# Norm of the error over norm of the result.
RELATIVE_ERROR = {"float32": 2e-6, "bfloat16": 1.5e-2}

SEGMENTS = jnp.asarray(np.stack([np.arange(T) // 70 + 1, np.where(np.arange(T) < 140, 1, 0)]))
MASKS = {
    "causal": AttentionMask(),
    "window": AttentionMask(window=40),
    "window of one": AttentionMask(window=1),
    "segments": AttentionMask(segment_ids_BT=SEGMENTS),
    "segments and window": AttentionMask(segment_ids_BT=SEGMENTS, window=50),
}
SCORES = {"plain": Scores(H**-0.5), "soft cap": Scores(0.7, soft_cap=2.0)}


def _pairs():
    """Yield cases in which each two of kernel, mask, scores and dtype meet."""
    settings = [(scores, dtype) for dtype in RELATIVE_ERROR for scores in SCORES]
    for row, kernel in enumerate(KERNELS):
        for column, mask in enumerate(MASKS):
            scores, dtype = settings[(row + column) % 4]
            yield pytest.param(
                kernel, mask, scores, dtype, id=f"{type(kernel).__name__}-{mask}-{scores}-{dtype}"
            )


def attend_float64(inputs, visible_BTS, scores, num_groups=N // K):
    """Output, and gradients of sum(output * dout), written out in float64."""
    q, k, v, dout = inputs
    k, v = (np.repeat(x, num_groups, axis=2) for x in (k, v))
    scaled = np.einsum("BTNH,BSNH->BNTS", q, k) * scores.scale
    slope = np.full_like(scaled, scores.scale)
    if scores.soft_cap is not None:
        tanh = np.tanh(scaled / scores.soft_cap)
        scaled, slope = scores.soft_cap * tanh, slope * (1 - tanh**2)
    visible = np.broadcast_to(visible_BTS[:, None], scaled.shape)
    weights = np.where(visible, np.exp(scaled), 0.0)
    total = weights.sum(-1, keepdims=True)
    p = weights / np.where(total > 0, total, 1.0)
    out = np.einsum("BNTS,BSNH->BTNH", p, v)
    dp = np.einsum("BTNH,BSNH->BNTS", dout, v)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * slope
    shape = (*k.shape[:2], -1, num_groups, k.shape[-1])
    dk = np.einsum("BNTS,BTNH->BSNH", ds, q).reshape(shape).sum(3)
    dv = np.einsum("BNTS,BTNH->BSNH", p, dout).reshape(shape).sum(3)
    return out, np.einsum("BNTS,BSNH->BTNH", ds, k), dk, dv


def random_inputs(seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N, H)]
    return [rng.standard_normal(shape) for shape in shapes]


@functools.partial(jax.jit, static_argnames=("kernel", "scores"))
def _run(kernel, q, k, v, dout, mask, scores):
    out, pull_back = jax.vjp(
        lambda q, k, v: kernel.attend(AttentionInputs(q, k, v, mask, scores)), q, k, v
    )
    return out, *pull_back(dout)


def run(kernel, inputs, mask, scores, dtype):
    """Output and gradients of a kernel."""
    q, k, v, dout = (jnp.asarray(x, dtype) for x in inputs)
    return _run(kernel, q, k, v, dout, mask, scores)


@pytest.mark.parametrize(("kernel", "mask", "scores", "dtype"), list(_pairs()))
def test_output_and_gradients_against_float64(kernel, mask, scores, dtype):
    mask, scores = MASKS[mask], SCORES[scores]
    inputs = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in random_inputs()]
    visible = np.asarray(visible_keys(mask, slice(0, T), slice(0, T)))
    expected = attend_float64(inputs, visible, scores)
    found = run(kernel, inputs, mask, scores, dtype)
    for name, result, reference in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        assert result.dtype == jnp.dtype(dtype)
        error = np.linalg.norm(np.asarray(result, np.float64) - reference)
        # With one visible key the gradients of queries and keys are 0; the inputs' size remains.
        size = max(np.linalg.norm(reference), np.sqrt(reference.size))
        assert error <= RELATIVE_ERROR[dtype] * size, name


def test_rows_are_computed_alike_however_many_are_together(monkeypatch: pytest.MonkeyPatch):
    q, k, v, dout = (np.tile(x, (3, 1, 1, 1)) for x in random_inputs())
    mask = AttentionMask(segment_ids_BT=jnp.tile(SEGMENTS, (3, 1)))
    found = []
    # One of six, then two and three; five fit, and would leave a rest.
    for num_together in (1, 2, 5, 6):
        monkeypatch.setattr(cpu, "_MOST_SCORE_BYTES", num_together * 4 * N * T * T)
        jax.clear_caches()
        found.append(run(CpuBlockwise(), (q, k, v, dout), mask, SCORES["plain"], "bfloat16"))
    for each in found[1:]:
        for one, other in zip(found[0], each, strict=True):
            np.testing.assert_allclose(
                np.asarray(one, np.float32), np.asarray(other, np.float32), rtol=1e-2, atol=1e-2
            )


@pytest.mark.optimized
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_hidden_keys_change_nothing_at_all(kernel, mask):
    """Bitwise: even a huge hidden score leaves outputs and gradients of visible keys alone."""
    q, k, v, dout = random_inputs()
    query = 135
    visible = np.asarray(visible_keys(mask, slice(query, query + 1), slice(0, T)))[0, 0]
    dout[:, :query] = dout[:, query + 1 :] = 0
    scores = SCORES["plain"]
    found = run(kernel, (q, k, v, dout), mask, scores, "float32")
    k[0, ~visible] *= 1e4
    v[0, ~visible] *= 1e4
    changed = run(kernel, (q, k, v, dout), mask, scores, "float32")
    np.testing.assert_array_equal(found[0][0, query], changed[0][0, query])
    np.testing.assert_array_equal(found[1][0, query], changed[1][0, query])
    for gradient in changed[2:]:
        assert not gradient[0, ~visible].any()
    assert gradient[0, visible].all()


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_queries_without_keys_give_zeros(kernel):
    mask = MASKS["segments"]
    results = run(kernel, random_inputs(), mask, SCORES["plain"], "float32")
    for result in results:
        assert not result[1, 140:].any()
        assert np.isfinite(result).all()


@functools.partial(jax.jit, static_argnums=0)
def _attend(kernel, inputs):
    return kernel.attend(inputs)


def test_queries_of_a_cache_stand_in_slots():
    q, k, v, _ = (jnp.asarray(x, jnp.float32) for x in random_inputs())
    full = _attend(Reference(), AttentionInputs(q, k, v, AttentionMask(), SCORES["plain"]))
    slots = jnp.asarray([[100, 101], [37, -1]])
    chosen = jnp.stack([q[0, 100:102], q[1, 37:39]])
    mask = AttentionMask(query_slots_BT=slots)
    for kernel in (Reference(), SavedProbabilities(), Fastest()):
        out = _attend(kernel, AttentionInputs(chosen, k, v, mask, SCORES["plain"]))
        np.testing.assert_allclose(out[0], full[0, 100:102], atol=1e-6)
        np.testing.assert_allclose(out[1, 0], full[1, 37], atol=1e-6)
        assert not out[1, 1].any()


@pytest.mark.parametrize(
    ("window", "scores", "dtype"),
    [
        (None, "plain", "float32"),
        (None, "soft cap", "bfloat16"),
        (40, "plain", "bfloat16"),
        (40, "soft cap", "float32"),
    ],
)
def test_one_query_a_row_against_float64(window, scores, dtype):
    scores = SCORES[scores]
    inputs = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in random_inputs()]
    slots = np.array([100, 37])
    visible = np.asarray(visible_keys(AttentionMask(window=window), slice(0, T), slice(0, T)))
    expected, *_ = attend_float64(inputs, visible, scores)
    expected = expected[np.arange(B), slots]
    q, k, v, _ = (jnp.asarray(x, dtype) for x in inputs)
    mask = AttentionMask(query_slots_BT=jnp.asarray(slots)[:, None], window=window)
    inputs = AttentionInputs(q[np.arange(B), slots][:, None], k, v, mask, scores)
    found = _attend(OneQuery(), inputs)
    assert found.dtype == jnp.dtype(dtype)
    error = np.linalg.norm(np.asarray(found[:, 0], np.float64) - expected)
    assert error <= RELATIVE_ERROR[dtype] * np.linalg.norm(expected)
    nowhere = dataclasses.replace(mask, query_slots_BT=jnp.full((B, 1), -1))
    assert not _attend(OneQuery(), dataclasses.replace(inputs, mask=nowhere)).any()


def test_dropout_of_probabilities_keeps_the_mean_and_its_key_decides():
    q, k, v, _ = (jnp.asarray(x, jnp.float32) for x in random_inputs())
    ones = jnp.ones_like(v)

    def attend(seed):
        dropout = ProbabilityDropout(jax.random.key(seed), 0.25)
        return Fastest().attend(
            AttentionInputs(q, k, ones, AttentionMask(), SCORES["plain"], dropout)
        )

    first, again, other = attend(0), attend(0), attend(1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert float(jnp.mean(first[:, 50:])) == pytest.approx(1.0, abs=0.02)


TARGETS = {
    "cpu": CompileTarget(platform="cpu"),
    "tpu": CompileTarget(platform="tpu"),
    "gpu": CompileTarget(platform="gpu", compute_capability=9.0),
    "a100": CompileTarget(platform="gpu", compute_capability=8.0),
}


def _choice(
    backend, dtype="bfloat16", head_dim=64, mask=None, scores=None, dropout=None, num_tokens=16
):
    q = jax.ShapeDtypeStruct((1, num_tokens, 4, head_dim), jnp.dtype(dtype))
    mask = mask or AttentionMask()
    scores = scores or Scores(1.0)
    with compiling_for(TARGETS[backend]):
        kernel, reasons = choose_kernel(AttentionInputs(q, q, q, mask, scores, dropout))
    return type(kernel), reasons


def test_choice_on_a_cpu():
    assert _choice("cpu") == (CpuBlockwise, "")
    several = AttentionMask(query_slots_BT=jnp.zeros((1, 16), int))
    assert _choice("cpu", mask=several)[0] is ChunkedPrefill
    assert _choice("gpu", mask=several)[0] is SavedProbabilities
    one = AttentionMask(query_slots_BT=jnp.zeros((1, 1), int))
    assert _choice("cpu", mask=one, num_tokens=1)[0] is OneQuery
    assert _choice("gpu", mask=one, num_tokens=1)[0] is SavedProbabilities
    assert _choice("cpu", dropout=ProbabilityDropout(jax.random.key(0), 0.1))[0] is Reference
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert _choice("cpu")[0] is CpuBlockwise
    # Heads of all devices as one axis with the rows would be gathered first.
    for config, divides in ((MeshConfig(data=8), False), (MeshConfig(data=2, tensor=4), True)):
        for kernel, mask, num_tokens in ((OneQuery, one, 1), (ChunkedPrefill, several, 16)):
            with on_mesh(make_mesh(config), ShardingRules()):
                found, reasons = _choice("cpu", mask=mask, num_tokens=num_tokens)
            assert found is (SavedProbabilities if divides else kernel)
            reason = f"{kernel.__name__} cannot: heads lie on several devices"
            assert (reason in reasons) == divides


def test_choice_on_a_gpu():
    assert _choice("gpu") == (Cudnn, "")
    assert _choice("gpu", mask=AttentionMask(window=8))[0] is Cudnn
    assert _choice("gpu", head_dim=256)[0] is Cudnn
    packed = AttentionMask(segment_ids_BT=jnp.ones((1, 256), int))
    assert _choice("gpu", mask=packed, num_tokens=256)[0] is Pallas
    for refused in (
        {"mask": packed, "num_tokens": 200},
        {"mask": dataclasses.replace(packed, window=8), "num_tokens": 256},
        {"mask": packed, "num_tokens": 256, "head_dim": 256},
        {"dtype": "float32"},
        {"scores": Scores(1.0, soft_cap=50.0)},
        {"head_dim": 12},
        {"head_dim": 264},
    ):
        kernel, reasons = _choice("gpu", **refused)
        assert kernel is SavedProbabilities
        assert reasons.startswith("Cudnn cannot: ")
    assert _choice("a100", head_dim=256)[0] is SavedProbabilities
    assert _choice("tpu")[0] is SavedProbabilities


@pytest.mark.parametrize(("backend", "name"), [("gpu", "Pallas"), ("cpu", "CpuBlockwise")])
def test_what_splits_rows_itself_is_not_chosen_inside_of_a_pipelines_stages(backend, name):
    packed = AttentionMask(segment_ids_BT=jnp.ones((1, 256), int))
    mesh = jax.make_mesh((2, 2), ("pipeline", "data"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    chosen = []

    def stage(x):
        chosen.append(_choice(backend, mask=packed, num_tokens=256))
        return x

    rows = jax.sharding.PartitionSpec("pipeline")
    with jax.set_mesh(mesh):
        run = jax.shard_map(stage, in_specs=rows, out_specs=rows, axis_names={"pipeline"})
        jax.jit(run).trace(jnp.zeros(2))
    assert chosen[0][0] is SavedProbabilities
    assert f"{name} cannot: it does not work inside a pipeline's stages" in chosen[0][1]


def test_a_named_kernel_computes_or_says_why_not():
    q, k, v, _ = (jnp.asarray(x, jnp.float32) for x in random_inputs())
    with pytest.raises(ValueError, match="Cudnn cannot compute this attention: there is no NVIDIA"):
        Cudnn().attend(AttentionInputs(q, k, v, AttentionMask(), Scores(1.0)))


def test_the_choice_is_logged_once(caplog):
    kernels._log_choice.cache_clear()
    q, k, v, _ = (jnp.asarray(x, jnp.float32) for x in random_inputs())
    with caplog.at_level(logging.INFO, logger=kernels.logger.name):
        for _ in range(2):
            Fastest().attend(AttentionInputs(q, k, v, AttentionMask(), Scores(1.0)))
    assert [record.getMessage() for record in caplog.records] == ["attention kernel: CpuBlockwise"]
