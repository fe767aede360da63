"""`/v1/chat/completions`: answer a conversation."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from jaxgpt.inference.engine import Request, TokenScore
from jaxgpt.serving.answers import Answer, Answers, Piece, Usage, collect
from jaxgpt.serving.errors import DOCUMENTED
from jaxgpt.serving.event_stream import EventStream
from jaxgpt.serving.metrics import Metrics
from jaxgpt.serving.schemas import ChatRequest
from jaxgpt.serving.served_model import ServedModel, ServedModels, stop_strings
from jaxgpt.serving.tool_use import ToolUse
from jaxgpt.serving.wait import Wait


def chat_router(models: ServedModels, metrics: Metrics) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/chat/completions", responses=DOCUMENTED)
    async def chat(http: HttpRequest, body: ChatRequest) -> Any:
        model = models.choose(body.model)
        wait = Wait(http, model.answer_seconds)
        stop = stop_strings(body)
        tools = ToolUse(body.tools, body.tool_choice, body.parallel_tool_calls is False)
        num_answers = body.n or 1
        given = (body.max_completion_tokens, body.max_tokens)
        # In a thread: long texts would hold up other clients.
        prompt = await asyncio.to_thread(model.render, body.messages, tools=tools.listed)
        # Before grammars are compiled, which takes seconds.
        model.engine.check_room(num_answers)
        requests = model.make_requests(
            prompt,
            body,
            max_tokens=next((each for each in given if each is not None), None),
            top_tokens=body.top_logprobs or 0,
            constraints=await tools.constraints(wait, model.forms, body, num_answers),
        )
        form = _Form(model, body, requests, tools)
        answers = Answers(model, metrics, requests, stop, wait)
        if body.stream:
            return EventStream(form.chunks(answers.pieces()), answers.cancel)
        return form.whole(await collect(wait, answers, form.usage))

    return router


class _Form:
    """Answers in OpenAI's form."""

    def __init__(
        self,
        model: ServedModel,
        body: ChatRequest,
        requests: Sequence[Request],
        tools: ToolUse,
    ) -> None:
        self.usage = Usage(requests, len(requests))
        self._model = model
        self._body = body
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._readers = [tools.reader() for _ in requests]

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        choices = [
            {
                "index": index,
                "message": reader.message(answer.text),
                "logprobs": self._logprobs(answer.tokens),
                "finish_reason": reader.finish(answer.finish),
            }
            for index, (answer, reader) in enumerate(zip(answers, self._readers, strict=True))
        ]
        return {**self._head("chat.completion"), "choices": choices, **self._about()}

    async def chunks(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of a stream: roles, contents and calls, ends, usage."""
        options = self._body.stream_options
        for index in range(len(self._readers)):
            yield self._chunk(index, {"role": "assistant", "content": ""}, None, None)
        try:
            async for piece in pieces:
                self.usage.add(piece)
                reader, scores = self._readers[piece.index], self._logprobs(piece.tokens)
                deltas = reader.deltas(piece.text, piece.finish is not None)
                for delta in deltas or [{"content": ""}] * bool(piece.tokens):
                    yield self._chunk(piece.index, delta, scores, None)
                    scores = None
                if piece.finish is not None:
                    yield self._chunk(piece.index, {}, None, reader.finish(piece.finish))
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        if options is not None and options.include_usage:
            yield {**self._head("chat.completion.chunk"), "choices": [], **self._about()}

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None,
        finish: str | None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model.name,
        }

    def _about(self) -> dict[str, Any]:
        return {"usage": self.usage.as_dict(), "timings": self.usage.timings()}

    def _logprobs(self, tokens: Sequence[TokenScore]) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None

        def entry(token: int, score: float) -> dict[str, Any]:
            return {
                "token": self._model.token_text(token),
                "logprob": score,
                "bytes": list(self._model.token_bytes(token)),
            }

        content = [
            {
                **entry(token.id, token.log_probability),
                "top_logprobs": [entry(*each) for each in token.top],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}
