"""`PreferenceObjective`: what the objectives that learn from preferences share.

Axes: B rows, T tokens of a row, S sequences of a row, P examples of a row.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxgpt.batch import Batch
from jaxgpt.config import configclass, replace
from jaxgpt.evaluation.objective import SumsOf
from jaxgpt.evaluation.statistics import proportion_interval
from jaxgpt.finetuning.log_probabilities import log_probabilities_of
from jaxgpt.finetuning.objectives import ExampleObjective
from jaxgpt.finetuning.preference.answers import Answers
from jaxgpt.finetuning.preference.reference import reference_of, sum_answers
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.model.layers.projection import Dropout
from jaxgpt.model.moe.routing_stats import Routing
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.loss import LossConfig, LossFunction, LossSums

# From (params, batch, rng) to the answers [B, S] of a batch, and what the routers did.
ReadAnswers = Callable[[Any, Batch, jax.Array | None], tuple[Answers, Routing | None]]


@configclass
class PreferenceObjective(ExampleObjective):
    """Base of the objectives that score whole answers, against a reference or not."""

    group_size: ClassVar[int] = 2
    num_sequences: ClassVar[int] = 2
    weighs_examples: ClassVar[bool] = True

    @property
    def needs_reference(self) -> bool:
        return True

    def adapt_model(self, model: GptConfig) -> GptConfig:
        """Return the model without dropout, as the reference has none either."""
        return replace(model, dropout=Dropout())

    def build_loss_of_answers(self, read: ReadAnswers) -> LossFunction:
        """Return the loss of a micro-batch whose answers `read` gives."""
        raise NotImplementedError(f"{type(self).__name__} has no build_loss_of_answers")

    def build_loss(
        self, model: Gpt, bytes_per_token_V: jax.Array, loss: LossConfig, num_segments: int
    ) -> LossFunction:
        loss.check_plain(type(self).__name__)
        num_segments += num_segments % 2
        policy = log_probabilities_of(model, loss)
        reference = reference_of(model, loss, num_segments) if self.needs_reference else None

        def read(
            params: Any, batch: Batch, rng: jax.Array | None
        ) -> tuple[Answers, Routing | None]:
            values_BT, routing = policy(params, batch, rng)
            policy_BS, num_tokens_BS = (
                sum_answers(each_BT, batch, num_segments)
                for each_BT in (values_BT, jnp.ones_like(values_BT))
            )
            reference_BS = reference(params, batch) if reference else jnp.zeros_like(policy_BS)
            return Answers(policy_BS, reference_BS, num_tokens_BS), routing

        return self.build_loss_of_answers(read)

    def measure(
        self, sums_of: SumsOf, batches: Iterable[Batch], tokenizer: Tokenizer
    ) -> dict[str, Any]:
        """Return means over examples, and a 95% interval of the accuracy; see `Objective`."""
        totals: dict[str, float] = {"loss": 0.0}
        weight = 0.0
        for batch in batches:
            sums = sums_of(batch)
            weight += float(sums.weight)
            for name, value in {"loss": sums.loss, **(sums.figures or {})}.items():
                totals[name] = totals.get(name, 0.0) + float(value)
        if not weight:
            raise ValueError("the batches have no example with two answers")
        result: dict[str, Any] = {name: total / weight for name, total in totals.items()}
        low, high = proportion_interval(result["preference_accuracy"], weight)
        return {
            **result,
            "preference_accuracy_low": low,
            "preference_accuracy_high": high,
            "examples": int(weight),
        }

    def describe(self, result: dict[str, Any]) -> str:
        return (
            f"validation loss {result['loss']:.4f}, preference accuracy "
            f"{result['preference_accuracy']:.3f} ({result['preference_accuracy_low']:.3f} to "
            f"{result['preference_accuracy_high']:.3f}) over {result['examples']:,} examples"
        )


def sums_of_answers(
    losses_BP: jax.Array,
    exists_BP: jax.Array,
    figures: dict[str, jax.Array],
    routing: Routing | None,
) -> LossSums:
    """Return the sums over the examples that exist, each of which weighs 1.

    With experts, each example adds the auxiliary losses of its row's routing.

    Args:
        losses_BP: the examples' losses.
        exists_BP: 1 where there is an example, otherwise 0.
        figures: what is reported of each, [B, P].
        routing: of the rows; None without experts.
    """

    def total(values_BP: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(exists_BP > 0, values_BP, 0))

    loss = total(losses_BP)
    sums = LossSums(
        objective=loss,
        loss=jax.lax.stop_gradient(loss),
        weight=jnp.sum(exists_BP),
        num_bytes=None,
        figures={name: jax.lax.stop_gradient(total(each)) for name, each in figures.items()},
    )
    if routing is None:
        return sums
    of_rows = routing.sum_rows(jnp.sum(exists_BP, axis=1))
    return sums._replace(objective=sums.objective + of_rows.auxiliary, routing=of_rows)
