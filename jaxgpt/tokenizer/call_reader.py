"""The calls in the text of an answer, as it comes; see tool_calls.py for their form."""

import json
import re
from collections.abc import Collection

from jaxgpt.tokenizer.tool_calls import CALL, END_OF_CALL, Call, is_json_object

# Integers of any length are valid JSON; Python limits their digits.
_JSON = json.JSONDecoder(parse_int=float)
# The longest word of JSON that can be cut off where decoding fails: `-Infinity`.
_LONGEST_WORD = 9
_CALL = re.compile(
    r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(\{.*\})\s*\}', re.DOTALL
)


class CallReader:
    """Finds the calls in an answer, however its text is portioned.

    Text that only resembles a call stays text: a name that no tool has, JSON that is not valid, a
    call that does not end. What may become a call is held back until its JSON shows that it is not.

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
            inner = self._held[body:].lstrip()
            # A tag may stand in a string of the arguments, so the JSON tells where it ends.
            stop = _json_end(inner)
            if stop is None and not final:
                break
            call = self._call(inner[:stop]) if stop else None
            rest = inner[stop:].lstrip()
            if call is not None and rest.startswith(END_OF_CALL):
                found.append(call)
                self._held, self._after_call = rest.removeprefix(END_OF_CALL), True
            elif call is not None and END_OF_CALL.startswith(rest) and not final:
                break
            else:
                text, self._held = self._split_at(body)
                self._add(found, text)
        return found

    def _call(self, text: str) -> Call | None:
        """Return the call that a JSON value is, or None."""
        match = _CALL.fullmatch(text)
        if match and is_json_object(match[2]) and _string(match[1]) in self._names:
            return Call(_string(match[1]) or "", match[2])
        return None

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


def _json_end(text: str) -> int | None:
    """Return where the JSON object that begins a text ends; 0 if none does, None if it goes on."""
    if not text:
        return None
    if not text.startswith("{"):
        return 0
    try:
        return _JSON.raw_decode(text)[1]
    except json.JSONDecodeError as error:
        is_open = error.msg.startswith("Unterminated string")
        return None if is_open or error.pos + _LONGEST_WORD >= len(text) else 0
    except RecursionError:
        return 0


def _string(text: str) -> str | None:
    """Return a string out of its JSON; None if it is not valid."""
    try:
        return json.loads(text)
    except ValueError:
        return None
