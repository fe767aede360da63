"""Classification: losses of whole texts in packed rows, against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.batch import Batch
from jaxgpt.config import replace
from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.classification.multi_label import LABELS, MultiLabel
from jaxgpt.finetuning.classification.objective import LABEL, Classification, SingleLabel
from jaxgpt.finetuning.classification.pooling import LastToken, MeanOfTokens, Pooling
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.model.heads import ClassificationHead
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, to_devices
from jaxgpt.training.loss import LossConfig
from jaxgpt.training.state import init_parameters
from jaxgpt.training.step import accumulate
from tests.finetuning.small_tokenizer import small_tokenizer

VOCAB, LENGTH, ROWS, SEGMENTS = 24, 16, 8, 4
NAMES = ("red", "green", "blue")
NUM_TEXTS = 17
MODEL = GptConfig(
    num_layers=1,
    d_model=16,
    attention=GroupedQueryAttention(num_heads=2, num_kv_heads=2),
    feed_forward=SwiGlu(hidden=16),
    head=ClassificationHead(num_classes=len(NAMES)),
    vocab_multiple=8,
)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Rows of no text to four, with labels on every token of theirs."""
    rng = np.random.default_rng(0)
    zeros = np.zeros((ROWS, LENGTH), np.int32)
    segments, positions, label = zeros.copy(), zeros.copy(), zeros.copy()
    labels = np.zeros((ROWS, LENGTH, len(NAMES)), bool)
    for row, number in enumerate([4, 3, 0, 2, 1, 2, 4, 1]):
        sizes = rng.integers(1, 5, number)
        for place, (end, size) in enumerate(zip(np.cumsum(sizes), sizes, strict=True)):
            start = end - size
            segments[row, start:end] = place + 1
            positions[row, start:end] = np.arange(size)
            label[row, start:end] = rng.integers(len(NAMES))
            labels[row, start:end] = rng.random(len(NAMES)) < 0.5
    tokens = np.where(segments > 0, rng.integers(0, VOCAB, segments.shape), 0).astype(np.int32)
    weights = np.zeros(segments.shape, np.float32)
    return Batch(tokens, zeros, segments, positions, weights, {LABEL: label, LABELS: labels})


@pytest.fixture(scope="module")
def model() -> Gpt:
    return MODEL.build(VOCAB)


@pytest.fixture(scope="module")
def params(model: Gpt) -> Any:
    made = init_parameters(model, ShardingRules(), make_mesh(MeshConfig()), seed=0)
    # The first logits are small; larger ones tell the classes apart.
    return made | {"head": jax.tree.map(lambda leaf: 30 * leaf, made["head"])}


def _loss(objective: Classification, model: Gpt) -> Any:
    return objective.build_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig(), SEGMENTS)


def _logits(model: Gpt, params: Any, batch: Batch, pooling: Pooling) -> Any:
    """Logits, label and labels of each text, float64."""
    apply = jax.jit(lambda tokens, ids, places: model.apply(
        {"params": params}, tokens, ids, places, method="hidden_states"
    )[0])  # fmt: skip
    x_BTD = np.asarray(apply(batch.tokens_BT, batch.segment_ids_BT, batch.positions_BT), np.float64)
    logits, label, labels = [], [], []
    assert batch.extras is not None
    for row, number in np.ndindex(ROWS, SEGMENTS):
        (here,) = np.nonzero(batch.segment_ids_BT[row] == number + 1)
        if len(here):
            x_TD = x_BTD[row, here]
            pooled = x_TD[-1] if pooling == LastToken() else x_TD.mean(0)
            logits.append(pooled @ np.asarray(params["head"]["kernel"], np.float64))
            label.append(batch.extras[LABEL][row, here[0]])
            labels.append(batch.extras[LABELS][row, here[0]])
    return np.array(logits), np.array(label), np.array(labels)


@pytest.mark.parametrize("pooling", [LastToken(), MeanOfTokens()])
def test_single_labels(pooling: Pooling, model: Gpt, params: Any, batch: Batch) -> None:
    objective = SingleLabel(labels=NAMES, pooling=pooling)
    loss = jax.jit(_loss(objective, model))
    logits, label, _ = _logits(model, params, batch, pooling)
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(label)), label]
    result = objective.measure(lambda each: loss(params, each, None), [batch], small_tokenizer())
    assert result["examples"] == len(label) == NUM_TEXTS
    assert result["loss"] == pytest.approx(expected.mean(), rel=1e-5)
    right = (logits.argmax(1) == label).mean()
    assert result["accuracy"] == pytest.approx(right)
    assert result["exact_match"] == pytest.approx(right)
    assert result["majority_accuracy"] == pytest.approx(np.bincount(label).max() / len(label))
    assert f"accuracy {right:.3f}" in objective.describe(result)


def test_several_labels(model: Gpt, params: Any, batch: Batch) -> None:
    objective = MultiLabel(labels=NAMES)
    loss = jax.jit(_loss(objective, model))
    logits, _, labels = _logits(model, params, batch, LastToken())
    expected = -np.where(labels, -np.log1p(np.exp(-logits)), -np.log1p(np.exp(logits))).mean(1)
    result = objective.measure(lambda each: loss(params, each, None), [batch], small_tokenizer())
    assert result["loss"] == pytest.approx(expected.mean(), rel=1e-5)
    right = (logits > 0) == labels
    assert result["accuracy"] == pytest.approx(right.mean())
    assert result["exact_match"] == pytest.approx(right.all(1).mean())


def test_micro_batches_and_devices_change_nothing(model: Gpt, params: Any, batch: Batch) -> None:
    losses = [_loss(each(labels=NAMES), model) for each in (SingleLabel, MultiLabel)]

    def gradients(num_micro_batches: int) -> Any:
        def scored(params: Any, batch: Batch, rng: Any) -> Any:
            sums = [loss(params, batch, None) for loss in losses]
            return sum(each.objective for each in sums), sums

        def run(params: Any, batch: Batch) -> Any:
            return accumulate(scored, params, batch, jax.random.key(0), num_micro_batches)

        return jax.jit(run)

    expected = gradients(1)(params, batch)
    # A row of each micro-batch for each of four devices.
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with on_mesh(mesh, ShardingRules()):
        found = jax.device_get(gradients(2)(params, to_devices(batch, mesh)))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_labels_and_head_must_agree() -> None:
    other = replace(MODEL, head=ClassificationHead(num_classes=2)).build(VOCAB)
    with pytest.raises(ConfigError, match=r"set it to ClassificationHead\(num_classes=3\)"):
        _loss(SingleLabel(labels=NAMES), other)
    with pytest.raises(ConfigError, match="labels must differ from each other"):
        SingleLabel(labels=("a", "a"))
    with pytest.raises(ConfigError, match="labels must be at least 2, not only 'a'"):
        SingleLabel(labels=("a",))
