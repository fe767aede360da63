"""Stop strings: text is shown up to the first, and never a part of one."""

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string, holding back what could become one.

    Attributes:
        found: whether a stop string came; nothing is let through afterwards.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        if "" in stop:
            raise ValueError("a stop string must not be empty")
        self._stop = tuple(stop)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Take more text; return what is certain to be shown."""
        if self.found:
            return ""
        text = self._held + text
        found = [(text.find(stop) + len(stop), stop) for stop in self._stop if stop in text]
        if found:
            # The one that is complete first, so that it does not matter how text is portioned.
            end, stop = min(found, key=lambda item: (item[0], -len(item[1])))
            self.found, self._held = True, ""
            return text[: end - len(stop)]
        keep = self._possible_start(text)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """Return what was held back: no more text comes to complete a stop string."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Return where the longest end of `text` begins that is the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for place in range(max(0, len(text) - longest), len(text)):
            if any(stop.startswith(text[place:]) for stop in self._stop):
                return place
        return len(text)
