"""The loss against hand-made sums."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.batch import Batch
from jaxgpt.errors import ConfigError
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.runtime.target import CompileTarget, compiling_for
from jaxgpt.training.loss import (
    LossConfig,
    LossSums,
    cross_entropy,
    language_model_loss,
    with_counts,
)


def _batch(weights: np.ndarray) -> Batch:
    shape = weights.shape
    return Batch(
        tokens_BT=np.zeros(shape, np.int32),
        targets_BT=np.arange(weights.size, dtype=np.int32).reshape(shape) % 5,
        segment_ids_BT=np.ones(shape, np.int32),
        positions_BT=np.zeros(shape, np.int32),
        loss_weights_BT=weights.astype(np.float32),
    )


def next_token_loss(
    logits_BTV: jax.Array, batch: Batch, bytes_per_token_V: jax.Array, z_loss: float = 0.0
) -> LossSums:
    sums = cross_entropy(logits_BTV, batch.targets_BT, batch.loss_weights_BT, z_loss)
    return with_counts(sums, batch, bytes_per_token_V)


def test_sums_equal_a_float64_reference() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)) * 4
    batch = _batch(np.array([[1, 0, 1], [1, 1, 0]]))
    sums = next_token_loss(jnp.asarray(logits, jnp.float32), batch, jnp.arange(5), z_loss=0.1)
    normaliser = np.log(np.exp(logits).sum(-1))
    chosen = np.take_along_axis(logits, batch.targets_BT[..., None], -1)[..., 0]
    loss = ((normaliser - chosen) * batch.loss_weights_BT).sum()
    z = (0.1 * normaliser**2 * batch.loss_weights_BT).sum()
    assert float(sums.loss) == pytest.approx(loss, rel=1e-6)
    assert float(sums.objective) == pytest.approx(loss + z, rel=1e-6)
    assert float(sums.weight) == 4
    assert float(sums.num_bytes) == (batch.targets_BT * batch.loss_weights_BT).sum()


def test_a_target_without_weight_has_no_gradient() -> None:
    batch = _batch(np.array([[1, 0, 1]]))
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 5)), jnp.float32)
    gradient = jax.grad(lambda x: next_token_loss(x, batch, jnp.ones(5, int), 0.1).objective)(
        logits
    )
    assert np.all(np.asarray(gradient)[0, 1] == 0)
    assert np.all(np.asarray(gradient)[0, 0] != 0)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = jnp.full((1, 1, 5), 3.0, jnp.bfloat16)
    sums = next_token_loss(logits, _batch(np.ones((1, 1))), jnp.ones(5, int))
    assert sums.loss.dtype == jnp.float32
    assert float(sums.loss) == pytest.approx(np.log(5), rel=1e-6)


def _rounded_reference(x_BTD: Any, table_VD: Any, targets_BT: Any, soft_cap: float | None) -> float:
    """The sum of losses in float64 from logits that bfloat16 has."""
    exact = np.einsum("btd,vd->btv", *(np.asarray(one, np.float64) for one in (x_BTD, table_VD)))
    logits = exact.astype(jnp.bfloat16).astype(np.float64)
    if soft_cap is not None:
        logits = soft_cap * np.tanh(logits / soft_cap)
    chosen = np.take_along_axis(logits, targets_BT[..., None], -1)[..., 0]
    return float((np.log(np.exp(logits).sum(-1)) - chosen).sum())


@pytest.mark.parametrize("settings", [{"z_loss": 0.1}, {"round_logits": True}])
def test_other_objectives_refuse_what_next_token_prediction_alone_has(settings) -> None:
    LossConfig().check_plain("Dpo")
    (name,) = settings
    with pytest.raises(ConfigError, match=rf"loss\.{name}=.*: Dpo .* set it to"):
        LossConfig(**settings).check_plain("Dpo")


@pytest.mark.parametrize("soft_cap", [None, 15.0])
@pytest.mark.parametrize("runs_kernel", [False, True])
def test_logits_are_rounded_to_the_compute_dtype_if_asked_for(soft_cap, runs_kernel) -> None:
    rng = np.random.default_rng(0)
    # Eighths, whose products add up in float32 without rounding.
    x_BTD = jnp.asarray(rng.integers(-16, 17, (2, 4, 16)) / 8, jnp.bfloat16)
    table_VD = jnp.asarray(rng.integers(-16, 17, (24, 16)) / 8, jnp.float32)
    head, batch = LanguageModelHead(soft_cap=soft_cap), _batch(np.ones((2, 4)))
    model = SimpleNamespace(
        apply=lambda variables, *_, **__: (variables["params"], {}),
        config=SimpleNamespace(head=head),
        vocab_size=24,
    )

    def run(round_logits: bool) -> Any:
        config = LossConfig(round_logits=round_logits)
        loss = language_model_loss(model, jnp.ones(24, jnp.int32), config)
        gradient = jax.value_and_grad(lambda params: loss(params, batch, None).objective)
        return jax.jit(gradient)((x_BTD, table_VD))

    with compiling_for(CompileTarget(platform="cpu", interprets_kernels=runs_kernel)):
        found, gradients = run(True)
        unrounded, expected = run(False)
    reference = _rounded_reference(x_BTD, table_VD, batch.targets_BT, soft_cap)
    assert float(found) == pytest.approx(reference, rel=1e-6)
    assert abs(float(unrounded) - reference) > 1e-4 * reference, "rounding is seen"
    for ours, theirs in zip(gradients, expected, strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = (np.asarray(one, np.float64) for one in (ours, theirs))
        assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)
