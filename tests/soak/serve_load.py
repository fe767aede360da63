"""Soak: a server under many clients answers each as if it were alone, and loses nothing.

    python -m tests.soak.serve_load --checkpoint RUN [--num-clients N] [--num-requests N]

Clients send random requests to `python -m jaxgpt.serve` at once: texts and conversations, streamed
or whole, with settings and seeds of their own; some leave in the middle. A 429 is sent again. Then
the same requests come one at a time, and every answer must be the same. Last, the server gets
SIGTERM while it answers. Prints one object of JSON; exits with 1 if an answer differs, an error
came that was not meant to, a slot stays taken, an answer is torn off, or the exit code is not 0.
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.tiny import REPOSITORY

WORDS = ("import", "return", "def", "class", "value", "open", "file", "the", "what", "does")
SHARE_OF_LEAVERS = 0.15
_DONE = "[DONE]"


@dataclass
class Ask:
    """A request.

    Attributes:
        path: its route.
        body: its fields.
        leave_after: events of its stream after which the client leaves; None: it stays.
    """

    path: str
    body: dict[str, Any]
    leave_after: int | None


@dataclass
class Reply:
    """What a client got.

    Attributes:
        texts: by the answer's number.
        finishes: why each answer ended.
        first_seconds: until the first token of a stream.
        gaps: seconds between the tokens of a stream.
        refusals: how often the queue was full.
        error: an error that was not meant to come.
    """

    texts: dict[int, str] = field(default_factory=dict)
    finishes: dict[int, str] = field(default_factory=dict)
    first_seconds: float | None = None
    gaps: list[float] = field(default_factory=list)
    refusals: int = 0
    error: str | None = None


def main() -> int:
    """Run the soak."""
    parser = argparse.ArgumentParser(description="A server under load")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--num-clients", type=int, default=64)
    parser.add_argument("--num-requests", type=int, default=1000)
    parser.add_argument("--num-slots", type=int, default=8)
    parser.add_argument("--max-waiting", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    asks = [make_ask(rng, number) for number in range(options.num_requests)]
    server = Server(options.checkpoint, options.num_slots, options.max_waiting)
    try:
        result = asyncio.run(_soak(server, asks, options.num_clients))
        result |= asyncio.run(_stop_under_load(server, asks))
    finally:
        server.process.kill()
    print(json.dumps(result, indent=1))
    wrong = ("different", "errors", "torn", "left_running", "left_waiting", "exit_code")
    return 1 if any(result[name] for name in wrong) else 0


def make_ask(rng: random.Random, number: int) -> Ask:
    """Return a random request."""
    text = " ".join(rng.choices(WORDS, k=rng.choice((1, 5, 20, 60))))
    body: dict[str, Any] = {"seed": number, "n": rng.choice((1, 1, 1, 2))}
    body["max_tokens"] = rng.choice((1, 8, 24, 48))
    body["temperature"] = rng.choice((0, 0.7, 1.0, 1.3))
    if rng.random() < 0.5:
        body |= {"top_p": rng.choice((0.8, 0.95)), "top_k": rng.choice((0, 5, 50))}
    if rng.random() < 0.3:
        body |= {"min_p": 0.05, "repetition_penalty": 1.2, "frequency_penalty": 0.5}
    if rng.random() < 0.2:
        body |= {"dry_multiplier": 0.8, "dry_allowed_length": 1, "xtc_probability": 0.5}
    if rng.random() < 0.2:
        body["stop"] = [" the", "("]
    leave_after = None
    if rng.random() < 0.6:
        body["stream"] = True
        if rng.random() < SHARE_OF_LEAVERS / 0.6:
            leave_after = rng.randint(1, 4)
    if rng.random() < 0.5:
        body["messages"] = [{"role": "user", "content": text}]
        return Ask("/v1/chat/completions", body, leave_after)
    body["prompt"] = text
    return Ask("/v1/completions", body, leave_after)


class Server:
    """A server in a process of its own."""

    def __init__(self, checkpoint: str, num_slots: int, max_waiting: int) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "jaxgpt.serve", "--checkpoint", checkpoint, "--port", "0",
                "--engine.num-slots", str(num_slots), "--engine.max-waiting", str(max_waiting),
            ],
            cwd=REPOSITORY, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        for line in self.process.stderr:
            print(line, end="", file=sys.stderr)
            if "http://" in line:
                self.url = "http://" + line.split("http://")[1].split()[0].rstrip("/")
                # A full pipe would hold the server up.
                copy = shutil.copyfileobj
                rest = (self.process.stderr, sys.stderr)
                threading.Thread(target=copy, args=rest, daemon=True).start()
                return
        raise SystemExit("the server did not start")

    def resident_megabytes(self) -> float:
        """Return the memory that the process holds."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise SystemExit("the server has ended")


