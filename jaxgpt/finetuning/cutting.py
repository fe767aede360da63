"""Examples that are longer than the context: cut on the left of the prompt, or dropped, or refused.

The answer is kept and the prompt loses its beginning: the oldest messages go first, the system
message last, and of the message that is cut its end stays. A prompt keeps at least a quarter of the
context. What is then still too long has an answer that is too long, which loses its end and is not
taught to stop there. The sequences of a pair keep one prompt.

Axes: S sequences, M parts, E examples.
"""

import dataclasses
from typing import Literal

import numpy as np

from jaxgpt.errors import BadInputError
from jaxgpt.tokenizer.chat_template import ASSISTANT, SYSTEM, USER, ChatTemplate
from jaxgpt.tokenizer.sequences import NO_ID, Parts

TooLong = Literal["cut", "drop", "refuse"]
LongAnswers = Literal["cut", "drop"]
MIN_CONTEXT = 16
_FRAME = 2


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Parts of which every sequence fits.

    Attributes:
        parts: of all examples; those of examples that are dropped are to be left out.
        is_kept_E: bool, whether an example stays.
        is_cut_E: bool, whether its prompt was cut.
        is_long_E: bool, whether its answer alone is too long.
    """

    parts: Parts
    is_kept_E: np.ndarray
    is_cut_E: np.ndarray
    is_long_E: np.ndarray


def fit(
    parts: Parts,
    num_prompt_parts_E: np.ndarray,
    group_size: int,
    max_length: int,
    template: ChatTemplate,
    long_answers: LongAnswers,
) -> Fitted:
    """Cut the examples of which a sequence has more than `max_length` ids."""
    cutter = _Cutter(parts, max_length, template)
    num_examples = len(num_prompt_parts_E)
    is_kept_E = np.ones(num_examples, bool)
    is_cut_E, is_long_E = np.zeros(num_examples, bool), np.zeros(num_examples, bool)
    for example in np.flatnonzero(too_long(parts, group_size, max_length)).tolist():
        sequences = range(example * group_size, (example + 1) * group_size)
        is_cut_E[example], is_long_E[example] = cutter.cut(
            sequences, int(num_prompt_parts_E[example])
        )
        has_targets = all(map(cutter.keeps_its_targets, sequences))
        is_kept_E[example] = has_targets and not (is_long_E[example] and long_answers == "drop")
    return Fitted(cutter.parts(), is_kept_E, is_cut_E, is_long_E)


def too_long(parts: Parts, group_size: int, max_length: int) -> np.ndarray:
    """Return whether a sequence of an example has more than `max_length` ids: bool [E]."""
    return _lengths_S(parts).reshape(-1, group_size).max(axis=1) > max_length


def refuse(place: str, num_tokens: int, max_length: int) -> None:
    """Raise an error about an example that is too long."""
    raise BadInputError(
        f"{place}: the example has {num_tokens:,} tokens; the context takes {max_length:,}. "
        "Shorten it, or cut or drop such examples with too_long"
    )


def longest_sequence(parts: Parts, group_size: int, example: int) -> int:
    """Return the ids of the longest sequence of an example."""
    return int(_lengths_S(parts).reshape(-1, group_size)[example].max())


def _lengths_S(parts: Parts) -> np.ndarray:
    """Return the ids of each sequence, with BOS."""
    ends = np.concatenate([[0], np.cumsum(parts.num_parts_S)])
    return np.diff(np.concatenate([[0], np.cumsum(parts.lengths_M)])[ends]) + 1


class _Cutter:
    """Parts that are being cut."""

    def __init__(self, parts: Parts, max_length: int, template: ChatTemplate) -> None:
        self._parts = parts
        self._max_length = max_length
        self._ends = np.concatenate([[0], np.cumsum(parts.num_parts_S)])
        self._starts_M = parts.starts_M.copy()
        self._stops_M = parts.stops_M.copy()
        self._closings_M = parts.closings_M.copy()
        self._is_kept_M = np.ones(len(parts.starts_M), bool)
        self._lengths_M = parts.lengths_M
        self._roles = {template.frame(role)[0]: role for role in (SYSTEM, USER, ASSISTANT)}

    def parts(self) -> Parts:
        """Return what is left."""
        kept_M = self._is_kept_M
        kept_before = np.concatenate([[0], np.cumsum(kept_M)])
        return Parts(
            contents_N=self._parts.contents_N,
            starts_M=self._starts_M[kept_M],
            stops_M=self._stops_M[kept_M],
            openings_M=self._parts.openings_M[kept_M],
            closings_M=self._closings_M[kept_M],
            is_target_M=self._parts.is_target_M[kept_M],
            num_parts_S=np.diff(kept_before[self._ends]),
        )

    def cut(self, sequences: range, num_prompt_parts: int) -> tuple[bool, bool]:
        """Cut the sequences of one example.

        Returns:
            Whether the prompt was cut, and whether the answer alone is too long.
        """
        first = int(self._ends[sequences[0]])
        prompt = int(self._lengths_M[first : first + num_prompt_parts].sum())
        answers = [
            self._lengths_M[self._ends[each] + num_prompt_parts : self._answer_stop(each)].sum()
            for each in sequences
        ]
        room = self._max_length - 1 - int(max(answers))
        least = min(prompt, self._max_length // 4)
        is_long, room = room < least, max(room, least)
        for sequence in sequences:
            start = int(self._ends[sequence])
            stop = start + num_prompt_parts
            if prompt > room:
                self._cut_prompt(start, stop, room)
            left = self._stops_M[start:stop] - self._starts_M[start:stop] + _FRAME
            num_left = int(left[self._is_kept_M[start:stop]].sum())
            self._cut_end(stop, sequence, self._max_length - 1 - num_left)
        return prompt > room, is_long

    def keeps_its_targets(self, sequence: int) -> bool:
        """Return whether a sequence that had predicted tokens still has one."""
        parts = slice(self._ends[sequence], self._ends[sequence + 1])
        targets = self._parts.is_target_M[parts]
        left = targets & self._is_kept_M[parts]
        return not targets.any() or bool(left.any())

    def _answer_stop(self, sequence: int) -> int:
        """Return the end of the last part that matters: nothing after the last target does."""
        start, stop = int(self._ends[sequence]), int(self._ends[sequence + 1])
        targets = np.flatnonzero(self._parts.is_target_M[start:stop])
        return start + int(targets[-1]) + 1 if len(targets) else stop

    def _cut_prompt(self, start: int, stop: int, room: int) -> None:
        """Keep the last `room` ids of the parts start .. stop - 1, and the system message."""
        roles = [self._roles.get(int(opening)) for opening in self._parts.openings_M[start:stop]]
        self._is_kept_M[start:stop] = False
        first = start
        if roles[0] == SYSTEM:
            first += 1
            if self._lengths_M[start] + _FRAME < room:
                self._is_kept_M[start] = True
                room -= int(self._lengths_M[start])
        place = stop - 1
        while place >= first and self._lengths_M[place] <= room:
            self._is_kept_M[place] = True
            room -= int(self._lengths_M[place])
            place -= 1
        if place >= first and roles[place - start] == USER and room > _FRAME:
            self._is_kept_M[place] = True
            self._starts_M[place] = self._stops_M[place] - (room - _FRAME)
        elif place + 1 < stop and roles[place + 1 - start] == ASSISTANT:
            # An answer whose question is gone.
            self._is_kept_M[place + 1] = False

    def _cut_end(self, start: int, sequence: int, room: int) -> None:
        """Keep the first `room` ids of the parts of a sequence from `start` on."""
        stop = self._answer_stop(sequence)
        self._is_kept_M[stop : self._ends[sequence + 1]] = False
        for place in range(start, stop):
            if self._lengths_M[place] <= room:
                room -= int(self._lengths_M[place])
                continue
            if self._parts.is_target_M[place]:
                self._closings_M[place] = NO_ID
            room -= int(self._parts.openings_M[place] != NO_ID)
            room -= int(self._closings_M[place] != NO_ID)
            self._is_kept_M[place:stop] = False
            if room > 0:
                self._is_kept_M[place] = True
                self._stops_M[place] = self._starts_M[place] + room
            return
