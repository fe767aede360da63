"""A conversation with a model: what was said, and the answer to it, as it comes.

How messages become ids is the run's: a model that has learned conversations gets its template, any
other one the texts in a row.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from jaxgpt.config import replace
from jaxgpt.errors import JaxgptError, UsageError
from jaxgpt.inference.chat.settings import ChatSettings
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.sliding import SlidingDecoder
from jaxgpt.inference.text_generation import HealedPrompt, choose_length, stream_text
from jaxgpt.storage.durable import write_atomically
from jaxgpt.tokenizer.chat_template import ASSISTANT, SYSTEM, USER, Message
from jaxgpt.tokenizer.tokenizer import Tokenizer


class Conversation:
    """A conversation.

    Args:
        decoder: the model, from `make_text_decoder`.
        tokenizer: the model's.
        encode: returns the ids after which the model goes on, for messages.
        settings: how it answers.

    Attributes:
        messages: what was said, without the system message; the user begins.
        settings: may be changed between two answers.
    """

    def __init__(
        self,
        decoder: Decoder | SlidingDecoder,
        tokenizer: Tokenizer,
        encode: Callable[[Tokenizer, Sequence[Message]], HealedPrompt],
        settings: ChatSettings,
    ) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._encode = encode
        self.settings = settings
        self.messages: list[Message] = []

    def ask(self, text: str) -> Iterator[str]:
        """Yield the answer to a message; one that is cut off stays as far as it came.

        The message is taken back if nothing of an answer came.

        Raises:
            JaxgptError: the model cannot answer; the message is taken back.
        """
        self.messages.append(Message(USER, text))
        try:
            yield from self._answer()
        except BaseException:
            if self.messages[-1].role == USER:
                del self.messages[-1]
            raise

    def ask_again(self) -> Iterator[str]:
        """Yield another answer to the last message, in place of the one that it has.

        The old answer stays if nothing of another one came.

        Raises:
            UsageError: there is none.
            JaxgptError: the model cannot answer; the old answer stays.
        """
        if not self.messages:
            raise UsageError("nothing was asked yet")
        self.settings = replace(self.settings, seed=(self.settings.seed + 1) % 2**64)
        old = self.messages.pop()
        try:
            yield from self._answer()
        except BaseException:
            if self.messages[-1].role == USER:
                self.messages.append(old)
            raise

    def reset(self) -> None:
        """Forget what was said; the system message and the settings stay."""
        self.messages.clear()

    def save(self, path: Path) -> None:
        """Write the conversation: as Markdown to a file that ends in .md, else as a line of JSON.

        The JSON is an example that `finetune` reads.

        Raises:
            UsageError: the file cannot be written.
        """
        messages = self._whole()
        if path.suffix == ".md":
            parts = [f"## {each.role.capitalize()}\n\n{each.content}\n" for each in messages]
            text = "\n".join(parts)
        else:
            plain = [{"role": each.role, "content": each.content} for each in messages]
            text = json.dumps({"messages": plain}, ensure_ascii=False) + "\n"
        try:
            write_atomically(path, text)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None

    def _whole(self) -> list[Message]:
        system = [Message(SYSTEM, self.settings.system)] if self.settings.system else []
        return [*system, *self.messages]

    def _answer(self) -> Iterator[str]:
        prompt = self._encode(self._tokenizer, self._whole())
        settings, answer = self.settings, ""
        number = choose_length(self._decoder, self._tokenizer, [prompt], settings.max_new_tokens)
        pieces = stream_text(
            self._decoder, self._tokenizer, [prompt], number, settings.sampling, settings.seed
        )
        try:
            with closing(pieces):  # type: ignore[type-var]
                for piece in pieces:
                    answer += piece.text
                    yield piece.text
        except JaxgptError:
            raise
        except BaseException:
            # Ctrl-C, or the caller leaves: what came until then was said.
            if answer:
                self.messages.append(Message(ASSISTANT, answer))
            raise
        self.messages.append(Message(ASSISTANT, answer))
