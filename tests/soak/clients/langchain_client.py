"""LangChain's client; needs `pip install langchain-openai`. Run by drive_clients.py."""

import functools
import json
import operator
import sys
from collections.abc import Callable

import openai
from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

URL, MODEL = sys.argv[1:]
MESSAGES = [("system", "Be short."), ("human", "What does len do?")]


class Animal(BaseModel):
    """An animal."""

    big: bool
    kind: str


def chat(**options: object) -> ChatOpenAI:
    given = {
        "model": MODEL, "max_tokens": 12, "seed": 3, "temperature": 0.5, "max_retries": 0, **options
    }  # fmt: skip
    return ChatOpenAI(base_url=f"{URL}/v1", api_key="any", **given)


def answers() -> None:
    found = chat().invoke(MESSAGES)
    assert isinstance(found.content, str)
    assert found.usage_metadata["input_tokens"] > 0
    assert found.response_metadata["finish_reason"] in ("stop", "length")


def streams() -> None:
    whole = chat().invoke(MESSAGES)
    parts = list(chat(stream_usage=True).stream(MESSAGES))
    assert "".join(part.content for part in parts) == whole.content
    total = sum(part.usage_metadata["total_tokens"] for part in parts if part.usage_metadata)
    assert total == whole.usage_metadata["total_tokens"]


def batches() -> None:
    assert len(chat().batch([MESSAGES] * 3)) == 3


def log_probabilities() -> None:
    found = chat(logprobs=True, top_logprobs=2).invoke(MESSAGES)
    assert all(
        len(each["top_logprobs"]) == 2 for each in found.response_metadata["logprobs"]["content"]
    )


def structured(method: str) -> Callable[[], None]:
    def check() -> None:
        asked = chat(max_tokens=200, extra_body={"top_k": 40})
        kind = asked.with_structured_output(Animal, method=method)
        assert isinstance(kind.invoke(MESSAGES), Animal)

    return check


def calls() -> None:
    for stream in (False, True):
        model = chat(max_tokens=200).bind_tools(
            [Animal], tool_choice="any", parallel_tool_calls=False
        )
        parts = list(model.stream(MESSAGES)) if stream else [model.invoke(MESSAGES)]
        found = functools.reduce(operator.add, parts)
        assert found.tool_calls
        results = [ToolMessage("done", tool_call_id=call["id"]) for call in found.tool_calls]
        chat().bind_tools([Animal]).invoke([*MESSAGES, found, *results])


def responses() -> None:
    model = chat(use_responses_api=True, seed=None)
    whole = model.invoke(MESSAGES)
    assert whole.usage_metadata["input_tokens"] > 0
    assert "".join(part.text for part in model.stream(MESSAGES)) is not None


def responses_second_turn() -> None:
    model = chat(use_responses_api=True, seed=None)
    first = model.invoke(MESSAGES)
    model.invoke([*MESSAGES, first, ("human", "And print?")])


def json_mode() -> None:
    model = chat(max_tokens=60).bind(response_format={"type": "json_object"})
    assert model.invoke(MESSAGES).content.startswith("{")


def responses_structured() -> None:
    model = chat(use_responses_api=True, seed=None, max_tokens=200)
    assert isinstance(model.with_structured_output(Animal).invoke(MESSAGES), Animal)


def completions() -> None:
    model = OpenAI(
        base_url=f"{URL}/v1", api_key="any", model=MODEL, max_tokens=6, seed=3, max_retries=0
    )
    assert "".join(model.stream("import os")) == model.invoke("import os")
    assert len(model.generate(["import", "def"]).generations) == 2


def errors() -> None:
    for options, kind in (
        ({"temperature": 3.0}, openai.BadRequestError),
        ({"model": "other"}, openai.NotFoundError),
    ):
        try:
            chat(**options).invoke(MESSAGES)
        except kind:
            continue
        raise AssertionError(f"no {kind.__name__}")


CHECKS = {
    "chat": answers, "chat, streamed with usage": streams, "chat, a batch": batches,
    "chat, log-probabilities": log_probabilities,
    "chat, an object by json_schema": structured("json_schema"),
    "chat, an object by function_calling": structured("function_calling"),
    "chat, calls and their results": calls, "chat, JSON": json_mode,
    "responses": responses, "responses, a second turn": responses_second_turn,
    "responses, an object": responses_structured,
    "completions": completions, "errors": errors,
}  # fmt: skip

if __name__ == "__main__":
    for name, check in CHECKS.items():
        error = None
        try:
            check()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"[:500]
        print(json.dumps({"check": name, "error": error}), flush=True)
