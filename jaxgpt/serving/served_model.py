"""The models that are served, a base and its adapters: what a request's fields mean for them."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any

import numpy as np

from jaxgpt.errors import BadInputError, MismatchError
from jaxgpt.inference.engine import Engine, Progress, Request, RequestSampling, TokenConstraint
from jaxgpt.inference.sequence_breakers import breakers_of
from jaxgpt.serving.errors import ApiError
from jaxgpt.serving.schemas import ChatMessage, SamplingFields
from jaxgpt.serving.structured import AnswerForms
from jaxgpt.tokenizer.chat_template import ChatTemplate
from jaxgpt.tokenizer.sentencepiece_model import CONTROL_PIECES
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.tool_calls import Tools, plain_messages

_SAMPLING = frozenset(field.name for field in fields_of(RequestSampling))


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model behind an engine: the base, or the base with an adapter.

    Attributes:
        name: the id that clients see.
        aliases: further names that clients may use.
        engine: what answers.
        adapter: number of the adapter in the engine; 0 for the base.
        parent: name of the base; None for the base itself.
        tokenizer: the model's.
        forms: makes constraints of its answers.
        answer_seconds: most time from a request to the end of its answer.
        created: when the checkpoint was saved, in seconds since 1970.
        meta: facts about it that clients may show.
    """

    name: str
    aliases: tuple[str, ...]
    engine: Engine
    adapter: int
    parent: str | None
    tokenizer: Tokenizer
    forms: AnswerForms
    answer_seconds: float
    created: int
    meta: dict[str, Any]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text as the model reads one: the start symbol first.

        Raises:
            ApiError: it is longer than the context can be.
            BadInputError: no text.
        """
        self._check_size(text)
        return [self.tokenizer.bos_id, *self.tokenizer.encode(text)]

    def render(
        self, messages: Sequence[ChatMessage], param: str = "messages", tools: Tools = ()
    ) -> list[int]:
        """Return the ids after which the model answers a conversation.

        Args:
            messages: the conversation.
            param: the field that it came in, for errors.
            tools: definitions that the model reads first.

        Raises:
            ApiError: roles out of order, a content that is no text, or a tokenizer without roles.
        """
        try:
            plain = plain_messages([message.turn() for message in messages], tools)
            for message in plain:
                self._check_size(message.content)
            return ChatTemplate(self.tokenizer).render_prompt(plain).tolist()
        except (BadInputError, MismatchError) as error:
            raise ApiError(400, str(error), param=param) from None

    def make_requests(
        self,
        prompt: Sequence[int],
        fields: SamplingFields,
        max_tokens: int | None,
        top_tokens: int = 0,
        score_prompt: bool = False,
        constraints: Sequence[TokenConstraint | None] = (None,),
    ) -> list[Request]:
        """Return the engine's requests for one prompt, one for each of the `n` answers.

        Args:
            prompt: ids.
            fields: how to draw.
            max_tokens: most new tokens; None for what the context has room for.
            top_tokens: likeliest tokens to report.
            score_prompt: whether the prompt's own tokens are to be reported.
            constraints: of each answer.

        Raises:
            ApiError: the prompt fills the context.
        """
        room = self.engine.max_length - len(prompt) + 1
        if len(prompt) > self.engine.max_length:
            raise ApiError(
                400,
                f"the prompt has {len(prompt)} tokens; the context holds {self.engine.max_length}",
                code="context_length_exceeded",
            )
        sampling = self._sampling(fields)
        breakers = self._breaker_ids(sampling)
        seed = secrets.randbits(63) if fields.seed is None else fields.seed % 2**64
        bias = _bias(fields.logit_bias or {}, self.tokenizer.vocab_size)
        return [
            Request(
                prompt=tuple(prompt),
                max_new_tokens=room if max_tokens is None else min(max_tokens, room),
                sampling=sampling,
                seed=seed,
                row=row,
                breakers=breakers,
                bias=bias,
                ignore_stop=bool(fields.ignore_eos),
                top_tokens=top_tokens,
                score_prompt=score_prompt,
                constraint=constraint,
                adapter=self.adapter,
            )
            for row, constraint in zip(range(fields.n or 1), constraints, strict=True)
        ]

    def _sampling(self, fields: SamplingFields) -> RequestSampling:
        """Return the settings that are given; the others have the defaults of the class."""
        given = {name: value for name, value in fields if name in _SAMPLING and value is not None}
        if fields.temperature is not None and fields.temperature < 1e-6:
            # Below what the draw can tell from the likeliest token.
            given["temperature"] = 0.0
        if fields.top_k is not None and fields.top_k < 1:
            del given["top_k"]
        if fields.dry_sequence_breakers is not None:
            given["dry_sequence_breakers"] = tuple(fields.dry_sequence_breakers)
        return RequestSampling(**given, min_new_tokens=fields.min_tokens or 0)

    def _breaker_ids(self, sampling: RequestSampling) -> tuple[int, ...]:
        """Return the ids at which a sequence ends for DRY; none where it is off."""
        if not sampling.penalizes_repeats:
            return ()
        return breakers_of(self.tokenizer).ids(sampling.dry_sequence_breakers)

    def _check_size(self, text: str) -> None:
        """Refuse a text that fills the context however it is cut; to cut it takes seconds."""
        longest = int(self.tokenizer.bytes_per_token.max())
        if len(text) > self.engine.max_length * longest:
            raise ApiError(
                400,
                f"a text of {len(text):,} characters cannot fit; the context holds "
                f"{self.engine.max_length} tokens",
                code="context_length_exceeded",
            )

    def token_text(self, token: int) -> str:
        """Return the text of one token; U+FFFD where it is part of a character."""
        return self.token_bytes(token).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token; a control token's name."""
        for name, special in self.tokenizer.special_ids.items():
            if special == token:
                return CONTROL_PIECES[name].encode()
        return self.tokenizer.decode_bytes([token])


