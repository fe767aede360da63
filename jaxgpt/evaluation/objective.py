"""`Objective`: what a run minimises, and how held-out data are measured by it.

Pretraining predicts the next token; other objectives are values of the same field of a config.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import jax
from jax.sharding import Mesh

from jaxgpt.batch import Batch
from jaxgpt.config import Execution, configclass
from jaxgpt.evaluation.perplexity import measure_perplexity
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.loss import LossConfig, LossFunction, LossSums, language_model_loss
from jaxgpt.training.state import TrainState
from jaxgpt.training.step import TrainingStep

# Scores one batch; its sums may still be on their way from the device.
SumsOf = Callable[[Batch], LossSums]


@configclass
class FrozenModel:
    """Another model whose outputs a loss reads."""

    run: Execution[str]
    """Run folder, or its URL."""
    step: Execution[int]
    """Step of the run."""
    fingerprint: str
    """Hash of the step's parameters, from the hashes of their files."""
    model: GptConfig
    """The model."""


# From a run folder and the name of a step to the model.
OpenModel = Callable[[str, str], FrozenModel]


class Policy(NamedTuple):
    """The model in training, as one that writes text.

    Attributes:
        model: without parameters, and without an adapter.
        params_of: from a state to its parameters, which an adapter is merged into.
        tokenizer: of the model.
        mesh: of the devices that it is trained on.
        seed: of the run.
    """

    model: Gpt
    params_of: Callable[[TrainState], Any]
    tokenizer: Tokenizer
    mesh: Mesh
    seed: int


@configclass
class Objective:
    """Base of the objectives."""

    def open_models(self, open_model: OpenModel) -> Self:
        """Return the objective with the other models that its loss reads, if it has any."""
        return self

    @property
    def needs_reference(self) -> bool:
        """Return whether the model that training began from has a part in the loss."""
        return False

    @property
    def frozen_models(self) -> Mapping[str, FrozenModel]:
        """Return the other models; the loss finds their parameters under these names."""
        return {}

    def build_loss(
        self, model: Gpt, bytes_per_token_V: jax.Array, loss: LossConfig, num_segments: int
    ) -> LossFunction:
        """Return the loss of a micro-batch as sums, to be divided once by the sum of weights.

        Args:
            model: without parameters.
            bytes_per_token_V: int32, bytes of text that each id stands for.
            loss: settings of the cross-entropy.
            num_segments: most segments that a row of a batch has; 0: it is not known.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build_loss")

    def build_held_out_loss(
        self, model: Gpt, bytes_per_token_V: jax.Array, loss: LossConfig, num_segments: int
    ) -> LossFunction:
        """Return what `measure` reads; it needs no other model, as a finished run has none."""
        return self.build_loss(model, bytes_per_token_V, loss, num_segments)

    def wrap_step(self, step: TrainingStep, policy: Policy) -> TrainingStep:
        """Return the training step with what comes before it: answers of the model, for example.

        Raises:
            ConfigError: the run cannot do that.
        """
        return step

    def measure(
        self, sums_of: SumsOf, batches: Iterable[Batch], tokenizer: Tokenizer
    ) -> dict[str, Any]:
        """Return figures over all batches of held-out data; `loss`, which is to fall, is one.

        Args:
            sums_of: called once a batch, in order.
            batches: host arrays.
            tokenizer: the model's.

        Raises:
            ValueError: the batches predict nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} has no measure")

    def describe(self, result: dict[str, Any]) -> str:
        """Return what `measure` gave as a line for the person at the terminal."""
        raise NotImplementedError(f"{type(self).__name__} has no describe")


@configclass
class NextToken(Objective):
    """Cross-entropy of each token given those before it, on the targets that have weight."""

    def build_loss(
        self, model: Gpt, bytes_per_token_V: jax.Array, loss: LossConfig, num_segments: int
    ) -> LossFunction:
        return language_model_loss(model, bytes_per_token_V, loss)

    def measure(
        self, sums_of: SumsOf, batches: Iterable[Batch], tokenizer: Tokenizer
    ) -> dict[str, Any]:
        def step(batch: Batch) -> tuple[Any, Any]:
            sums = sums_of(batch)
            return sums.loss, sums.weight

        return measure_perplexity(step, batches, tokenizer.bytes_per_token)._asdict()

    def describe(self, result: dict[str, Any]) -> str:
        return (
            f"validation loss {result['loss']:.4f}, {result['bits_per_byte']:.4f} bits per byte "
            f"over {result['tokens']:,} tokens"
        )
