"""Before each step the model answers the batch's prompts, and the answers are checked.

    prompts -> answers of the model as it is now (on the devices) -> texts -> rewards (on the host)
            -> advantages -> the batch that the step learns from

One step is made on each answer, by the parameters that drew it. So an answer is a function of the
state, the number of its row and the seed: a run that is resumed draws what it would have drawn.

Axes: B rows, T tokens of a row, N most tokens of an answer, P prompts, G answers to a prompt.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.errors import DivergedError
from jaxgpt.evaluation.objective import Policy
from jaxgpt.finetuning.reinforcement.prompts import (
    ADVANTAGES,
    DRAWN_LOG_PROBABILITIES,
    REFERENCES,
    ROW_NUMBERS,
)
from jaxgpt.finetuning.reinforcement.verifiers import Verifier
from jaxgpt.inference.decoding_weights import cast_weights, lay_out
from jaxgpt.inference.sampling import row_keys
from jaxgpt.inference.whole_answers import Answers, answer_prompts
from jaxgpt.parallel.sharding import replicated, to_devices
from jaxgpt.tokenizer.chat_template import stop_ids
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.state import TrainState
from jaxgpt.training.step import StepMetrics, TrainingStep


class Checked(NamedTuple):
    """Answers that were checked.

    Attributes:
        rewards_B: float64, what the verifier gives; 0 for an answer that does not end.
        lengths_B: ids of each answer, with the one that ends it.
        ended_B: bool, whether the answer ended within N ids.
    """

    rewards_B: np.ndarray
    lengths_B: np.ndarray
    ended_B: np.ndarray


class Lesson(NamedTuple):
    """Advantages and weights of answers, from which a step learns.

    Attributes:
        advantages_B: how much better an answer is than others to its prompt.
        weights_B: weight of each of its tokens in the loss; 0: the answer is left out.
    """

    advantages_B: np.ndarray
    weights_B: np.ndarray


def with_answers(
    step: TrainingStep,
    policy: Policy,
    verifier: Verifier,
    most: int,
    learn: Callable[[Checked], tuple[Lesson, dict[str, float]]],
) -> TrainingStep:
    """Return a step on batches of prompts, which draws and checks answers before `step`.

    Args:
        step: learns from answers.
        policy: the model that answers.
        verifier: checks them.
        most: N.
        learn: from checked answers to what a step learns from each, and figures of the step.
    """
    model, mesh, tokenizer = policy.model, policy.mesh, policy.tokenizer
    is_end_V = jnp.asarray(ends_answers(tokenizer.bytes_per_token))

    def draw(params: Any, prompts: Batch) -> Answers:
        assert prompts.extras is not None
        keys_B = row_keys(policy.seed, prompts.extras[ROW_NUMBERS][:, 0])
        lengths_B = jnp.sum(prompts.segment_ids_BT, axis=1)
        return answer_prompts(model, params, prompts.tokens_BT, lengths_B, is_end_V, most, keys_B)

    draw = jax.jit(draw, out_shardings=replicated(mesh))

    def answer_and_step(state: TrainState, prompts: Batch) -> tuple[TrainState, StepMetrics]:
        params = lay_out(model, cast_weights(model, policy.params_of(state)))
        prompts, answers = jax.device_get((prompts, draw(params, prompts)))
        checked = check(prompts, answers, verifier, tokenizer)
        lesson, figures = learn(checked)
        state, metrics = step(state, to_devices(fill(prompts, answers, lesson), mesh))
        return state, metrics._replace(figures={**figures, **(metrics.figures or {})})

    return answer_and_step


def ends_answers(bytes_per_token: Any) -> Any:
    """Return which ids end an answer, bool [V]: all that stand for no text."""
    return bytes_per_token == 0


def check(prompts: Batch, answers: Answers, verifier: Verifier, tokenizer: Tokenizer) -> Checked:
    """Compare the text of each answer with the right one.

    Args:
        prompts: batch of NumPy arrays.
        answers: to its rows, NumPy arrays.
        verifier: the rule.
        tokenizer: of the model.

    Raises:
        DivergedError: the model's scores are not finite.
    """
    assert prompts.extras is not None
    ends = stop_ids(tokenizer)
    rewards_B = np.zeros(len(prompts.tokens_BT))
    for row, length in enumerate(answers.lengths_B.tolist()):
        ids = answers.ids_BN[row, :length].tolist()
        if min(ids) < 0:
            raise DivergedError(
                "the model's scores are not finite; begin with another checkpoint, or lower "
                "schedule.peak_learning_rate"
            )
        # A text that would go on, or end as no message does, is no answer yet.
        if ids[-1] in ends:
            reference = prompts.extras[REFERENCES][row]
            texts = (tokenizer.decode(each) for each in (ids, reference[reference >= 0].tolist()))
            rewards_B[row] = verifier.reward(*texts)
    return Checked(rewards_B, answers.lengths_B, answers.ended_B)


def fill(prompts: Batch, answers: Answers, lesson: Lesson) -> Batch:
    """Return the batch that a step learns from: each prompt with its answer after it.

    Args:
        prompts: batch of NumPy arrays.
        answers: to its rows, NumPy arrays.
        lesson: what is learned from them.
    """
    assert prompts.extras is not None
    extras = {name: np.array(prompts.extras[name]) for name in prompts.extras}
    parts = [np.array(part) for part in prompts[:-1]]
    tokens_BT, targets_BT, segment_ids_BT, positions_BT, weights_BT = parts
    for row, (start, length) in enumerate(
        zip(prompts.segment_ids_BT.sum(axis=1), answers.lengths_B, strict=True)
    ):
        ids = answers.ids_BN[row, :length]
        # The last id is a target and no input; the first is predicted at the prompt's last place.
        read, predicted = slice(start, start + length - 1), slice(start - 1, start + length - 1)
        tokens_BT[row, read] = ids[:-1]
        targets_BT[row, predicted] = ids
        segment_ids_BT[row, read] = 1
        positions_BT[row, read] = np.arange(start, start + length - 1)
        weights_BT[row, predicted] = lesson.weights_B[row]
        extras[ADVANTAGES][row, predicted] = lesson.advantages_B[row]
        log_probabilities_N = answers.log_probabilities_BN[row, :length]
        extras[DRAWN_LOG_PROBABILITIES][row, predicted] = log_probabilities_N
    return Batch(*parts, extras=extras)
