"""What a request waits for ends with its time and its client, and keeps nobody else waiting."""

import asyncio
import concurrent.futures
import threading
from typing import Any

import pytest

from jaxgpt.inference.engine.forms.grammar import Grammars
from jaxgpt.serving.errors import ApiError
from jaxgpt.serving.wait import Wait
from tests.serving.served import Served
from tests.serving.tool_definitions import TOOLS

GRAMMAR = {"structured_outputs": {"grammar": 'start: "a" | "b"'}}


class Http:
    """A request, as far as it tells that its client has left."""

    def __init__(self, has_left: bool) -> None:
        self._has_left = has_left

    async def is_disconnected(self) -> bool:
        return self._has_left


@pytest.mark.parametrize(("has_left", "status"), [(False, 504), (True, 499)])
def test_work_is_cancelled_when_nobody_waits_for_it(has_left: bool, status: int) -> None:
    async def run() -> None:
        work = asyncio.get_running_loop().create_future()
        http: Any = Http(has_left)
        with pytest.raises(ApiError) as error:
            await Wait(http, 60.0 if has_left else 0.01).result(work)
        assert error.value.status == status
        assert work.cancelled()

    # In a thread of its own: a browser of other tests may have left a loop running in this one.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, run()).result()


def test_a_grammar_is_compiled_once_for_all_prompts_and_not_for_a_full_queue(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    compiled = Grammars.constraints

    def counted(grammars: Grammars, grammar: str, number: int) -> Any:
        numbers.append(number)
        return compiled(grammars, grammar, number)

    monkeypatch.setattr(Grammars, "constraints", counted)
    body = {"prompt": ["the", "a", "cat"], "n": 2, **GRAMMAR}
    answer = served.post("/v1/completions", body).json()
    assert {choice["text"] for choice in answer["choices"]} <= {"a", "b"}
    assert (len(answer["choices"]), numbers) == (6, [6])
    # More than the slots and the queue hold together.
    assert served.post("/v1/completions", {**body, "n": 3}).status_code == 429
    chat = {"messages": [{"role": "user", "content": "a"}], "n": 9}
    for form in (GRAMMAR, {"tools": TOOLS, "tool_choice": "required"}):
        assert served.post("/v1/chat/completions", {**chat, **form}).status_code == 429
    assert numbers == [6]


def test_requests_without_a_grammar_do_not_wait_for_those_with_one(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(grammars: Grammars, grammar: str, number: int) -> Any:
        begun.release()
        assert go_on.wait(60)
        return [None] * number

    monkeypatch.setattr(Grammars, "constraints", slow)
    body = {"prompt": "the", "max_tokens": 2}
    others = [
        threading.Thread(target=served.post, args=("/v1/completions", {**body, **GRAMMAR}))
        for _ in range(3)
    ]
    for each in others:
        each.start()
    try:
        # As many as are compiled at a time.
        assert begun.acquire(timeout=60)
        assert begun.acquire(timeout=60)
        assert served.post("/v1/completions", body).status_code == 200
        assert not begun.acquire(blocking=False)
    finally:
        go_on.set()
        for each in others:
            each.join()
