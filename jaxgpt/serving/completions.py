"""`/v1/completions`: continue texts, or ids."""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from jaxgpt.inference.engine import Request, TokenScore
from jaxgpt.serving.answers import Answer, Answers, Piece, Usage, collect
from jaxgpt.serving.errors import DOCUMENTED, ApiError
from jaxgpt.serving.event_stream import EventStream
from jaxgpt.serving.metrics import Metrics
from jaxgpt.serving.schemas import CompletionRequest
from jaxgpt.serving.served_model import ServedModel, ServedModels, stop_strings
from jaxgpt.serving.structured import Constraints
from jaxgpt.serving.tool_use import ToolUse
from jaxgpt.serving.wait import Wait
from jaxgpt.tokenizer.tokenizer import StreamDecoder

# OpenAI's default.
_MAX_TOKENS = 16


def completions_router(models: ServedModels, metrics: Metrics) -> APIRouter:
    """Return the route."""
    router = APIRouter()
    no_tools = ToolUse((), None, is_single=False)

    @router.post("/v1/completions", responses=DOCUMENTED)
    async def completions(http: HttpRequest, body: CompletionRequest) -> Any:
        model = models.choose(body.model)
        wait = Wait(http, model.answer_seconds)
        stop = stop_strings(body)
        if body.stream and body.echo and body.logprobs is not None:
            raise ApiError(400, "echo with logprobs is not streamed", param="stream")
        # In a thread: long texts would hold up other clients.
        prompts = await asyncio.to_thread(_checked_prompts, model, body)
        num_answers = len(prompts) * (body.n or 1)
        # Before grammars are compiled, which takes seconds; one serves all prompts.
        model.engine.check_room(num_answers)
        constraints = await no_tools.constraints(wait, model.forms, body, num_answers)
        requests = await asyncio.to_thread(_requests, model, body, prompts, constraints)
        form = _Form(model, body, requests)
        answers = Answers(model, metrics, requests, stop, wait)
        if body.stream:
            return EventStream(form.chunks(answers.pieces()), answers.cancel)
        return form.whole(await collect(wait, answers, form.usage))

    return router


def _checked_prompts(model: ServedModel, body: CompletionRequest) -> list[list[int]]:
    """Return the ids of the prompts.

    Raises:
        ApiError: too many answers are asked for, or none.
    """
    prompts = _prompts(model, body.prompt)
    if len(prompts) * (body.n or 1) > 256:
        raise ApiError(400, "more than 256 answers are asked for at once", param="n")
    if _is_scored(body):
        _check_spelled(model, body.prompt)
    elif body.max_tokens == 0:
        raise ApiError(400, "max_tokens is 0, and no logprobs with echo are asked for")
    return prompts


def _is_scored(body: CompletionRequest) -> bool:
    return bool(body.echo) and body.logprobs is not None


def _requests(
    model: ServedModel,
    body: CompletionRequest,
    prompts: Sequence[Sequence[int]],
    constraints: Constraints,
) -> list[Request]:
    number = body.n or 1
    return [
        request
        for place, prompt in enumerate(prompts)
        for request in model.make_requests(
            prompt,
            body,
            max_tokens=_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
            top_tokens=body.logprobs or 0,
            score_prompt=_is_scored(body),
            constraints=constraints[place * number : (place + 1) * number],
        )
    ]


def _check_spelled(model: ServedModel, given: Any) -> None:
    """Refuse a text to be scored that spells the start symbol, as harnesses that decode ids send.

    Its characters would be scored, without a word.
    """
    start = model.token_text(model.tokenizer.bos_id)
    texts = [given] if isinstance(given, str) else given
    if any(isinstance(text, str) and text.startswith(start) for text in texts):
        raise ApiError(
            400,
            f"a text to be scored begins with {start!r}, which would be read as characters: leave "
            "it out, since the server begins a text with the start symbol, or send ids",
            param="prompt",
        )


def _prompts(model: ServedModel, given: Any) -> list[list[int]]:
    if isinstance(given, str):
        return [model.encode(given)]
    if isinstance(given[0], int):
        return [given]
    return [model.encode(each) if isinstance(each, str) else each for each in given]


class _Form:
    """Answers in OpenAI's form."""

    def __init__(
        self, model: ServedModel, body: CompletionRequest, requests: Sequence[Request]
    ) -> None:
        self.usage = Usage(requests, body.n or 1)
        self._model = model
        self._body = body
        self._special = frozenset(model.tokenizer.special_ids.values())
        # The start symbol before a text is the server's, not the client's; ids are as they came.
        is_ids = not isinstance(body.prompt, str) and not isinstance(body.prompt[0], str)
        self._num_added = 0 if is_ids else 1
        self._echoes = [
            model.tokenizer.decode(request.prompt) if body.echo else "" for request in requests
        ]
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
        }

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        choices = []
        for index, answer in enumerate(answers):
            tokens = (*answer.prompt[self._num_added :], *answer.tokens)
            choices.append(
                {
                    "index": index,
                    "text": self._echoes[index] + answer.text,
                    "logprobs": self._logprobs(tokens, answer.end, 0),
                    "finish_reason": answer.finish,
                }
            )
        about = {"usage": self.usage.as_dict(), "timings": self.usage.timings()}
        return {**self._head, "choices": choices, **about}

    async def chunks(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of a stream."""
        offsets = [0] * len(self._echoes)
        options = self._body.stream_options
        try:
            async for piece in pieces:
                self.usage.add(piece)
                text = piece.text
                if not offsets[piece.index]:
                    text = self._echoes[piece.index] + text
                choice = {
                    "index": piece.index,
                    "text": text,
                    "logprobs": self._logprobs(piece.tokens, piece.end, offsets[piece.index]),
                    "finish_reason": piece.finish,
                }
                offsets[piece.index] += len(text)
                yield {**self._head, "choices": [choice]}
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        if options is not None and options.include_usage:
            about = {"usage": self.usage.as_dict(), "timings": self.usage.timings()}
            yield {**self._head, "choices": [], **about}

    def _logprobs(
        self, tokens: Sequence[TokenScore], end: TokenScore | None, offset: int
    ) -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None
        # The token that ended the answer is one of those that were drawn: who asks for one token
        # after a prompt counts on finding it.
        tokens = [*tokens, *([end] if end else [])]
        texts = [self._model.token_text(token.id) for token in tokens]
        # Of whole characters, and of text alone: control tokens have none.
        special, characters = self._special, StreamDecoder(self._model.tokenizer)
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += 0 if token.id in special else len(characters.feed([token.id]))
        return {
            "tokens": texts,
            "token_logprobs": [_number(token.log_probability) for token in tokens],
            "top_logprobs": [
                {self._model.token_text(each): score for each, score in token.top} or None
                for token in tokens
            ],
            "text_offset": offsets,
        }


def _number(value: float) -> float | None:
    """Return a log-probability as JSON has it: null for the token that nothing predicts."""
    return value if math.isfinite(value) else None
