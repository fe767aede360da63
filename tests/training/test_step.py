"""One step: accumulation in parts equals the whole, padding changes nothing, resume is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.batch import Batch
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import to_devices
from jaxgpt.training.loss import cross_entropy, with_counts
from jaxgpt.training.state import TrainState
from jaxgpt.training.step import accumulate, compile_step, make_train_step

VOCAB, WIDTH = 7, 5


def _loss(params, batch, rng):
    hidden = jnp.tanh(params["embedding"][batch.tokens_BT])
    if rng is not None and "dropout" in params:
        hidden = hidden * jax.random.bernoulli(rng, 0.5, hidden.shape)
    logits = hidden @ params["head"]
    sums = cross_entropy(logits, batch.targets_BT, batch.loss_weights_BT)
    return with_counts(sums, batch, jnp.ones(VOCAB, int))


def _objective(params, batch, rng):
    sums = _loss(params, batch, rng)
    return sums.objective, sums


def _params():
    rng = np.random.default_rng(0)
    return {
        "embedding": jnp.asarray(rng.normal(size=(VOCAB, WIDTH)), jnp.float32),
        "head": jnp.asarray(rng.normal(size=(WIDTH, VOCAB)), jnp.float32),
    }


def _batch(rows=8, length=6, seed=0, weights=None):
    rng = np.random.default_rng(seed)
    shape = (rows, length)
    if weights is None:
        # Uneven weights per row: a mean of means would differ from the mean.
        weights = (rng.random(shape) < rng.random((rows, 1))).astype(np.float32)
    return Batch(
        rng.integers(0, VOCAB, shape, dtype=np.int32),
        rng.integers(0, VOCAB, shape, dtype=np.int32),
        np.ones(shape, np.int32),
        np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        weights,
    )


def _state(optimizer):
    params = _params()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=params,
        frozen={},
        opt_state=optimizer.init(params),
        rng=jax.random.key(0),
    )


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_micro_batches_give_the_gradient_of_the_whole(parts: int) -> None:
    batch, params, rng = _batch(), _params(), jax.random.key(0)
    whole, sums = accumulate(_objective, params, batch, rng, 1)
    split, split_sums = accumulate(_objective, params, jax.tree.map(jnp.asarray, batch), rng, parts)
    for name in whole:
        difference = jnp.linalg.norm(whole[name] - split[name]) / jnp.linalg.norm(whole[name])
        assert float(difference) < 1e-5
    assert float(split_sums.loss) == pytest.approx(float(sums.loss), rel=1e-6)
    assert float(split_sums.weight) == float(sums.weight)


def test_rows_of_padding_change_neither_loss_nor_update() -> None:
    optimizer = optax.sgd(0.1)
    step = make_train_step(_loss, optimizer)
    batch = _batch()
    padding = _batch(seed=1, weights=np.zeros((8, 6), np.float32))
    padded = jax.tree.map(lambda one, two: np.concatenate([one, two]), batch, padding)
    state, metrics = step(_state(optimizer), batch)
    padded_state, padded_metrics = step(_state(optimizer), padded)
    assert float(metrics.loss) == pytest.approx(float(padded_metrics.loss), rel=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        state.trainable,
        padded_state.trainable,
    )


def test_a_batch_without_targets_is_finite_and_moves_nothing() -> None:
    optimizer = optax.sgd(0.1)
    state, metrics = make_train_step(_loss, optimizer)(
        _state(optimizer), _batch(weights=np.zeros((8, 6), np.float32))
    )
    assert float(metrics.loss) == 0
    assert float(metrics.bits_per_byte) == 0
    jax.tree.map(np.testing.assert_array_equal, state.trainable, _params())


@pytest.mark.parametrize("parts", [1, 2])
def test_eight_devices_compute_what_one_does(parts: int) -> None:
    optimizer = optax.sgd(0.1)
    step = make_train_step(_loss, optimizer, parts)
    results = []
    for mesh in (make_mesh(MeshConfig()), make_mesh(MeshConfig(data=1), jax.devices()[:1])):
        everywhere = jax.sharding.NamedSharding(mesh, jax.P())
        state = jax.device_put(_state(optimizer), everywhere)
        run = compile_step(step, state, mesh)
        with jax.set_mesh(mesh):
            for seed in range(3):
                state, metrics = run(state, to_devices(_batch(16, seed=seed), mesh))
        results.append((jax.device_get(state.trainable), float(metrics.loss)))
    (many, loss_many), (one, loss_one) = results
    assert loss_many == pytest.approx(loss_one, rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), many, one)


def test_dropout_depends_on_the_step_and_the_seed_alone() -> None:
    optimizer = optax.sgd(0.0)
    step = make_train_step(_loss, optimizer)

    def losses(first: int) -> float:
        state = _state(optimizer)
        params = {**state.trainable, "dropout": jnp.zeros(())}
        state = state.replace(
            trainable=params, opt_state=optimizer.init(params), step=jnp.asarray(first)
        )
        return float(step(state, _batch())[1].loss)

    assert losses(3) == losses(3)
    assert losses(3) != losses(4)