async def _soak(server: Server, asks: list[Ask], num_clients: int) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=num_clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as client:
        memory = [server.resident_megabytes()]
        left = iter(list(enumerate(asks)))
        replies: dict[int, Reply] = {}

        async def work() -> None:
            for number, ask in left:
                replies[number] = await send(client, ask)
                if number % 50 == 0:
                    memory.append(server.resident_megabytes())

        began = time.monotonic()
        await asyncio.gather(*(work() for _ in range(num_clients)))
        seconds = time.monotonic() - began
        await asyncio.sleep(2)
        numbers = (await client.get("/metrics")).text
        stayed = [number for number, ask in enumerate(asks) if ask.leave_after is None]
        different = []
        began = time.monotonic()
        for number in stayed:
            alone = await send(client, asks[number])
            together = replies[number]
            if (alone.texts, alone.finishes) != (together.texts, together.finishes):
                different.append(number)
        alone_seconds = time.monotonic() - began
    first = [reply.first_seconds for reply in replies.values() if reply.first_seconds is not None]
    gaps = [gap for reply in replies.values() for gap in reply.gaps]
    return {
        "requests": len(asks),
        "left_early": len(asks) - len(stayed),
        "seconds": round(seconds, 1),
        "alone_seconds": round(alone_seconds, 1),
        "refused_429": sum(reply.refusals for reply in replies.values()),
        "errors": [reply.error for reply in replies.values() if reply.error][:5],
        "different": different,
        "first_token_seconds": _percentiles(first),
        "between_tokens_seconds": _percentiles(gaps),
        "memory_megabytes": [round(memory[0]), round(statistics.median(memory)), round(memory[-1])],
        "left_running": _metric(numbers, "num_requests_running"),
        "left_waiting": _metric(numbers, "num_requests_waiting"),
    }


async def send(client: httpx.AsyncClient, ask: Ask) -> Reply:
    """Send a request until it is taken; return the reply."""
    reply = Reply()
    while True:
        began = time.monotonic()
        try:
            async with client.stream("POST", ask.path, json=ask.body) as response:
                if response.status_code == 429:
                    reply.refusals += 1
                    await response.aread()
                elif response.status_code != 200:
                    reply.error = f"{response.status_code} {(await response.aread())[:200]!r}"
                    return reply
                elif ask.body.get("stream"):
                    await _read_stream(response, ask, reply, began)
                    return reply
                else:
                    for choice in json.loads(await response.aread())["choices"]:
                        message = choice.get("message", {"content": choice.get("text")})
                        reply.texts[choice["index"]] = message["content"]
                        reply.finishes[choice["index"]] = choice["finish_reason"]
                    return reply
        except httpx.HTTPError as error:
            reply.error = repr(error)
            return reply
        await asyncio.sleep(0.2)


async def _read_stream(response: httpx.Response, ask: Ask, reply: Reply, began: float) -> None:
    last, num_events, done = None, 0, False
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        if line[6:] == _DONE:
            done = True
            continue
        event = json.loads(line[6:])
        if "error" in event:
            reply.error = event["error"]["message"]
            return
        for choice in event["choices"]:
            index = choice["index"]
            delta = choice.get("delta", {"content": choice.get("text")}).get("content") or ""
            reply.texts[index] = reply.texts.get(index, "") + delta
            if choice["finish_reason"]:
                reply.finishes[index] = choice["finish_reason"]
            if delta:
                now = time.monotonic()
                if last is None:
                    reply.first_seconds = now - began
                else:
                    reply.gaps.append(now - last)
                last = now
        num_events += 1
        if ask.leave_after is not None and num_events > ask.leave_after:
            return
    if not done:
        reply.error = "the stream was torn off"


async def _stop_under_load(server: Server, asks: list[Ask]) -> dict[str, Any]:
    """Send SIGTERM while streams run; each must end with an answer or an error event."""
    streams = [
        Ask(ask.path, ask.body | {"stream": True, "ignore_eos": True, "max_tokens": 48}, None)
        for ask in asks[:16]
    ]
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        waiting = [asyncio.create_task(send(client, ask)) for ask in streams]
        await asyncio.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        replies = await asyncio.gather(*waiting)
    code = await asyncio.to_thread(server.process.wait, 60)
    told = [reply.error for reply in replies if reply.error]
    return {
        "streams_at_sigterm": len(streams),
        "ended_with_an_error_event": len(told),
        "torn": [error for error in told if "torn" in error or "Error(" in error],
        "stop_seconds": round(time.monotonic() - began, 1),
        "exit_code": code,
    }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    values = sorted(seconds)
    last = len(values) - 1
    return {f"p{share}": round(values[last * share // 100], 4) for share in (50, 99)}


def _metric(text: str, name: str) -> float:
    (value,) = (
        float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"jaxgpt_{name}{{")
    )
    return value


if __name__ == "__main__":
    sys.exit(main())
