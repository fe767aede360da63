"""From the tokens of one answer to text that may be sent: whole characters, no stop string."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxgpt.inference.engine.request import Progress, TokenScore
from jaxgpt.inference.stop_strings import StopStrings
from jaxgpt.tokenizer.tokenizer import StreamDecoder, Tokenizer


class TextProgress(NamedTuple):
    """More of an answer.

    Attributes:
        text: what follows the text so far.
        tokens: the tokens that were drawn; those of held-back text are among them.
        finish: as in `Progress`; "stop" where a stop string came.
        end: the token that ended the answer; None where something else did.
    """

    text: str
    tokens: tuple[TokenScore, ...]
    finish: str | None
    end: TokenScore | None = None


class AnswerText:
    """The text of one answer.

    Args:
        tokenizer: the model's.
        stop: strings at which the answer ends; they are not part of it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._characters = StreamDecoder(tokenizer)
        self._stop_strings = StopStrings(stop)

    def feed(self, progress: Progress) -> TextProgress:
        """Take what the engine delivered; after a `finish` nothing more is fed."""
        text = ""
        for number, token in enumerate(progress.tokens, start=1):
            text += self._stop_strings.feed(self._characters.feed([token.id]))
            if self._stop_strings.found:
                return TextProgress(text, progress.tokens[:number], "stop")
        finish: str | None = progress.finish
        if finish is not None:
            text += self._stop_strings.feed(self._characters.flush()) + self._stop_strings.flush()
            finish = "stop" if self._stop_strings.found else finish
        return TextProgress(text, progress.tokens, finish, progress.end)
