"""`LoadedModel`: a model with parameters, its tokenizer and its devices, as evaluations take it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh

from jaxgpt.errors import MismatchError
from jaxgpt.inference.precision import UNROUNDED, Precision
from jaxgpt.inference.text_generation import HealedPrompt, heal_prompt
from jaxgpt.model.gpt import Gpt
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.parallel.sharding import check_length
from jaxgpt.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready to score text.

    Attributes:
        model: the architecture.
        params: its parameters, on the mesh.
        tokenizer: turns text into the ids that the model knows.
        mesh: devices that hold the parameters and take batches.
        context_length: most tokens that the model reads at once.
        prompt_encoder: turns a text that a person types into the ids that the model continues.
        prompt_form: what it puts around the text, for people.
        precision: types of weights, cache and arithmetic; the parameters are rounded to it.
        stop_ids: ids at which the model ends its text; None: EOS.
    """

    model: Gpt
    params: Any
    tokenizer: Tokenizer
    mesh: Mesh
    context_length: int
    prompt_encoder: Callable[[Tokenizer, str], HealedPrompt] = heal_prompt
    prompt_form: str = "plain text"
    precision: Precision = UNROUNDED
    stop_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check that the model can score text of this length on these devices.

        Raises:
            ConfigError: the model has too few positions, or the mesh does not divide a row.
        """
        check_length(self.context_length, self.mesh)
        self.model.config.position.check_length(self.context_length)

    @functools.cached_property
    def params_on_this_host(self) -> Any:
        """Parameters of which this host has every part; of several hosts, all gather them once."""
        if jax.process_count() == 1:
            return self.params
        return process_allgather(self.params, tiled=True)

    def encode_prompt(self, text: str) -> HealedPrompt:
        """Return the ids that the model continues, for a text that a person types.

        Raises:
            BadInputError: a prompt that is no text.
        """
        return self.prompt_encoder(self.tokenizer, text)

    @property
    def head(self) -> LanguageModelHead:
        """Return the head that gives probabilities to tokens.

        Raises:
            MismatchError: the model predicts something else.
        """
        head = self.model.config.head
        if not isinstance(head, LanguageModelHead):
            raise MismatchError(
                f"this model has a {type(head).__name__}; only one with a LanguageModelHead gives "
                "probabilities to text"
            )
        return head
