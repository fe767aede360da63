"""Learning from checked answers with a model: drift, micro-batches, devices, what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.batch import Batch
from jaxgpt.config import configclass, replace
from jaxgpt.data.loader import BatchConfig
from jaxgpt.errors import BadInputError, ConfigError, DivergedError
from jaxgpt.evaluation.objective import Policy
from jaxgpt.finetuning.log_probabilities import log_probabilities_of
from jaxgpt.finetuning.reinforcement.checking import check
from jaxgpt.finetuning.reinforcement.dapo import Dapo
from jaxgpt.finetuning.reinforcement.dr_grpo import DrGrpo
from jaxgpt.finetuning.reinforcement.grpo import Grpo
from jaxgpt.finetuning.reinforcement.gspo import Gspo
from jaxgpt.finetuning.reinforcement.prompts import HeldOutPrompts, PromptBatches
from jaxgpt.finetuning.reinforcement.verifiers import ExactMatch, Verifier
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.inference.whole_answers import Answers
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.layers.projection import Initialization
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, to_devices
from jaxgpt.training.loss import LossConfig
from jaxgpt.training.state import TrainState, init_parameters
from jaxgpt.training.step import StepMetrics, accumulate
from tests.finetuning.small_tokenizer import small_tokenizer

LENGTH, ROWS, GROUP, MOST = 16, 8, 4, 6
TOKENIZER = small_tokenizer()
VOCAB = TOKENIZER.vocab_size
CONFIG = GptConfig(
    num_layers=1,
    d_model=16,
    attention=GroupedQueryAttention(num_heads=2, num_kv_heads=2),
    feed_forward=SwiGlu(hidden=16),
    initialization=Initialization(std=0.2),
    vocab_multiple=8,
)
OBJECTIVES = [
    objective(answers_per_prompt=GROUP, max_answer_tokens=MOST)
    for objective in (Grpo, DrGrpo, Dapo, Gspo)
]
END = TOKENIZER.special_ids["end"]


@configclass
class LongAnswer(Verifier):
    """A reward that random answers differ in, whatever they say."""

    def reward(self, answer: str, reference: str) -> float:
        return len(answer) / 100


def _examples() -> TokenizedExamples:
    sequences = [
        [TOKENIZER.bos_id, *TOKENIZER.encode(text), *TOKENIZER.encode(answer), END]
        for text, answer in (("the user", "7"), ("how many", "are"), ("there", "asks and"))
    ]
    answers = [len(TOKENIZER.encode(answer)) + 1 for answer in ("7", "are", "asks and")]
    weights = [
        [0.0] * (len(ids) - number) + [1.0] * number
        for ids, number in zip(sequences, answers, strict=True)
    ]
    return TokenizedExamples(
        np.concatenate(sequences).astype(np.int32),
        np.concatenate(weights).astype(np.float32),
        np.cumsum([0, *map(len, sequences)]),
    )


@pytest.fixture(scope="module")
def model() -> Gpt:
    return CONFIG.build(VOCAB)


@pytest.fixture(scope="module")
def params(model: Gpt) -> Any:
    return init_parameters(model, ShardingRules(), make_mesh(MeshConfig()), seed=0)


@pytest.fixture(scope="module")
def learned(model: Gpt, params: Any) -> tuple[Batch, dict[str, float]]:
    """Return the batch that a step would learn from, and figures, after answers to prompts."""
    seen: list[Batch] = []

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        seen.append(jax.device_get(batch))
        zero = jnp.zeros(())
        return state, StepMetrics(zero, None, zero, zero)

    mesh = make_mesh(MeshConfig())
    policy = Policy(model, lambda state: state.trainable, TOKENIZER, mesh, seed=0)
    objective = replace(OBJECTIVES[0], verifier=LongAnswer())
    batches = PromptBatches(
        _examples(), BatchConfig(sequence_length=LENGTH, global_batch_size=ROWS), 0, GROUP
    )
    state = TrainState(step=0, trainable=params, frozen={}, opt_state=(), rng=None)
    wrapped = objective.wrap_step(step, policy)
    for number in (0, 0, 1):
        _, metrics = wrapped(state, batches.pick(number, range(ROWS)))
    first, again, other = seen
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(first), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (other.targets_BT != first.targets_BT).any()
    assert metrics.figures is not None
    return first, metrics.figures


def _loss(objective: Grpo, model: Gpt) -> Any:
    return objective.build_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig(), 1)


def test_what_was_drawn_is_what_training_computes(
    model: Gpt, params: Any, learned: tuple[Batch, dict[str, float]]
) -> None:
    batch, drawn = learned
    sums = jax.jit(_loss(OBJECTIVES[0], model))(params, batch, None)
    figures = {name: float(total / sums.weight) for name, total in sums.figures.items()}
    assert figures["drift_largest"] < 1e-5
    assert figures["ratio"] == pytest.approx(1, abs=1e-5)
    assert figures["clipped"] == 0
    assert figures["entropy"] > 1
    assert drawn.keys() == {"reward", "groups_without_variance", "truncated", "answer_tokens"}


@pytest.mark.slow
def test_micro_batches_and_devices_change_nothing(
    model: Gpt, params: Any, learned: tuple[Batch, dict[str, float]]
) -> None:
    batch, _ = learned
    log_probabilities = log_probabilities_of(model, LossConfig())

    def scored(params: Any, batch: Batch, rng: Any) -> Any:
        log_p_BT, routing = log_probabilities(params, batch, None)
        sums = [objective.sums(log_p_BT, batch, routing) for objective in OBJECTIVES]
        return sum(each.objective for each in sums), sums

    def gradients(num_micro_batches: int) -> Any:
        def run(params: Any, batch: Batch) -> Any:
            return accumulate(scored, params, batch, jax.random.key(0), num_micro_batches)

        return jax.jit(run)

    expected = gradients(1)(params, batch)
    assert float(expected[1][0].objective) != 0
    # A row of each micro-batch for each of four devices.
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with on_mesh(mesh, ShardingRules()):
        found = jax.device_get(gradients(2)(params, to_devices(batch, mesh)))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_answers_are_checked_as_texts_that_end() -> None:
    prompts = HeldOutPrompts(_examples(), LENGTH)
    (batch,) = prompts.batches(4)
    role = TOKENIZER.special_ids["user"]
    written = [
        [*TOKENIZER.encode(" 7"), END],
        [*TOKENIZER.encode("are"), role],
        TOKENIZER.encode("asks and")[:MOST],
        [0],
    ]
    answers = Answers(
        ids_BN=np.array([ids + [0] * (MOST - len(ids)) for ids in written]),
        log_probabilities_BN=np.zeros((4, MOST)),
        lengths_B=np.array([len(ids) for ids in written]),
        ended_B=np.array([True, True, False, True]),
    )
    assert check(batch, answers, ExactMatch(), TOKENIZER).rewards_B.tolist() == [1, 0, 0, 0]
    answers.ids_BN[0, 0] = -1
    with pytest.raises(DivergedError, match="not finite"):
        check(batch, answers, ExactMatch(), TOKENIZER)


def test_held_out_answers_are_the_likeliest_ones(model: Gpt, params: Any) -> None:
    objective = OBJECTIVES[0]
    loss = jax.jit(
        objective.build_held_out_loss(
            model, jnp.asarray(TOKENIZER.bytes_per_token), LossConfig(), 1
        )
    )
    batches = list(objective.make_held_out(_examples(), LENGTH).batches(4))
    result = objective.measure(lambda batch: loss(params, batch, None), batches, TOKENIZER)
    assert result["examples"] == 3
    assert result["loss"] == 1 - result["reward"] == 1
    assert 1 <= result["answer_tokens"] <= MOST
    assert "over 3 prompts" in objective.describe(result)
    with pytest.raises(ValueError, match="no prompt"):
        objective.measure(lambda batch: loss(params, batch, None), [], TOKENIZER)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answers_per_prompt": 1}, "answers_per_prompt must be at least 2"),
        ({"max_answer_tokens": 0}, "max_answer_tokens must be at least 1"),
        ({"clip_low": 1.5}, "clip_low must be between 0 and 1"),
        ({"clip_high": 0.0}, "clip_high must be positive"),
        ({"overlong_share": 1.0}, "overlong_share must be in"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Dapo(**fields)


def test_examples_without_room_or_answers_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    examples, objective = _examples(), OBJECTIVES[0]
    longest = max(len(examples.sequence(each)[0]) for each in range(3))
    assert len(objective.prepare(examples, (), longest + MOST)) == 3
    starts = [len(TOKENIZER.encode(text)) + 1 for text in ("the user", "how many", "there")]
    assert len(set(starts)) > 1
    fewer = objective.prepare(examples, (), max(starts) - 1 + MOST)
    assert 0 < len(fewer) < 3
    assert "are left out" in caplog.text
    short = replace(objective, max_answer_tokens=1)
    assert len(short.prepare(examples, (), longest)) < 3
    assert f"their answers are cut at {longest} tokens" in caplog.text
    with pytest.raises(ConfigError, match="leaves no room for a prompt"):
        objective.prepare(examples, (), MOST)
    with pytest.raises(BadInputError, match="no prompt of 3 leaves room"):
        objective.prepare(examples, (), 1 + MOST)
    none = TokenizedExamples(examples.tokens_N, np.zeros_like(examples.weights_N), examples.offsets)
    with pytest.raises(BadInputError, match="have no answers"):
        objective.prepare(none, (), LENGTH)
    batch = BatchConfig(sequence_length=LENGTH, global_batch_size=6)
    with pytest.raises(ConfigError, match=r"not divisible by objective\.answers_per_prompt=4"):
        objective.make_batches(examples, examples, batch, 0)
    with pytest.raises(ConfigError, match="Grpo has no such term"):
        objective.build_loss(CONFIG.build(VOCAB), jnp.ones(VOCAB), LossConfig(z_loss=0.1), 1)
