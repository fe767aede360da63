"""Continue rows of tokens: one pass over the prompts, then token by token with a cache.

Tokens in, tokens out; text is text_generation.py's. The device works in blocks of steps, so that
the host waits once a block; shapes are rounded up to powers of two, so that few programs are
compiled. The programs are in decode_programs.py.

Axes: B rows, T tokens of a padded prompt, N steps of a block, V padded vocabulary.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgpt.errors import DivergedError, MismatchError
from jaxgpt.inference.decode_programs import DecodingState, decode_block, prefill
from jaxgpt.inference.decoding_mesh import OnDevices
from jaxgpt.inference.sampling import SamplingConfig, allowed_ids, row_keys
from jaxgpt.model.attention.kv_cache import MakeCache, empty_cache
from jaxgpt.model.gpt import Gpt
from jaxgpt.model.heads import LanguageModelHead

_SMALLEST_BUCKET = 16

# Given a row and the ids that it has drawn, return which ids it may draw next as a bool
# [vocab_size], or None if all are allowed from there on.
Constraint = Callable[[int, Sequence[int]], np.ndarray | None]


class NewTokens(NamedTuple):
    """New tokens of a row from one block.

    Attributes:
        row: its place among the prompts.
        ids: new tokens, in order; the one that ends a row is left out.
        finish: "stop" if the row drew a stop id, "length" if it has all its tokens, else None.
    """

    row: int
    ids: list[int]
    finish: Literal["stop", "length"] | None


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A model with its parameters, and which ids it may draw.

    Attributes:
        model: a language model.
        params: its parameters, as they are or, which is faster, from `lay_out`.
        stop_ids: ids that end a row.
        forbidden_ids: ids that are never drawn.
        context_length: tokens that the model was trained to see; shapes are not rounded up
            beyond it.
        block_size: steps between two visits to the host.
        empty_cache: what makes the cache of keys and values.
        on_devices: makes the context in which programs are traced and run, for parameters that
            several devices share; see `decoding_mesh.py`.
    """

    model: Gpt
    params: Any
    stop_ids: tuple[int, ...]
    forbidden_ids: tuple[int, ...]
    context_length: int
    block_size: int = 16
    empty_cache: MakeCache = empty_cache
    on_devices: OnDevices = contextlib.nullcontext

    def __post_init__(self) -> None:
        head = self.model.config.head
        if not isinstance(head, LanguageModelHead):
            raise MismatchError(
                f"this model has a {type(head).__name__}; only one with a LanguageModelHead "
                "can continue text"
            )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        sampling: SamplingConfig,
        seed: int = 0,
        rows: Sequence[int] | None = None,
        constraint: Constraint | None = None,
        breakers: Sequence[int] = (),
    ) -> Iterator[list[NewTokens]]:
        """Yield what the rows gain, block by block, until each has finished.

        What a row draws depends on the seed, its number and the places of its tokens alone, not
        on the other rows or the block size (up to rounding: other shapes may be summed in
        another order). A row that continues from its own first tokens draws the same rest.

        Args:
            prompts: ids of each row, at least one each, of any lengths.
            max_new_tokens: most tokens of a row, at least 1; one number for all rows, or one each.
            sampling: how tokens are drawn.
            seed: of the draws.
            rows: numbers of the rows; None for 0, 1, ...
            constraint: narrows what the first tokens of each row may be. While it holds for any
                row, tokens are drawn one by one.
            breakers: ids at which a sequence ends for DRY: those of the texts in `sampling`.

        Raises:
            ValueError: a prompt without a token.
            ConfigError: more tokens than the model has positions.
            DivergedError: the model's scores are not finite.
        """
        limits = _limits(prompts, max_new_tokens)
        drawn_ids: list[list[int]] = [[] for _ in prompts]
        allowed = self._next_allowed(constraint, drawn_ids)
        state = self._start(prompts, limits, sampling, seed, rows, allowed, breakers)
        finished: set[int] = set()
        drawn_BN = np.asarray(state.tokens_B)[:, None]
        while True:
            going = [row for row in range(len(prompts)) if row not in finished]
            news = [self._gain(row, drawn_BN[row], limits[row], drawn_ids[row]) for row in going]
            finished |= {new.row for new in news if new.finish is not None}
            yield news
            if len(finished) == len(prompts):
                return
            if allowed is not self._allowed_V:
                allowed = self._next_allowed(constraint, drawn_ids)
            state, drawn_BN = self._decode_block(sampling, state, allowed)

    def account(self) -> dict[str, Any]:
        """Return what is to be told about the texts so far: nothing, of a plain decoder."""
        return {}

    @functools.cached_property
    def _allowed_V(self) -> np.ndarray:
        vocab_size = self.model.vocab_size
        columns = self.model.config.pad_vocab(vocab_size)
        return allowed_ids(columns, vocab_size, self.forbidden_ids)

    def _next_allowed(
        self, constraint: Constraint | None, drawn_ids: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """Return which ids may be drawn next: bool [B, V] if any row is constrained, else [V]."""
        if constraint is None:
            return self._allowed_V
        masks = [constraint(row, ids) for row, ids in enumerate(drawn_ids)]
        if all(mask is None for mask in masks):
            return self._allowed_V
        allowed_BV = np.tile(self._allowed_V, (len(masks), 1))
        for allowed_V, mask in zip(allowed_BV, masks, strict=True):
            if mask is not None:
                allowed_V[: len(mask)] &= mask
        return allowed_BV

    def _start(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        sampling: SamplingConfig,
        seed: int,
        rows: Sequence[int] | None,
        allowed: np.ndarray,
        breakers: Sequence[int] = (),
    ) -> DecodingState:
        """Read the prompts and draw the first token of each row."""
        longest = max(map(len, prompts))
        # The last token drawn is never read, so it needs no slot.
        most = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
        cache_length = self._bucket(most - 1)
        tokens_BT = np.zeros((len(prompts), self._bucket(longest)), np.int32)
        for row, prompt in enumerate(prompts):
            tokens_BT[row, : len(prompt)] = prompt
        lengths_B = np.array([len(prompt) for prompt in prompts], np.int32)
        numbers_B = np.arange(len(prompts)) if rows is None else np.asarray(rows)
        keys_B = row_keys(seed, jnp.asarray(numbers_B, jnp.uint32))
        breakers_V = np.isin(np.arange(self._allowed_V.size), breakers)
        inputs = tokens_BT, lengths_B, keys_B, allowed
        with self.on_devices():
            return prefill(
                self.model,
                sampling,
                cache_length,
                self.params,
                *inputs,
                self.empty_cache,
                breakers_V,
            )

    def _bucket(self, length: int) -> int:
        """Round up to a power of two, but not beyond what the model has seen in training."""
        bucket = max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length())
        return min(bucket, max(self.context_length, length))

    def _decode_block(
        self, sampling: SamplingConfig, state: DecodingState, allowed: np.ndarray
    ) -> tuple[DecodingState, np.ndarray]:
        """Draw more tokens in each row: the state behind them, and int32 [B, N]."""
        num_steps = self.block_size if allowed is self._allowed_V else 1
        with self.on_devices():
            state, drawn_BN = decode_block(
                self.model, sampling, num_steps, self.params, state, allowed
            )
        return state, np.asarray(drawn_BN)

    def _gain(self, row: int, drawn_N: np.ndarray, limit: int, drawn_ids: list[int]) -> NewTokens:
        """Add to what a row has drawn what it draws next, up to its limit; return what is added."""
        new = self._cut(row, drawn_N.tolist(), limit - len(drawn_ids))
        drawn_ids += new.ids
        return new

    def _cut(self, row: int, drawn: list[int], room: int) -> NewTokens:
        """Keep the drawn tokens before a stop id, as far as there is room."""
        ids: list[int] = []
        for token in drawn:
            if token < 0:
                raise DivergedError(
                    "the model's scores are not finite: its parameters are damaged or training "
                    "diverged; try an earlier --step"
                )
            if token in self.stop_ids:
                return NewTokens(row, ids, "stop")
            ids.append(token)
            if len(ids) == room:
                return NewTokens(row, ids, "length")
        return NewTokens(row, ids, None)


def _limits(prompts: Sequence[Sequence[int]], max_new_tokens: int | Sequence[int]) -> list[int]:
    """Return the most new tokens of each row.

    Raises:
        ValueError: a row has no token, or none is to be drawn.
    """
    limits = np.broadcast_to(max_new_tokens, len(prompts)).tolist()
    if not len(prompts) or not all(map(len, prompts)) or min(limits) < 1:
        raise ValueError("every prompt needs at least one token, and one new token is drawn")
    return limits
