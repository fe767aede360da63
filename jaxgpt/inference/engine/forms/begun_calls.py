"""Answers that may have calls of tools: free text, in which a call that begins is a whole one."""

import numpy as np

from jaxgpt.inference.engine.forms.grammar import GrammarConstraint
from jaxgpt.inference.engine.forms.tag_spelling import TagSpelling


class BegunCalls:
    """Lets a model write what it likes, and holds a call that it begins to a grammar.

    A `TokenConstraint`. A token that completes the tag of a call may hold more text than the tag;
    it is drawn only if a call goes on with that text.

    Args:
        tag: spells the text that begins a call.
        call: constraint of what follows the tag; copied for each call.
        is_single: whether the answer ends with its first call.
    """

    def __init__(self, tag: TagSpelling, call: GrammarConstraint, is_single: bool) -> None:
        self._tag = tag
        self._first = call
        self._is_single = is_single
        self._begun = 0
        self._call: GrammarConstraint | None = None

    def fill(self, allowed_W: np.ndarray) -> bool:
        """Write what may follow in a call; outside of one forbid tokens that no call goes on with.

        Raises:
            ConstraintError: the grammar cannot go on.
        """
        if self._call is not None:
            return self._call.fill(allowed_W)
        completing = self._tag.completing(self._begun).items()
        wrong = [id for id, rest in completing if rest is None or not self._first.allows(rest)]
        for id in wrong:
            allowed_W[id // 32] &= ~np.uint32(1 << id % 32)
        return bool(wrong)

    def horizon(self) -> int:
        """Return how many tokens are free until the one that may complete the tag."""
        if self._call is not None:
            return 1
        return max(1, self._tag.steps(self._begun) - 1)

    def advance(self, token: int) -> bool:
        """Take a drawn token; return whether the only call is whole.

        Raises:
            ConstraintError: the grammar gave up.
        """
        if self._call is None:
            self._begun, rest = self._tag.read(self._begun, token)
            if rest is not None:
                self._call = self._first.copy()
                for id in self._tag.ids(rest) or ():
                    self._call.advance(id)
            return False
        if not self._call.advance(token):
            return False
        self._call = None
        return self._is_single
