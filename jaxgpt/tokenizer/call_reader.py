"""The calls in the text of an answer, as it comes; see tool_calls.py for their form."""

import json
import re
from collections.abc import Collection

from jaxgpt.tokenizer.tool_calls import CALL, END_OF_CALL, Call, is_json_object

_CALL = re.compile(
    r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(\{.*\})\s*\}', re.DOTALL
)


class CallReader:
    """Finds the calls in an answer, however its text is portioned.

    Text that only resembles a call stays text: a name that no tool has, JSON that is not valid, a
    call that does not end. What may become a call is held back until that is decided.

    Args:
        names: of the tools.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._after_call = False

    def feed(self, text: str) -> list[str | Call]:
        """Take more text; return texts and calls that are certain, in their order."""
        self._held += text
        return self._take(final=False)

    def flush(self) -> list[str | Call]:
        """Return what is left at the end of the answer."""
        return self._take(final=True)

    def _take(self, final: bool) -> list[str | Call]:
        found: list[str | Call] = []
        while self._held:
            if self._after_call:
                # White space between and after calls is no content.
                self._held = self._held.lstrip()
                if not self._held:
                    break
            start = self._held.find(CALL)
            if start < 0:
                text, self._held = self._split_at(len(self._held) if final else self._safe())
                self._add(found, text)
                break
            # The line's end in front of a call belongs to it.
            text, self._held = self._split_at(start - self._held[:start].endswith("\n"))
            self._add(found, text)
            body = self._held.index(CALL) + len(CALL)
            call, stop = self._call_at(body)
            if call is not None:
                found.append(call)
                self._held, self._after_call = self._held[stop:], True
            elif final or not _may_begin_call(self._held[body:]):
                text, self._held = self._split_at(body)
                self._add(found, text)
            else:
                break
        return found

    def _call_at(self, body: int) -> tuple[Call | None, int]:
        """Return the call whose JSON begins at `body` of what is held, and where it ends."""
        stop = self._held.find(END_OF_CALL, body)
        while stop >= 0:
            match = _CALL.fullmatch(self._held[body:stop].strip())
            if match and is_json_object(match[2]) and _string(match[1]) in self._names:
                return Call(_string(match[1]) or "", match[2]), stop + len(END_OF_CALL)
            # The tag may stand in a string of the arguments.
            stop = self._held.find(END_OF_CALL, stop + 1)
        return None, body

    def _split_at(self, place: int) -> tuple[str, str]:
        return self._held[:place], self._held[place:]

    def _add(self, found: list[str | Call], text: str) -> None:
        if not text:
            return
        self._after_call = False
        if found and isinstance(found[-1], str):
            found[-1] += text
        else:
            found.append(text)

    def _safe(self) -> int:
        """Return the place from which the text could become a call."""
        begin = f"\n{CALL}"
        for size in range(min(len(begin) - 1, len(self._held)), 0, -1):
            end = self._held[-size:]
            if begin.startswith(end) or CALL.startswith(end):
                return len(self._held) - size
        return len(self._held)


def _may_begin_call(text: str) -> bool:
    return not (text := text.lstrip()) or text.startswith("{")


def _string(text: str) -> str | None:
    """Return a string out of its JSON; None if it is not valid."""
    try:
        return json.loads(text)
    except ValueError:
        return None
