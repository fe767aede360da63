"""Several continuations on one screen: each in its order, the foremost as it comes.

Knows how samples are printed, not how they are made.
"""

from collections.abc import Sequence
from typing import Any

from jaxgpt.inference.text_generation import TextPiece


class Transcript:
    """Collects the pieces of all rows; with `live`, prints them to stdout.

    Rows are printed one after another. The first that has not finished is printed as it comes;
    those behind it wait, since they grow at the same time. More than one are set apart by a line
    with their number.

    Args:
        prompts: of each row.
        echo: print each prompt before its continuation.
        live: print at all.
    """

    def __init__(self, prompts: Sequence[str], echo: bool, live: bool) -> None:
        self._prompts = prompts
        self._echo = echo
        self._live = live
        self._texts = [""] * len(prompts)
        self._finish: list[str | None] = [None] * len(prompts)
        self._row = 0
        self._printed: int | None = None

    def add(self, piece: TextPiece) -> None:
        """Take the next piece of a row."""
        self._texts[piece.row] += piece.text
        self._finish[piece.row] = piece.finish
        while self._live and self._row < len(self._prompts):
            self._print_row()
            if self._finish[self._row] is None:
                return
            print(flush=True)
            self._row += 1
            self._printed = None

    def samples(self) -> list[dict[str, Any]]:
        """Return the rows as plain values: prompt, text, finish."""
        rows = zip(self._prompts, self._texts, self._finish, strict=True)
        return [{"prompt": prompt, "text": text, "finish": finish} for prompt, text, finish in rows]

    def _print_row(self) -> None:
        """Print what is new of the foremost row."""
        if self._printed is None:
            if len(self._prompts) > 1:
                print(f"--- {self._row + 1} of {len(self._prompts)} ---")
            if self._echo:
                print(self._prompts[self._row], end="")
            self._printed = 0
        text = self._texts[self._row]
        print(text[self._printed :], end="", flush=True)
        self._printed = len(text)
