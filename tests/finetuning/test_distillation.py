"""Distillation: the loss and its gradient against NumPy; a teacher that equals its student."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.batch import Batch
from jaxgpt.config import replace
from jaxgpt.errors import ConfigError
from jaxgpt.evaluation.objective import FrozenModel
from jaxgpt.finetuning.distillation import TEACHER, Distilled, divergences
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.training.chunked_loss import TokenChunks, WholeLogits
from jaxgpt.training.loss import LossConfig
from jaxgpt.training.state import init_parameters

VOCAB_SIZE = 21
STUDENT = GptConfig(num_layers=1, d_model=8, attention=GroupedQueryAttention(num_heads=2))
# Another width, and another padding of the vocabulary.
TEACHER_MODEL = replace(STUDENT, d_model=16, vocab_multiple=8)


def build(temperature: float, share: float, teacher: GptConfig, logits: Any) -> Any:
    frozen = FrozenModel(run="runs/big", step=1, fingerprint="", model=teacher)
    objective = Distilled(
        teacher="runs/big", temperature=temperature, share=share, frozen_teacher=frozen
    )
    model = STUDENT.build(VOCAB_SIZE)
    config = LossConfig(logits=logits)
    return objective.build_loss(model, jnp.ones(VOCAB_SIZE, jnp.int32), config, 0)


def parameters(config: GptConfig, seed: int) -> Any:
    model = config.build(VOCAB_SIZE)
    params = init_parameters(model, ShardingRules(), single_device_mesh(), seed)
    # First parameters give nearly equal probabilities, in which little can be seen.
    return jax.tree.map(lambda leaf: leaf * 4, params)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    tokens_BT = rng.integers(0, VOCAB_SIZE, (2, 7)).astype(np.int32)
    return Batch(
        tokens_BT=tokens_BT,
        targets_BT=rng.integers(0, VOCAB_SIZE, (2, 7)).astype(np.int32),
        segment_ids_BT=np.ones((2, 7), np.int32),
        positions_BT=np.tile(np.arange(7, dtype=np.int32), (2, 1)),
        loss_weights_BT=(rng.random((2, 7)) < 0.6).astype(np.float32),
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_divergence_and_its_gradient_are_those_of_numpy(temperature: float) -> None:
    rng = np.random.default_rng(1)
    teacher, student = rng.normal(0, 3, (2, 5, VOCAB_SIZE))
    log_p, log_q = (log_softmax(logits / temperature) for logits in (teacher, student))
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    found = divergences(jnp.float32(teacher), jnp.float32(student), temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gradient = jax.grad(lambda own: divergences(jnp.float32(teacher), own, temperature).sum())
    np.testing.assert_allclose(
        gradient(jnp.float32(student)), (np.exp(log_q) - np.exp(log_p)) / temperature, atol=1e-6
    )


def test_the_loss_of_a_batch_is_the_papers_on_targets_alone(batch: Batch) -> None:
    temperature, share = 2.0, 0.7
    loss = build(temperature, share, TEACHER_MODEL, TokenChunks(num_tokens=4))
    student, teacher = parameters(STUDENT, 0), parameters(TEACHER_MODEL, 1)
    sums = jax.jit(loss)({**student, TEACHER: teacher}, batch, None)

    inputs = batch.tokens_BT, None, batch.segment_ids_BT, batch.positions_BT
    both = []
    for config, params in ((STUDENT, student), (TEACHER_MODEL, teacher)):
        hidden = config.build(VOCAB_SIZE).apply(
            {"params": params},
            inputs[0],
            segment_ids_BT=inputs[2],
            positions_BT=inputs[3],
            method="hidden_states_and_head",
        )
        x_BTD, kernel = (np.asarray(part, np.float64) for part in hidden)
        both.append((x_BTD @ kernel.T)[..., :VOCAB_SIZE])
    own_BTV, teachers_BTV = both
    log_q, log_p = log_softmax(own_BTV / temperature), log_softmax(teachers_BTV / temperature)
    divergence_BT = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    targets_BT1 = batch.targets_BT[..., None]
    losses_BT = -np.take_along_axis(log_softmax(own_BTV), targets_BT1, -1)[..., 0]
    weights_BT = batch.loss_weights_BT
    mixed_BT = share * temperature**2 * divergence_BT + (1 - share) * losses_BT
    np.testing.assert_allclose(sums.objective, (mixed_BT * weights_BT).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.loss, (losses_BT * weights_BT).sum(), rtol=1e-5)
    np.testing.assert_allclose(
        sums.figures["divergence_from_teacher"], (divergence_BT * weights_BT).sum(), rtol=1e-4
    )


def test_chunks_give_the_gradient_of_all_logits_and_teachers_get_none(batch: Batch) -> None:
    params = {**parameters(STUDENT, 0), TEACHER: parameters(TEACHER_MODEL, 1)}
    gradients = []
    for logits in (WholeLogits(), TokenChunks(num_tokens=4)):
        loss = build(2.0, 0.7, TEACHER_MODEL, logits)
        gradient = jax.jit(jax.grad(lambda *inputs, loss=loss: loss(*inputs, None).objective))
        gradients.append(gradient(params, batch))
    for ours, theirs in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    own = {name: part for name, part in gradients[0].items() if name != TEACHER}
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(own))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients[0][TEACHER]))


def test_a_student_that_equals_its_teacher_has_nothing_to_learn(batch: Batch) -> None:
    params = parameters(STUDENT, 0)
    loss = build(1.5, 1.0, STUDENT, TokenChunks(num_tokens=4))

    def objective(own: Any) -> Any:
        return loss({**own, TEACHER: params}, batch, None).objective

    value, gradient = jax.jit(jax.value_and_grad(objective))(params)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0, atol=1e-5)


def test_what_cannot_be_distilled_is_named() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        Distilled(teacher="runs/big", temperature=0.0)
    with pytest.raises(ConfigError, match="share"):
        Distilled(teacher="runs/big", share=1.5)
    with pytest.raises(ConfigError, match=r"give --objective\.teacher"):
        Distilled().open_models(lambda run, step: pytest.fail("nothing is to be opened"))