class ServedModels:
    """All models of one engine.

    Args:
        models: the base first, then its adapters.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.all = tuple(models)
        self.base = models[0]
        self._by_name = {name: each for each in models for name in (each.name, *each.aliases)}

    def choose(self, name: str | None) -> ServedModel:
        """Return the model that a request names; None is the base.

        Raises:
            ApiError: 404.
        """
        if name is None:
            return self.base
        if name not in self._by_name:
            names = ", ".join(repr(each.name) for each in self.all)
            are = "those that are served are" if len(self.all) > 1 else "the one that is served is"
            raise ApiError(
                404,
                f"no such model here; {are} {names}",
                param="model",
                code="model_not_found",
            )
        return self._by_name[name]


class AnswerStream:
    """One request in the engine, as an asynchronous iterator of what it gains.

    Leaving it early, also by cancellation, frees the request's slot.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        loop = asyncio.get_running_loop()
        self._engine = engine
        self._queue: asyncio.Queue[Progress] = asyncio.Queue()
        put = self._queue.put_nowait

        def deliver(progress: Progress) -> None:
            # A loop that has ended has no client left.
            if not loop.is_closed():
                loop.call_soon_threadsafe(put, progress)

        self._ticket = engine.submit(request, deliver)

    async def __aiter__(self) -> AsyncIterator[Progress]:
        """Yield until the request has finished.

        Raises:
            JaxgptError: the engine could not go on with it.
        """
        try:
            while True:
                progress = await self._queue.get()
                if progress.error is not None:
                    raise progress.error
                if progress.finish == "cancelled":
                    raise ApiError(503, "the server is stopping; send the request again")
                yield progress
                if progress.finish is not None:
                    return
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End the request."""
        self._engine.cancel(self._ticket)


def stop_strings(fields: SamplingFields) -> tuple[str, ...]:
    """Return the strings at which an answer ends.

    Raises:
        ApiError: an empty one.
    """
    stop = (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ())
    if "" in stop:
        raise ApiError(400, "a stop string must not be empty", param="stop")
    return stop


def _bias(given: dict[str, float], vocab_size: int) -> dict[int, float]:
    """Return biases by id; -100 forbids a token, as clients of OpenAI's API expect."""
    found = {}
    for name, value in given.items():
        if not name.isdecimal() or len(name) > 9 or int(name) >= vocab_size:
            raise ApiError(
                400,
                f"logit_bias has a key that is no id from 0 to {vocab_size - 1}",
                param="logit_bias",
            )
        found[int(name)] = -np.inf if value == -100 else value
    return found
