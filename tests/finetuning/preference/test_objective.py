"""Preference objectives of a model: packed rows, references, micro-batches and devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.batch import Batch
from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.log_probabilities import log_probabilities_of
from jaxgpt.finetuning.preference.dpo import Dpo
from jaxgpt.finetuning.preference.ipo import Ipo
from jaxgpt.finetuning.preference.kto import DESIRABLE, Kto
from jaxgpt.finetuning.preference.objective import PreferenceObjective
from jaxgpt.finetuning.preference.orpo import Orpo
from jaxgpt.finetuning.preference.reference import REFERENCE, sum_answers
from jaxgpt.model.adapted import merge, split
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.model.layers.adapters import Lora
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, to_devices
from jaxgpt.training.chunked_loss import TokenChunks
from jaxgpt.training.loss import LossConfig
from jaxgpt.training.state import init_parameters
from jaxgpt.training.step import accumulate
from tests.finetuning.preference.examples import bring
from tests.finetuning.small_tokenizer import small_tokenizer

VOCAB, LENGTH, ROWS, SEGMENTS = 24, 32, 8, 6
CONFIG = GptConfig(
    num_layers=1,
    d_model=16,
    attention=GroupedQueryAttention(num_heads=2, num_kv_heads=2),
    feed_forward=SwiGlu(hidden=16),
    vocab_multiple=8,
)
LOSS = LossConfig(logits=TokenChunks(num_tokens=48))
NUM_PAIRS = 10
OBJECTIVES = [Dpo(label_smoothing=0.1), Ipo(), Orpo(), Kto()]


def _row(lengths: list[tuple[int, int]], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One row of sequences with (prompt, answer) tokens; the first of a sequence is its prompt."""
    names = ("tokens", "targets", "segments", "positions", "weights", "desirable")
    row = {name: np.zeros(LENGTH, np.float32) for name in names}
    start = 0
    for number, (prompt, answer) in enumerate(lengths):
        ids = rng.integers(0, VOCAB, prompt + answer)
        here = slice(start, start + len(ids))
        row["tokens"][here] = ids
        row["targets"][here] = [*ids[1:], 0]
        row["segments"][here] = number + 1
        row["positions"][here] = np.arange(len(ids))
        row["weights"][here] = (np.arange(len(ids)) >= prompt - 1) & (
            np.arange(len(ids)) < len(ids) - 1
        )
        row["desirable"][here] = number // 2 % 2
        start += len(ids)
    return row


