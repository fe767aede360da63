"""`/v1/responses`: answer a conversation in the form of OpenAI's newer API; nothing is kept."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from jaxgpt.inference.engine import TokenConstraint
from jaxgpt.serving.answers import Answers, Piece, Usage, collect
from jaxgpt.serving.errors import DOCUMENTED, ApiError, as_api_error, error_body
from jaxgpt.serving.event_stream import EventStream
from jaxgpt.serving.metrics import Metrics
from jaxgpt.serving.response_schemas import ResponsesRequest
from jaxgpt.serving.served_model import ServedModel, ServedModels, stop_strings
from jaxgpt.serving.structured import AnswerForms

# Of a response and its message, by how the answer ended.
_STATES = {None: "in_progress", "length": "incomplete"}


def responses_router(models: ServedModels, metrics: Metrics) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/responses", responses=DOCUMENTED)
    async def responses(http: HttpRequest, body: ResponsesRequest) -> Any:
        model = models.choose(body.model)
        body.check()
        stop = stop_strings(body)
        # In a thread: long texts and large grammars would hold up other clients.
        prompt = await asyncio.to_thread(model.render, body.messages(), "input")
        requests = model.make_requests(
            prompt,
            body,
            max_tokens=body.max_output_tokens,
            constraints=await asyncio.to_thread(_constraints, model.forms, body),
        )
        form = _Form(model, body, Usage(requests, 1))
        answers = Answers(model, metrics, requests, stop)
        if body.stream:
            return EventStream(form.events(answers.pieces()), answers.cancel, last="")
        (answer,) = await collect(http, answers, form.usage)
        return form.response(answer.text, answer.finish)

    return router


def _constraints(forms: AnswerForms, body: ResponsesRequest) -> list[TokenConstraint | None]:
    try:
        return forms.constraints(body.form(), 1)
    except ApiError as error:
        raise ApiError(error.status, str(error), "text.format", error.code) from None


class _Form:
    """One answer in OpenAI's form."""

    def __init__(self, model: ServedModel, body: ResponsesRequest, usage: Usage) -> None:
        self.usage = usage
        self._model = model
        self._body = body
        self._id = f"resp_{uuid.uuid4().hex}"
        self._item_id = f"msg_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._number = 0

    def response(self, text: str | None, finish: str | None) -> dict[str, Any]:
        """Return the response.

        Args:
            text: the answer; None while nothing of it is written.
            finish: "stop" or "length"; None while it goes on.
        """
        body, is_cut = self._body, finish == "length"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": self._model.name,
            "status": _STATES.get(finish, "completed"),
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [] if text is None else [self._item(text, finish)],
            "usage": None if finish is None else self._usage(),
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "text": self._text_options(),
            "metadata": body.metadata or {},
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "tool_choice": "none",
            "tools": [],
            "truncation": "disabled",
        }

    async def events(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a stream, in OpenAI's order; an error is the last one."""
        text, finish = "", None
        try:
            yield self._event("response.created", response=self.response(None, None))
            yield self._event("response.in_progress", response=self.response(None, None))
            yield self._item_event("output_item.added", item=self._item(None, None))
            yield self._part_event("content_part.added", part=_part(""))
            async for piece in pieces:
                self.usage.add(piece)
                text, finish = text + piece.text, piece.finish
                if piece.text:
                    yield self._part_event("output_text.delta", delta=piece.text, logprobs=[])
            yield self._part_event("output_text.done", text=text, logprobs=[])
            yield self._part_event("content_part.done", part=_part(text))
            yield self._item_event("output_item.done", item=self._item(text, finish))
            response = self.response(text, finish)
            yield self._event(f"response.{response['status']}", response=response)
        except Exception as error:
            told = as_api_error(error)
            # Some clients look for `error`, others at the type.
            body = error_body(told.status, str(told), told.param, told.code)
            yield self._event("error", message=str(told), code=told.code, param=told.param, **body)
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _item_event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self._event(f"response.{kind}", output_index=0, **fields)

    def _part_event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self._item_event(kind, item_id=self._item_id, content_index=0, **fields)

    def _item(self, text: str | None, finish: str | None) -> dict[str, Any]:
        return {
            "type": "message",
            "id": self._item_id,
            "status": _STATES.get(finish, "completed"),
            "role": "assistant",
            "content": [] if text is None else [_part(text)],
        }

    def _text_options(self) -> dict[str, Any]:
        options = self._body.text
        given = {} if options is None else options.model_dump(by_alias=True, exclude_unset=True)
        return {**given, "format": given.get("format") or {"type": "text"}}

    def _usage(self) -> dict[str, Any]:
        used = self.usage.as_dict()
        return {
            "input_tokens": used["prompt_tokens"],
            "input_tokens_details": used["prompt_tokens_details"],
            "output_tokens": used["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used["total_tokens"],
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
