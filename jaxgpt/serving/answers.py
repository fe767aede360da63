"""Several answers at once: all pieces as they come, or all texts when the last is complete."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from jaxgpt.inference.engine import Request, TokenScore
from jaxgpt.serving.answer_text import AnswerText
from jaxgpt.serving.metrics import Metrics
from jaxgpt.serving.served_model import AnswerStream, ServedModel
from jaxgpt.serving.wait import Wait


class Piece(NamedTuple):
    """More of one answer.

    Attributes:
        index: of the answer among those to one HTTP request.
        text: new text.
        tokens: new tokens.
        prompt: the prompt's tokens, once, if asked for.
        finish: "stop" or "length" with the last piece.
        num_reused: tokens of the prompt that were not read again; with the first piece.
        end: the token that ended the answer, if one did.
        num_drafted: tokens that were drafted for it.
        num_accepted: those of them that the model drew itself.
    """

    index: int
    text: str
    tokens: tuple[TokenScore, ...]
    prompt: tuple[TokenScore, ...]
    finish: str | None
    num_reused: int
    end: TokenScore | None
    num_drafted: int
    num_accepted: int


class Answer(NamedTuple):
    """A whole answer; see `Piece`."""

    text: str
    tokens: tuple[TokenScore, ...]
    prompt: tuple[TokenScore, ...]
    finish: str
    end: TokenScore | None


class Usage:
    """Counts the tokens of one HTTP request, and the time that its parts took."""

    def __init__(self, requests: Sequence[Request], answers_per_prompt: int) -> None:
        self._prompt = sum(len(request.prompt) for request in requests[::answers_per_prompt])
        self._per_prompt = answers_per_prompt
        self._cached: dict[int, int] = {}
        self._new = 0
        self._drafted = 0
        self._accepted = 0
        self._begin = time.monotonic()
        self._first: float | None = None

    def add(self, piece: Piece) -> None:
        """Count a piece."""
        self._cached.setdefault(piece.index, piece.num_reused)
        self._new += len(piece.tokens)
        self._drafted += piece.num_drafted
        self._accepted += piece.num_accepted
        if self._first is None:
            self._first = time.monotonic()

    def as_dict(self) -> dict[str, Any]:
        """Return OpenAI's `usage`."""
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._new,
            "total_tokens": self._prompt + self._new,
            "prompt_tokens_details": {"cached_tokens": self._num_cached()},
        }

    def _num_cached(self) -> int:
        """Return how many of the prompts' tokens the first answer to each did not read again."""
        return sum(
            number for index, number in self._cached.items() if index % self._per_prompt == 0
        )

    def timings(self) -> dict[str, float]:
        """Return how long reading and drawing took, in milliseconds, as llama.cpp names them."""
        now = time.monotonic()
        first = now if self._first is None else self._first
        drawing = now - first
        return {
            "prompt_n": self._prompt,
            "prompt_ms": 1000 * (first - self._begin),
            "predicted_n": self._new,
            "predicted_ms": 1000 * drawing,
            "predicted_per_second": self._new / drawing if drawing > 0 else 0.0,
            "draft_n": self._drafted,
            "draft_n_accepted": self._accepted,
        }


class Answers:
    """Answers that are being written, all of them taken by the engine.

    Args:
        model: who answers.
        metrics: counts them.
        requests: one for each answer.
        stop: strings at which an answer ends.
        wait: that of the HTTP request.

    Raises:
        JaxgptError: the engine refuses one; then none is begun.
    """

    def __init__(
        self,
        model: ServedModel,
        metrics: Metrics,
        requests: Sequence[Request],
        stop: Sequence[str],
        wait: Wait,
    ) -> None:
        self._model = model
        self._wait = wait
        self._watches = [metrics.watch(request) for request in requests]
        self._stop = stop
        self._streams: list[AnswerStream] = []
        try:
            for request in requests:
                self._streams.append(AnswerStream(model.engine, request))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End those that have not ended."""
        for each in self._streams:
            each.cancel()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield pieces of all answers as they come; leaving early ends all of them.

        Raises:
            JaxgptError: the engine could not go on with one, or they took too long.
        """
        queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        tasks = [
            asyncio.ensure_future(self._follow(index, queue)) for index in range(len(self._streams))
        ]
        over, put = self._wait.too_long(), queue.put_nowait
        timer = asyncio.get_running_loop().call_at(self._wait.deadline, put, over)
        try:
            left = len(tasks)
            while left:
                piece = await queue.get()
                if isinstance(piece, Exception):
                    raise piece
                left -= piece.finish is not None
                yield piece
        finally:
            timer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.cancel()

    async def _follow(self, index: int, queue: "asyncio.Queue[Piece | Exception]") -> None:
        text = AnswerText(self._model.tokenizer, self._stop)
        watch = self._watches[index]
        try:
            async with aclosing(aiter(self._streams[index])) as news:  # type: ignore[type-var]
                async for progress in news:
                    new = text.feed(progress)
                    watch.add(len(new.tokens), new.finish)
                    about = (progress.prompt, new.finish, progress.num_reused, new.end)
                    drafts = progress.num_drafted, progress.num_accepted
                    await queue.put(Piece(index, *new[:2], *about, *drafts))
                    if new.finish is not None:
                        return
        except Exception as error:
            watch.add(0, "error")
            await queue.put(error)


async def collect(wait: Wait, answers: Answers, usage: Usage) -> list[Answer]:
    """Return all answers when they are complete.

    Raises:
        ApiError: the client has left and nobody reads it, or they took too long.
    """
    texts: dict[int, list[Piece]] = {}

    async def gather() -> None:
        async with aclosing(answers.pieces()) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                usage.add(piece)
                texts.setdefault(piece.index, []).append(piece)

    try:
        await wait.result(gather())
    finally:
        answers.cancel()
    return [
        Answer(
            "".join(piece.text for piece in each),
            tuple(token for piece in each for token in piece.tokens),
            tuple(token for piece in each for token in piece.prompt),
            each[-1].finish or "stop",
            each[-1].end,
        )
        for _, each in sorted(texts.items())
    ]