def _batch(rows: list[dict[str, np.ndarray]]) -> Batch:
    def stack(name: str, dtype: Any = np.int32) -> np.ndarray:
        return np.stack([row[name] for row in rows]).astype(dtype)

    reference_BS = -np.random.default_rng(1).uniform(1, 60, (len(rows), SEGMENTS))
    return Batch(
        tokens_BT=stack("tokens"),
        targets_BT=stack("targets"),
        segment_ids_BT=stack("segments"),
        positions_BT=stack("positions"),
        loss_weights_BT=stack("weights", np.float32),
        extras={
            REFERENCE: bring(reference_BS, stack("segments")),
            DESIRABLE: stack("desirable", np.float32),
        },
    )


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Rows of one to three pairs with answers of 1 to 19 tokens, one row without any."""
    rng = np.random.default_rng(0)
    pairs = [(2, 1), (1, 19), (3, 3), (3, 2), (2, 4), (2, 6), (1, 1), (1, 2)]
    rows = [_row([pairs[i], pairs[(i + 3) % 8]], rng) for i in range(5)]
    rows.append(_row([(1, 3), (1, 2), (2, 4), (2, 1), (1, 4), (1, 5)], rng))
    rows.append(_row([(2, 5), (2, 6), (3, 4), (3, 1)], rng))
    rows.append(_row([], rng))
    return _batch(rows)


@pytest.fixture(scope="module")
def model() -> Gpt:
    return CONFIG.build(VOCAB)


@pytest.fixture(scope="module")
def params(model: Gpt) -> Any:
    return init_parameters(model, ShardingRules(), make_mesh(MeshConfig()), seed=0)


def _loss(objective: PreferenceObjective, model: Gpt, num_segments: int = SEGMENTS) -> Any:
    return objective.build_loss(model, jnp.ones(VOCAB, jnp.int32), LOSS, num_segments)


def _sequences_alone(batch: Batch) -> Batch:
    """Each sequence as the only one of its row, in the order of the packed rows."""
    rows = []
    assert batch.extras is not None
    for row, number in np.ndindex(ROWS, SEGMENTS):
        here = np.asarray(batch.segment_ids_BT)[row] == number + 1
        if here.any():
            padding = (0, LENGTH - here.sum())
            parts = [np.pad(np.asarray(part)[row][here], padding) for part in batch[:5]]
            first = np.flatnonzero(here)[0]
            reference = np.tile(batch.extras[REFERENCE][row, first, number % 2], LENGTH)
            rows.append(Batch(*parts, extras={REFERENCE: reference}))
    return jax.tree.map(lambda *parts: np.stack(parts), *rows)


def test_packed_pairs_are_scored_as_pairs_alone(model: Gpt, params: Any, batch: Batch) -> None:
    sums = jax.jit(_loss(Dpo(beta=0.2), model))(params, batch, None)
    alone = _sequences_alone(batch)
    assert alone.extras is not None

    def whole(tokens_BT: Any, segment_ids_BT: Any) -> jax.Array:
        return jax.nn.log_softmax(model.apply({"params": params}, tokens_BT, segment_ids_BT)[0])

    all_BTV = np.asarray(jax.jit(whole)(alone.tokens_BT, alone.segment_ids_BT), np.float64)
    chosen_BT = np.take_along_axis(all_BTV, alone.targets_BT[..., None], -1)[..., 0]
    policy_B = (chosen_BT * (alone.loss_weights_BT > 0)).sum(1)
    ratios = (policy_B - alone.extras[REFERENCE][:, 0]).reshape(-1, 2)
    losses = np.log1p(np.exp(-0.2 * (ratios[:, 0] - ratios[:, 1])))
    assert float(sums.weight) == len(losses) == NUM_PAIRS
    assert float(sums.loss) == pytest.approx(losses.sum(), rel=1e-5)
    figures = sums.figures
    assert float(figures["chosen_log_probability"]) == pytest.approx(policy_B[0::2].sum(), rel=1e-5)
    assert float(figures["preference_accuracy"]) == (ratios[:, 0] > ratios[:, 1]).sum()


def _all_objectives(model: Gpt) -> Any:
    """(sum of the objectives, sums of each)."""
    losses = [_loss(objective, model) for objective in OBJECTIVES]

    def scored(params: Any, batch: Batch, rng: Any) -> Any:
        sums = [loss(params, batch, None) for loss in losses]
        return sum(each.objective for each in sums), sums

    return scored


@pytest.mark.slow  # In the tests of classification a quick one shows it.
def test_micro_batches_and_devices_change_nothing(model: Gpt, params: Any, batch: Batch) -> None:
    def gradients(num_micro_batches: int) -> Any:
        def run(params: Any, batch: Batch) -> Any:
            key = jax.random.key(0)
            return accumulate(_all_objectives(model), params, batch, key, num_micro_batches)

        return jax.jit(run)

    expected = gradients(1)(params, batch)
    assert all(float(sums.weight) == NUM_PAIRS for sums in expected[1])
    # A row of each micro-batch for each of four devices.
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with on_mesh(mesh, ShardingRules()):
        found = jax.device_get(gradients(2)(params, to_devices(batch, mesh)))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_targets_of_a_prompt_have_no_part(model: Gpt, params: Any, batch: Batch) -> None:
    step = jax.jit(jax.value_and_grad(_all_objectives(model), has_aux=True))
    targets_BT = np.where(batch.loss_weights_BT > 0, batch.targets_BT, 7)
    assert (targets_BT != batch.targets_BT).any()
    found = step(params, batch._replace(targets_BT=targets_BT), None)
    expected = step(params, batch, None)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_without_its_adapter_is_the_reference(
    model: Gpt, params: Any, batch: Batch
) -> None:
    adapted = CONFIG.build(VOCAB, Lora(rank=2))
    both = init_parameters(adapted, ShardingRules(), make_mesh(MeshConfig()), seed=0)
    start = jax.jit(_loss(Dpo(), adapted))
    sums = start(both, batch, None)
    assert float(sums.loss) == pytest.approx(NUM_PAIRS * np.log(2), rel=1e-6)
    assert float(sums.figures["preference_accuracy"]) == NUM_PAIRS / 2  # All ties.

    trained = jax.tree.map(lambda leaf: leaf + 0.05, both)
    _, base = split(trained, adapted.adapter.is_trainable)
    values_BT = jax.jit(log_probabilities_of(model, LOSS))(base, batch, None).values_BT
    reference_BS = np.asarray(sum_answers(values_BT, batch, SEGMENTS))
    precomputed = batch._replace(extras={REFERENCE: bring(reference_BS, batch.segment_ids_BT)})
    merged = merge(adapted, trained)
    expected = jax.jit(_loss(Dpo(), model))(merged, precomputed, None)
    assert float(start(trained, batch, None).loss) == pytest.approx(float(expected.loss), rel=1e-4)


def test_z_loss_is_refused(model: Gpt) -> None:
    with pytest.raises(ConfigError, match=r"loss\.z_loss=0\.1: Dpo has no such term"):
        Dpo().build_loss(model, jnp.ones(VOCAB), LossConfig(z_loss=0.1), SEGMENTS)


def test_means_and_interval_over_all_batches(model: Gpt, params: Any, batch: Batch) -> None:
    loss = jax.jit(_loss(Dpo(), model))
    # The last rows have no pairs.
    halves = [batch, jax.tree.map(lambda rows: np.repeat(rows[7:], ROWS, axis=0), batch)]
    whole = Dpo().measure(lambda each: loss(params, each, None), [batch], small_tokenizer())
    parts = Dpo().measure(lambda each: loss(params, each, None), halves, small_tokenizer())
    assert whole["examples"] == parts["examples"] == NUM_PAIRS
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    low, high = whole["preference_accuracy_low"], whole["preference_accuracy_high"]
    assert low < whole["preference_accuracy"] < high
    assert "over 10 examples" in Dpo().describe(whole)
    with pytest.raises(ValueError, match="no example with two answers"):
        Dpo().measure(lambda each: loss(params, each, None), halves[1:], small_tokenizer())
