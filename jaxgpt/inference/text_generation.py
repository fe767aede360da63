"""Text in, text out, around decode.py: prompts become ids, drawn ids become text that may be shown.

The only file of this package that knows text. What is shown never ends within a character, and
never contains a stop string or the beginning of one that the next tokens complete.

A prompt may end within a piece: in the text that a model learns from, a space belongs to the word
after it. So the last tokens that a longer piece could replace are dropped, and what is drawn first
must spell their text again ("token healing").
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxgpt.errors import ConfigError, UsageError
from jaxgpt.inference.decode import Constraint, Decoder, NewTokens
from jaxgpt.inference.decoding_mesh import OnDevices
from jaxgpt.inference.decoding_weights import cast_weights, lay_out
from jaxgpt.inference.precision import UNROUNDED, Precision
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.inference.sequence_breakers import breakers_of
from jaxgpt.inference.sliding import SlidingDecoder
from jaxgpt.inference.stop_strings import StopStrings
from jaxgpt.model.gpt import Gpt
from jaxgpt.tokenizer.tokenizer import StreamDecoder, Tokenizer

logger = logging.getLogger(__name__)

_DEFAULT_NEW_TOKENS = 256


class TextPiece(NamedTuple):
    """More text of a row.

    Attributes:
        row: its place among the prompts.
        text: what follows the row's earlier pieces; may be empty.
        finish: "stop" if the row ended by itself or at a stop string, "length" if it has all
            its tokens, None if more follows.
    """

    row: int
    text: str
    finish: Literal["stop", "length"] | None


def make_text_decoder(
    model: Gpt,
    params: Any,
    tokenizer: Tokenizer,
    context_length: int,
    stop_ids: tuple[int, ...] | None = None,
    precision: Precision = UNROUNDED,
    on_devices: OnDevices = contextlib.nullcontext,
) -> Decoder:
    """Return a `Decoder` that draws text tokens only, and ends rows at a stop id: None, EOS."""
    stop_ids = (tokenizer.eos_id,) if stop_ids is None else stop_ids
    return Decoder(
        model=model,
        params=lay_out(model, cast_weights(model, precision.round(model, params))),
        stop_ids=stop_ids,
        forbidden_ids=forbidden_ids(tokenizer, stop_ids),
        context_length=context_length,
        empty_cache=precision.empty_cache,
        on_devices=on_devices,
    )


def forbidden_ids(tokenizer: Tokenizer, stop_ids: Iterable[int]) -> tuple[int, ...]:
    """Return the ids that are never drawn: no text, and not where one ends."""
    return tuple(sorted(set(tokenizer.special_ids.values()) - set(stop_ids)))


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a document's beginning; of an empty text, the start symbol alone."""
    return [tokenizer.bos_id, *tokenizer.encode(text)]


class HealedPrompt(NamedTuple):
    """A prompt without the tokens that a longer piece could replace.

    Attributes:
        ids: the tokens that are kept; the start symbol is always among them.
        rest: the text of the dropped ones, which what is drawn must begin with.
        num_dropped: how many tokens were dropped.
    """

    ids: list[int]
    rest: bytes
    num_dropped: int

    def unhealed(self, tokenizer: Tokenizer) -> "HealedPrompt":
        """Return the prompt with the tokens that were dropped."""
        if not self.num_dropped:
            return self
        text = tokenizer.decode_bytes(self.ids[1:]) + self.rest
        return HealedPrompt(encode_prompt(tokenizer, text.decode()), b"", 0)


def heal_prompt(tokenizer: Tokenizer, text: str) -> HealedPrompt:
    """Encode a prompt and drop the longest end of it that some longer piece begins with.

    Raises:
        BadInputError: a prompt that is no text.
    """
    ids = encode_prompt(tokenizer, text)
    healed = HealedPrompt(ids, b"", 0)
    longest = int(tokenizer.bytes_per_token.max())
    rest = b""
    for num_dropped, token in enumerate(reversed(ids[1:]), start=1):
        rest = tokenizer.decode_bytes([token]) + rest
        if len(rest) >= longest:
            break
        if tokenizer.can_continue(rest):
            healed = HealedPrompt(ids[:-num_dropped], rest, num_dropped)
    return healed


def choose_length(
    decoder: Decoder | SlidingDecoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str | HealedPrompt],
    wanted: int | None,
) -> int:
    """Return how many tokens to draw after each of `prompts`.

    Args:
        decoder: whose context is asked for.
        tokenizer: the model's.
        prompts: texts; the longest decides.
        wanted: the number if the caller names one; None: up to 256 within the context that the
            model was trained on, or 256 past it if the prompt alone fills it or the window slides.

    Raises:
        UsageError: the model has too few positions for these tokens.
    """
    if isinstance(decoder, SlidingDecoder):
        return wanted or _DEFAULT_NEW_TOKENS
    healed = [_healed(tokenizer, prompt) for prompt in prompts]
    num_prompt_tokens = max(len(prompt.ids) + prompt.num_dropped for prompt in healed)
    room = decoder.context_length - num_prompt_tokens
    number = wanted or (min(_DEFAULT_NEW_TOKENS, room) if room > 0 else _DEFAULT_NEW_TOKENS)
    try:
        decoder.model.config.position.check_length(num_prompt_tokens + number - 1)
    except ConfigError as error:
        raise UsageError(
            f"a prompt of {num_prompt_tokens} tokens and {number} new ones do not fit: {error}. "
            "--slide-window forgets the oldest tokens and goes on"
        ) from None
    if number > room:
        logger.warning(
            "%d prompt tokens and %d new ones go beyond the %d tokens that the model was trained "
            "to see; expect worse text there",
            num_prompt_tokens,
            number,
            decoder.context_length,
        )
    return number


