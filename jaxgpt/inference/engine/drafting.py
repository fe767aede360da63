"""`Speculation`: where drafted tokens come from, which the model then verifies several at a time.

Leviathan et al. 2023 (arXiv:2211.17192). A drafter guesses; nothing depends on its being right but
the time that an answer takes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.errors import UsageError
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.engine.drawing.row_sampling import RowSettings, Seen
from jaxgpt.model.gpt import Gpt


class Text(NamedTuple):
    """A text that is being written in a slot.

    Attributes:
        slot: its number.
        ids: int64, the prompt and what was drawn.
        room: most tokens that are worth drafting.
    """

    slot: int
    ids: np.ndarray
    room: int


class Draws(NamedTuple):
    """Draws of the next tokens in some slots; axis R is these slots.

    Attributes:
        rows_R: int32, numbers of the slots, in order.
        settings: of each slot.
        seen: of each slot, on the device.
        stop_V: bool, ids that end an answer.
    """

    rows_R: np.ndarray
    settings: RowSettings
    seen: Seen
    stop_V: np.ndarray


class Drafter(Protocol):
    """Guesses how texts go on; is called by one thread.

    Attributes:
        most: most tokens that are guessed at once.
    """

    most: int

    def draft(self, texts: Sequence[Text], draws: Draws) -> list[list[int]]:
        """Return the guessed next ids of each text, at most its `room`; none where it has no guess.

        Args:
            texts: that may be continued freely.
            draws: of their slots and perhaps others.
        """
        ...

    def reset(self) -> None:
        """Forget what is on the device, which may be lost."""
        ...


@dataclass(frozen=True)
class Target:
    """A model in whose slots tokens are drafted.

    Attributes:
        model: the model.
        num_slots: number of slots.
        max_length: tokens that a slot holds.
        chunk: tokens of a prompt that are read at once.
    """

    model: Gpt
    num_slots: int
    max_length: int
    chunk: int


# Opens a checkpoint of the target's tokenizer: a run and a step's name.
OpenCheckpoint = Callable[[str, str], Decoder]


def no_checkpoint(place: str, step: str) -> Decoder:
    """Refuse to open a checkpoint, where nothing can.

    Raises:
        UsageError: always.
    """
    raise UsageError(f"{place}: this engine was given nothing that opens checkpoints")


@configclass
class Speculation:
    """Base of the ways to draft tokens."""

    most: int = 4
    """Most tokens that are drafted at once."""

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most must be at least 1, not {self.most}")

    def open(self, open_checkpoint: OpenCheckpoint) -> None:
        """Open what `build` is going to open, so that a bad checkpoint is found at once.

        Args:
            open_checkpoint: keeps what it has opened.

        Raises:
            JaxgptError: a checkpoint cannot be opened.
        """

    def build(self, target: Target, open_checkpoint: OpenCheckpoint) -> Drafter:
        """Return what drafts for a model.

        Args:
            target: the model.
            open_checkpoint: opens another one.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build")
