"""The loss against hand-made sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.batch import Batch
from jaxgpt.training.loss import LossSums, cross_entropy, with_counts


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
