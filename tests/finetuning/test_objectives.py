"""The supervised objective: targets alone count, packed as apart, one update however it is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.batch import Batch
from jaxgpt.data.loader import BatchConfig
from jaxgpt.finetuning.batches import ExampleBatches, PackedRows
from jaxgpt.finetuning.objectives import Supervised
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.training.loss import LossConfig, LossFunction
from jaxgpt.training.state import TrainState
from jaxgpt.training.step import make_train_step

VOCAB_SIZE = 50
LENGTH = 512
MODEL = GptConfig(num_layers=2, d_model=16, attention=GroupedQueryAttention(num_heads=2))


def make_examples(answers: list[int], prompts: list[int]) -> TokenizedExamples:
    rng = np.random.default_rng(0)
    lengths = [1 + prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    weights = np.concatenate(
        [
            np.repeat(np.float32([0, 1]), [1 + prompt, answer])
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = rng.integers(1, VOCAB_SIZE, offsets[-1]).astype(np.int32)
    return TokenizedExamples(tokens, weights.astype(np.float32), offsets)


@pytest.fixture(scope="module")
def model() -> tuple[Gpt, dict, LossFunction]:
    built = MODEL.build(VOCAB_SIZE)
    params = built.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(
        lambda leaf: leaf.value if hasattr(leaf, "value") else leaf,
        params,
        is_leaf=lambda leaf: hasattr(leaf, "value"),
    )
    loss = Supervised().build_loss(built, jnp.ones(VOCAB_SIZE, jnp.int32), LossConfig(), 0)
    return built, params, loss


def test_targets_of_prompts_change_no_bit_of_the_gradient(model) -> None:
    _, params, loss = model
    rows = PackedRows(make_examples([5, 9, 30], [20, 3, 11]), 64)
    batch = rows.batch(range(len(rows)))
    gradient = jax.jit(jax.grad(lambda params, batch: loss(params, batch, None).objective))
    changed = np.where(
        batch.loss_weights_BT > 0, batch.targets_BT, (batch.targets_BT + 7) % VOCAB_SIZE
    )
    assert (changed != batch.targets_BT).any()
    for ours, theirs in zip(
        jax.tree.leaves(gradient(params, batch)),
        jax.tree.leaves(gradient(params, batch._replace(targets_BT=changed))),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
        assert np.abs(ours).max() > 0


def test_packed_examples_score_as_each_alone(model) -> None:
    _, params, loss = model
    lengths = [5, 9, 30, 2, 17, 1]
    examples = make_examples(lengths, [20, 3, 11, 6, 1, 40])
    packed = PackedRows(examples, 64)
    assert len(packed) < len(examples)
    apart = [PackedRows(examples.select(np.array([one])), 64) for one in range(len(examples))]
    whole = loss(params, packed.batch(range(len(packed))), None)
    alone = [loss(params, rows.batch([0]), None) for rows in apart]
    assert float(whole.weight) == sum(lengths)
    np.testing.assert_allclose(whole.loss, sum(float(one.loss) for one in alone), rtol=1e-5)


def test_micro_batches_of_long_and_short_answers_give_one_update(model) -> None:
    """Answers of 1 to 500 tokens: a mean of means would weigh the short ones more."""
    _, params, loss = model
    examples = make_examples([1, 500, 2, 350, 7, 420, 60, 480], [4, 3, 300, 90, 400, 5, 200, 9])
    batches = ExampleBatches(examples, BatchConfig(sequence_length=LENGTH, global_batch_size=8), 0)
    batch = batches.pick(0, range(8))
    updated = []
    for num_micro_batches in (1, 8):
        optimizer = optax.sgd(0.1)
        step = jax.jit(make_train_step(loss, optimizer, num_micro_batches))
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            trainable=params,
            frozen={},
            opt_state=optimizer.init(params),
            rng=jax.random.key(0),
        )
        new, metrics = step(state, batch)
        updated.append((new.trainable, metrics.loss))
    for ours, theirs in zip(*map(jax.tree.leaves, updated), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-7)


def test_rows_of_padding_weigh_nothing(model) -> None:
    _, params, loss = model
    rows = PackedRows(make_examples([5, 9], [20, 3]), 64)
    batch: Batch = rows.batch([0, None, None])
    np.testing.assert_allclose(
        loss(params, batch, None).loss, loss(params, rows.batch([0]), None).loss, rtol=1e-6
    )
