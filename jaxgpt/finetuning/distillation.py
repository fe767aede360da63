"""`Distilled`: a small model learns the probabilities that a larger one gives to every next token.

Hinton, Vinyals and Dean 2015, arXiv:1503.02531. With logits z of the student and t of the teacher,
a temperature T and a share s, a target's loss is

    s T^2 KL(softmax(t / T) || softmax(z / T)) + (1 - s) cross-entropy(z)

where T^2 keeps the size of the first term's gradient when T changes.

Axes: B rows, T time, D model, V vocabulary.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.batch import Batch
from jaxgpt.config import Execution, configclass, replace
from jaxgpt.errors import ConfigError, MismatchError
from jaxgpt.evaluation.objective import FrozenModel, OpenModel
from jaxgpt.finetuning.objectives import TokenObjective
from jaxgpt.model.gpt import Gpt
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.training.chunked_loss import LossInputs, TokenSums
from jaxgpt.training.loss import (
    LossConfig,
    LossFunction,
    LossSums,
    cross_entropy,
    hidden_states_and_head,
    language_model_loss,
    with_counts,
    with_routing,
)

TEACHER = "teacher"


@configclass
class Distilled(TokenObjective):
    """Probabilities of a larger model of the same tokenizer, mixed with the cross-entropy of the
    targets. Held-out data are measured by the cross-entropy alone."""

    teacher: Execution[str] = ""
    """Run folder of the larger model, or its URL."""
    teacher_step: Execution[str] = "latest"
    """Checkpoint of that run: latest, best (lowest validation loss), or a step's number."""
    temperature: float = 1.0
    """Divisor of the logits of both models; above 1, rare tokens count more."""
    share: float = 0.5
    """Share of the teacher's part in the loss; the rest is the cross-entropy's."""
    frozen_teacher: FrozenModel | None = None
    """Checkpoint of the teacher, with its model; a run fills it in when it starts."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be positive")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} must be above 0 and at most 1")

    def open_models(self, open_model: OpenModel) -> "Distilled":
        """Return the objective with its teacher's checkpoint.

        Raises:
            ConfigError: no teacher is named.
            MismatchError: it is no language model.
        """
        if not self.teacher:
            raise ConfigError(
                "distillation needs a teacher: give --objective.teacher RUN, a run of the same "
                "tokenizer"
            )
        teacher = open_model(self.teacher, self.teacher_step)
        if not isinstance(teacher.model.head, LanguageModelHead):
            raise MismatchError(
                f"{self.teacher} has a {type(teacher.model.head).__name__}; only a model with a "
                "LanguageModelHead gives probabilities to tokens: choose another teacher"
            )
        return replace(self, frozen_teacher=teacher)

    @property
    def frozen_models(self) -> Mapping[str, FrozenModel]:
        return {} if self.frozen_teacher is None else {TEACHER: self.frozen_teacher}

    def build_held_out_loss(
        self, model: Gpt, bytes_per_token_V: jax.Array, loss: LossConfig, num_segments: int
    ) -> LossFunction:
        return language_model_loss(model, bytes_per_token_V, loss)

    def build_loss(
        self, model: Gpt, bytes_per_token_V: jax.Array, loss: LossConfig, num_segments: int
    ) -> LossFunction:
        """Return the loss; parameters have those of the teacher under the name `teacher`."""
        loss.check_plain(type(self).__name__)
        teacher = self.frozen_models[TEACHER].model.build(model.vocab_size)

        def score(inputs: LossInputs) -> TokenSums:
            own = _logits(model, inputs.x, inputs.kernel)
            theirs = _logits(teacher, inputs.others, inputs.other_kernels)
            divergence = self.temperature**2 * divergences(theirs, own, self.temperature)
            sums = cross_entropy(own, inputs.targets, inputs.weights)
            soft = self.share * jnp.sum(divergence * inputs.weights)
            return sums._replace(objective=soft + (1 - self.share) * sums.objective)

        def distil(params: Any, batch: Batch, rng: jax.Array | None) -> LossSums:
            params = dict(params)
            frozen, _ = hidden_states_and_head(teacher, params.pop(TEACHER), batch, None)
            own, routing = hidden_states_and_head(model, params, batch, rng)
            targets = batch.targets_BT, batch.loss_weights_BT
            inputs = LossInputs(*own, *targets, *jax.lax.stop_gradient(frozen))
            sums = with_counts(loss.logits.sums(score, inputs), batch, bytes_per_token_V)
            # What the cross-entropy has no part in is the divergence.
            soft = jax.lax.stop_gradient(sums.objective) - (1 - self.share) * sums.loss
            divergence = soft / (self.share * self.temperature**2)
            sums = sums._replace(figures={"divergence_from_teacher": divergence})
            return with_routing(sums, routing, batch)

        return distil


def _logits(model: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the logits [..., V] without padding, which differs between models."""
    return model.config.head.logits(x, kernel, model.vocab_size)[..., : model.vocab_size]


def divergences(teacher: jax.Array, student: jax.Array, temperature: float) -> jax.Array:
    """Return KL(teacher || student) in nats of each token [...], of logits [..., V]."""
    log_teacher = jax.nn.log_softmax(teacher / temperature)
    log_student = jax.nn.log_softmax(student / temperature)
    return jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), axis=-1)
