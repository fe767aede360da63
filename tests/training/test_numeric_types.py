"""Sums over steps, rows or micro-batches are kept in float32, whatever the compute dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.batch import Batch
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.norms import LayerNorm
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.training.averaging import ExponentialAverage
from jaxgpt.training.loss import LossConfig, LossSums, language_model_loss
from jaxgpt.training.optimizer import AdamW, Muon
from jaxgpt.training.recovery import SkipSpikes
from jaxgpt.training.schedule import Cosine
from jaxgpt.training.state import init_parameters, init_state, plan_state
from jaxgpt.training.step import accumulate, make_train_step

VOCAB = 32
MODEL = GptConfig(
    num_layers=2,
    d_model=8,
    attention=GroupedQueryAttention(num_heads=2),
    norm=LayerNorm(),
    layers=Scanned(),
    compute_dtype="bfloat16",
)
SCHEDULE = Cosine(num_steps=10, peak_learning_rate=1e-3, warmup_share=0.0).build()


def _batch(rows=4, length=8):
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, VOCAB, (rows, length)), jnp.int32)
    positions = jnp.tile(jnp.arange(length), (rows, 1))
    return Batch(ids, ids, jnp.ones_like(ids), positions, jnp.ones(ids.shape, jnp.float32))


@pytest.mark.parametrize(
    "optimizer", [AdamW(), Muon(averaging=ExponentialAverage())], ids=["AdamW", "Muon"]
)
def test_all_that_a_bfloat16_run_keeps_between_steps_is_float32(optimizer) -> None:
    plan, _ = plan_state(
        MODEL.build(VOCAB),
        lambda axes: optimizer.build(SCHEDULE, axes),
        ShardingRules(),
        single_device_mesh(),
        SkipSpikes(),
    )
    kept = jax.tree.leaves(plan.abstract)
    floats = [leaf.dtype for leaf in kept if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert len(floats) > 3 * len(jax.tree.leaves(plan.abstract.trainable)) - 1
    assert set(floats) == {jnp.dtype("float32")}


def test_a_few_small_bfloat16_steps_move_every_parameter() -> None:
    mesh, model, optimizer = single_device_mesh(), MODEL.build(VOCAB), AdamW()
    rules = ShardingRules()
    plan, update = plan_state(model, lambda axes: optimizer.build(SCHEDULE, axes), rules, mesh)
    params = init_parameters(model, rules, mesh, 0)
    state = init_state(params, update, plan, 0)
    loss = language_model_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig())
    step = jax.jit(make_train_step(loss, update, num_micro_batches=2))
    with jax.set_mesh(mesh):
        for _ in range(2):
            state, _ = step(state, _batch())
    for (path, before), after in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves(state.trainable), strict=True
    ):
        assert np.any(np.asarray(before != after)), jax.tree_util.keystr(path)
    scales = state.trainable["blocks"]["attention_norm"]["scale"]
    assert np.all(np.asarray(scales != 1))


def test_gradients_of_many_micro_batches_add_up_in_float32() -> None:
    def objective(params, batch, rng):
        total = jnp.sum((params["w"] * batch.loss_weights_BT).astype(jnp.float32))
        return total, LossSums(total, total, total, total)

    weights_BT = jnp.full((64, 4), 1.0).at[0].set(1000.0)
    batch = _batch(64, 4)._replace(loss_weights_BT=weights_BT)
    params = {"w": jnp.ones(4, jnp.bfloat16)}
    gradient = accumulate(objective, params, batch, jax.random.key(0), 64)[0]["w"]
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient, jnp.sum(weights_BT, axis=0))
