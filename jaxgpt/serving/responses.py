"""`/v1/responses`: answer a conversation in the form of OpenAI's newer API; nothing is kept."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from jaxgpt.serving.answers import Answers, Piece, Usage, collect
from jaxgpt.serving.errors import DOCUMENTED, ApiError, as_api_error, error_body
from jaxgpt.serving.event_stream import EventStream
from jaxgpt.serving.metrics import Metrics
from jaxgpt.serving.response_schemas import ResponsesRequest
from jaxgpt.serving.served_model import ServedModel, ServedModels, stop_strings
from jaxgpt.serving.structured import AnswerForms, Constraints
from jaxgpt.serving.tool_use import ToolUse
from jaxgpt.serving.wait import Wait
from jaxgpt.tokenizer.tool_calls import Call

# Of a response and its message, by how the answer ended.
_STATES = {None: "in_progress", "length": "incomplete"}


def responses_router(models: ServedModels, metrics: Metrics) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/responses", responses=DOCUMENTED)
    async def responses(http: HttpRequest, body: ResponsesRequest) -> Any:
        model = models.choose(body.model)
        wait = Wait(http, model.answer_seconds)
        body.check()
        stop = stop_strings(body)
        tools = body.tool_use()
        # In a thread: long texts would hold up other clients.
        prompt = await asyncio.to_thread(model.render, body.messages(), "input", tools.listed)
        # Before grammars are compiled, which takes seconds.
        model.engine.check_room(1)
        requests = model.make_requests(
            prompt,
            body,
            max_tokens=body.max_output_tokens,
            constraints=await _constraints(wait, model.forms, body, tools),
        )
        form = _Form(model, body, Usage(requests, 1), tools)
        answers = Answers(model, metrics, requests, stop, wait)
        if body.stream:
            return EventStream(form.events(answers.pieces()), answers.cancel, last="")
        (answer,) = await collect(wait, answers, form.usage)
        return form.whole(answer.text, answer.finish)

    return router


async def _constraints(
    wait: Wait, forms: AnswerForms, body: ResponsesRequest, tools: ToolUse
) -> Constraints:
    try:
        return await tools.constraints(wait, forms, body.form(), 1)
    except ApiError as error:
        param = "text.format" if error.param == "response_format" else error.param
        raise ApiError(error.status, str(error), param, error.code) from None


# Kind and fields of an event.
_Events = list[tuple[str, dict[str, Any]]]


class _Output:
    """The items of one answer, messages and calls, and the events by which each comes."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._is_open = False

    def begin(self) -> _Events:
        """Begin a message, if none is open."""
        if self._is_open:
            return []
        self._is_open = True
        begun = {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "role": "assistant"}
        self.items.append({**begun, "status": "in_progress", "content": [_part("")]})
        item = {**self.items[-1], "content": []}
        return [
            self._event("output_item.added", item=item),
            self._text_event("content_part.added", part=_part("")),
        ]

    def add(self, part: str | Call) -> _Events:
        """Add text or a call."""
        if isinstance(part, Call):
            return [*self.end("completed"), *self._call(part)]
        events = self.begin()
        self.items[-1]["content"] = [_part(self._text + part)]
        return [*events, self._text_event("output_text.delta", delta=part, logprobs=[])]

    def end(self, status: str) -> _Events:
        """End the message that is open, if one is."""
        if not self._is_open:
            return []
        self._is_open = False
        self.items[-1]["status"] = status
        return [
            self._text_event("output_text.done", text=self._text, logprobs=[]),
            self._text_event("content_part.done", part=_part(self._text)),
            self._event("output_item.done", item=self.items[-1]),
        ]

    def _call(self, call: Call) -> _Events:
        item = {
            "type": "function_call",
            "id": f"fc_{uuid.uuid4().hex}",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }
        self.items.append(item)
        named = {"item_id": item["id"]}
        kind, arguments = "function_call_arguments", call.arguments
        begun = {**item, "arguments": "", "status": "in_progress"}
        return [
            self._event("output_item.added", item=begun),
            self._event(f"{kind}.delta", delta=arguments, **named),
            self._event(f"{kind}.done", arguments=arguments, name=call.name, **named),
            self._event("output_item.done", item=item),
        ]

    @property
    def _text(self) -> str:
        return self.items[-1]["content"][0]["text"]

    def _event(self, kind: str, **fields: Any) -> tuple[str, dict[str, Any]]:
        return kind, {"output_index": len(self.items) - 1, **fields}

    def _text_event(self, kind: str, **fields: Any) -> tuple[str, dict[str, Any]]:
        return self._event(kind, item_id=self.items[-1]["id"], content_index=0, **fields)


class _Form:
    """One answer in OpenAI's form."""

    def __init__(
        self, model: ServedModel, body: ResponsesRequest, usage: Usage, tools: ToolUse
    ) -> None:
        self.usage = usage
        self._model = model
        self._body = body
        self._has_tools = bool(tools.listed)
        self._reader = tools.reader()
        self._output = _Output()
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._number = 0

    def whole(self, text: str, finish: str) -> dict[str, Any]:
        """Return the response to a request that is not streamed."""
        self._gain(text, finish)
        return self._response(finish)

    def _gain(self, text: str, finish: str | None) -> _Events:
        """Add text to the output; return the events that tell it."""
        parts = self._reader.parts(text, finish is not None)
        events = [event for part in parts for event in self._output.add(part)]
        if finish is not None:
            if not self._output.items:
                events += self._output.begin()
            events += self._output.end(_STATES.get(finish, "completed"))
        return events

    def _response(self, finish: str | None) -> dict[str, Any]:
        """Return the response; `finish` is None while the answer goes on."""
        body, is_cut = self._body, finish == "length"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": self._model.name,
            "status": _STATES.get(finish, "completed"),
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [] if finish is None else self._output.items,
            "usage": None if finish is None else self._usage(),
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "text": self._text_options(),
            "metadata": body.metadata or {},
            "parallel_tool_calls": self._has_tools and body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "tool_choice": body.told_choice() if self._has_tools else "none",
            "tools": body.functions(),
            "truncation": "disabled",
        }

    async def events(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a stream, in OpenAI's order; an error is the last one."""
        try:
            yield self._event("created", response=self._response(None))
            yield self._event("in_progress", response=self._response(None))
            # Without tools the answer is a message, before its first word.
            for kind, fields in [] if self._has_tools else self._output.begin():
                yield self._event(kind, **fields)
            finish = None
            async for piece in pieces:
                self.usage.add(piece)
                finish = piece.finish
                for kind, fields in self._gain(piece.text, finish):
                    yield self._event(kind, **fields)
            response = self._response(finish)
            yield self._event(response["status"], response=response)
        except Exception as error:
            told = as_api_error(error)
            # Some clients look for `error`, others at the type.
            body = error_body(told.status, str(told), told.param, told.code)
            fields = {"message": str(told), "code": told.code, "param": told.param, **body}
            yield {"type": "error", "sequence_number": self._number, **fields}
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": f"response.{kind}", "sequence_number": self._number - 1, **fields}

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
