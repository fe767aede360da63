"""Guesses of how the engine's answers go on: which requests may have some, and from where."""

from collections.abc import Collection, Sequence

from jaxgpt.inference.engine.drafting import Drafter, OpenCheckpoint, Speculation, Target, Text
from jaxgpt.inference.engine.running import Running
from jaxgpt.inference.engine.slot_work import SlotWork


class Guesses:
    """Drafted tokens of an engine, or none.

    Args:
        speculation: where they come from; None: there are none.
        target: the engine's model.
        open_checkpoint: opens another one.

    Raises:
        JaxgptError: a checkpoint that `speculation` names cannot be opened or used.
    """

    def __init__(
        self, speculation: Speculation | None, target: Target, open_checkpoint: OpenCheckpoint
    ) -> None:
        self._drafter: Drafter | None = None
        if speculation is not None:
            self._drafter = speculation.build(target, open_checkpoint)

    def make(
        self, decoding: Sequence[Running], bound: Collection[int], work: SlotWork
    ) -> list[list[int]]:
        """Return the guessed next ids of each request.

        Args:
            decoding: the requests.
            bound: slots in which a constraint binds the next token; they have no guess, since what
                it allows after that is not known yet.
            work: has the slots.
        """
        if self._drafter is None:
            return [[] for _ in decoding]
        free = [running for running in decoding if running.slot not in bound]
        # The last token that is drawn needs no guess; nor one that a constraint must look at.
        texts = [Text(running.slot, running.ids(), running.room - 1) for running in free]
        guesses = self._drafter.draft(texts, work.draws(decoding))
        found = {text.slot: ids for text, ids in zip(texts, guesses, strict=True)}
        return [found.get(running.slot, []) for running in decoding]

    def reset(self) -> None:
        """Forget what is on the device, which may be lost."""
        if self._drafter is not None:
            self._drafter.reset()