def stream_text(
    decoder: Decoder | SlidingDecoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str | HealedPrompt],
    max_new_tokens: int,
    sampling: SamplingConfig,
    seed: int = 0,
    stop: Sequence[str] = (),
    form: Constraint | None = None,
) -> Iterator[TextPiece]:
    """Yield the continuations of `prompts` as they come; each row's last piece has its `finish`.

    Args:
        decoder: from `make_text_decoder`, perhaps in a `SlidingDecoder`.
        tokenizer: the model's.
        prompts: the texts to continue; they are not repeated in the pieces.
        max_new_tokens: most new tokens per row.
        sampling: how tokens are drawn.
        seed: of the draws; see `Decoder.generate`.
        stop: strings that end a row where its new text would contain them; not shown.
        form: narrows what each row may draw, from its first token on; prompts are not healed then,
            since the form is that of the new text alone.

    Raises:
        BadInputError: a prompt that is no text.
        ConfigError, DivergedError: see `Decoder.generate`.
    """
    healed = [_healed(tokenizer, prompt) for prompt in prompts]
    if form is not None:
        healed = [prompt.unhealed(tokenizer) for prompt in healed]
    rows = [_Row(tokenizer, prompt.rest, max_new_tokens, stop) for prompt in healed]
    limits = [_limit(decoder, prompt, max_new_tokens) for prompt in healed]
    constraint = form or _constraint(tokenizer, [prompt.rest for prompt in healed])
    ids = [prompt.ids for prompt in healed]
    breakers: tuple[int, ...] = ()
    if sampling.penalizes_repeats:
        breakers = breakers_of(tokenizer).ids(sampling.dry_sequence_breakers)
    named: dict[str, Any] = {"constraint": constraint, "breakers": breakers}
    for news in decoder.generate(ids, limits, sampling, seed, **named):
        for new in news:
            row = rows[new.row]
            if not row.finish:
                yield TextPiece(new.row, row.feed(new), row.finish)
        if all(row.finish for row in rows):
            return


def continue_texts(
    decoder: Decoder | SlidingDecoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str | HealedPrompt],
    max_new_tokens: int,
    sampling: SamplingConfig,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> list[str]:
    """Return the whole continuation of each prompt; see `stream_text`."""
    texts = [""] * len(prompts)
    for piece in stream_text(decoder, tokenizer, prompts, max_new_tokens, sampling, seed, stop):
        texts[piece.row] += piece.text
    return texts


def _healed(tokenizer: Tokenizer, prompt: str | HealedPrompt) -> HealedPrompt:
    return heal_prompt(tokenizer, prompt) if isinstance(prompt, str) else prompt


def _limit(decoder: Decoder | SlidingDecoder, prompt: HealedPrompt, max_new_tokens: int) -> int:
    """Return how many tokens a row may draw: new ones, and those that spell its dropped end.

    The end may be spelled byte by byte: each byte has a token's room if the context has it.
    """
    num_bytes = len(prompt.rest)
    if isinstance(decoder, SlidingDecoder):
        return max_new_tokens + num_bytes
    room = decoder.context_length + 1 - len(prompt.ids) - max_new_tokens
    return max_new_tokens + min(num_bytes, max(room, prompt.num_dropped))


def _constraint(tokenizer: Tokenizer, rests: Sequence[bytes]) -> Constraint:
    """Let each row spell its `rest` before anything else."""
    masks: dict[bytes, np.ndarray] = {}

    def constrain(row: int, ids: Sequence[int]) -> np.ndarray | None:
        rest = rests[row][int(tokenizer.bytes_per_token[list(ids)].sum()) :]
        if not rest:
            return None
        if rest not in masks:
            masks[rest] = tokenizer.allowed_before(rest)
        return masks[rest]

    return constrain


class _Row:
    """The text of one row: whole characters, then no stop strings.

    Attributes:
        finish: why the row has ended; None while it goes on.
    """

    def __init__(
        self, tokenizer: Tokenizer, rest: bytes, max_new_tokens: int, stop: Sequence[str]
    ) -> None:
        self._bytes_per_token = tokenizer.bytes_per_token
        self._characters = StreamDecoder(tokenizer, skip_bytes=len(rest))
        self._stop_strings = StopStrings(stop)
        self._rest_bytes = len(rest)
        self._room = max_new_tokens
        self.finish: Literal["stop", "length"] | None = None

    def feed(self, new: NewTokens) -> str:
        """Take what the row gained, as far as there is room; return what is certain to be shown."""
        ids = []
        finish = new.finish
        for token in new.ids:
            self._rest_bytes -= int(self._bytes_per_token[token])
            # A token within the prompt's own text is not new.
            self._room -= self._rest_bytes < 0
            ids.append(token)
            if not self._room:
                finish = "length"
                break
        text = self._stop_strings.feed(self._characters.feed(ids))
        if finish is not None:
            text += self._stop_strings.feed(self._characters.flush()) + self._stop_strings.flush()
        self.finish = "stop" if self._stop_strings.found else finish
        return text
