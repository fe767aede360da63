"""Continue rows of tokens: one pass over the prompts, then token by token with a cache.

Tokens in, tokens out; text is text_generation.py's. The device works in blocks of steps, so that
the host waits once a block; shapes are rounded up to powers of two, so that few programs are
compiled.

Axes: B rows, T tokens of a padded prompt, N steps of a block, V padded vocabulary, D model.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgpt.errors import DivergedError, MismatchError
from jaxgpt.inference.cpu_layout import cache_dtype, head_table
from jaxgpt.inference.decoding_mesh import OnDevices
from jaxgpt.inference.decoding_weights import restore
from jaxgpt.inference.sampling import SamplingConfig, allowed_ids, row_keys, sample
from jaxgpt.model.attention.kv_cache import KVCache, MakeCache, empty_cache
from jaxgpt.model.gpt import Gpt, make_cache
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layers.placement import constrain

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


class _State(NamedTuple):
    """State on the device that is carried from step to step.

    Attributes:
        cache: keys and values of all tokens but the newest.
        tokens_B: int32, the newest token of each row.
        keys_B: a PRNG key per row.
        seen_BV: bool, tokens that a row has; None if nothing depends on them.
    """

    cache: KVCache
    tokens_B: Array
    keys_B: Array
    seen_BV: Array | None


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

        Raises:
            ValueError: a prompt without a token.
            ConfigError: more tokens than the model has positions.
            DivergedError: the model's scores are not finite.
        """
        lengths = [len(prompt) for prompt in prompts]
        limits = np.broadcast_to(max_new_tokens, len(lengths)).tolist()
        if not lengths or min(lengths) == 0 or min(limits) < 1:
            raise ValueError("every prompt needs at least one token, and one new token is drawn")
        drawn_ids: list[list[int]] = [[] for _ in prompts]
        allowed = self._next_allowed(constraint, drawn_ids)
        state = self._start(prompts, limits, sampling, seed, rows, allowed)
        finished = [False] * len(prompts)
        drawn_BN = np.asarray(state.tokens_B)[:, None]
        while True:
            news = []
            for row, drawn_N in enumerate(drawn_BN.tolist()):
                if not finished[row]:
                    new = self._cut(row, drawn_N, limits[row] - len(drawn_ids[row]))
                    drawn_ids[row] += new.ids
                    finished[row] = new.finish is not None
                    news.append(new)
            yield news
            if all(finished):
                return
            if allowed is not self._allowed_V:
                allowed = self._next_allowed(constraint, drawn_ids)
            num_steps = self.block_size if allowed is self._allowed_V else 1
            with self.on_devices():
                state, drawn_BN = _decode_block(
                    self.model, sampling, num_steps, self.params, state, allowed
                )
            drawn_BN = np.asarray(drawn_BN)

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
    ) -> _State:
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
        inputs = tokens_BT, lengths_B, keys_B, allowed
        with self.on_devices():
            return _prefill(
                self.model, sampling, cache_length, self.params, *inputs, self.empty_cache
            )

    def _bucket(self, length: int) -> int:
        """Round up to a power of two, but not beyond what the model has seen in training."""
        bucket = max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length())
        return min(bucket, max(self.context_length, length))

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


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 8))
def _prefill(
    model: Gpt,
    sampling: SamplingConfig,
    cache_length: int,
    params: Any,
    tokens_BT: Array,
    lengths_B: Array,
    keys_B: Array,
    allowed: Array,
    empty: MakeCache = empty_cache,
) -> _State:
    num_rows, num_columns = tokens_BT.shape[0], allowed.shape[-1]
    valid_BT = jnp.arange(tokens_BT.shape[1]) < lengths_B[:, None]
    cache = make_cache(model.config, num_rows, cache_length, cache_dtype(), empty)
    logits_BV, cache = next_logits(model, params, tokens_BT, valid_BT, cache)
    seen_BV = None
    if sampling.needs_seen:
        # Padding goes to a column that does not exist.
        columns_BT = jnp.where(valid_BT, tokens_BT, num_columns)
        seen_BV = jnp.zeros((num_rows, num_columns), bool)
        seen_BV = seen_BV.at[jnp.arange(num_rows)[:, None], columns_BT].set(True, mode="drop")
    return _draw(sampling, allowed, logits_BV, cache, keys_B, seen_BV)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def _decode_block(
    model: Gpt,
    sampling: SamplingConfig,
    num_steps: int,
    params: Any,
    state: _State,
    allowed: Array,
) -> tuple[_State, Array]:
    """Take `num_steps` steps; returns the new state and the drawn tokens, int32 [B, N]."""

    def step(state: _State, _: None) -> tuple[_State, Array]:
        valid_B1 = jnp.ones((state.tokens_B.shape[0], 1), bool)
        logits_BV, cache = next_logits(
            model, params, state.tokens_B[:, None], valid_B1, state.cache
        )
        state = _draw(sampling, allowed, logits_BV, cache, state.keys_B, state.seen_BV)
        return state, state.tokens_B

    state, drawn_NB = jax.lax.scan(step, state, length=num_steps)
    return state, drawn_NB.T


def _draw(
    sampling: SamplingConfig,
    allowed: Array,
    logits_BV: Array,
    cache: KVCache,
    keys_B: Array,
    seen_BV: Array | None,
) -> _State:
    """Draw the next token of each row; `allowed` is a bool [V], or [B, V] if rows differ."""
    tokens_B = sample(logits_BV, sampling, allowed, keys_B, cache.lengths_B, seen_BV)
    if seen_BV is not None:
        seen_BV = seen_BV.at[jnp.arange(tokens_B.shape[0]), tokens_B].set(True)
    return _State(cache, tokens_B, keys_B, seen_BV)


def next_logits(
    model: Gpt, params: Any, tokens_BT: Array, valid_BT: Array, cache: KVCache
) -> tuple[Array, KVCache]:
    """Append tokens to the cache; return the scores [B, V] of what follows each row's last one."""

    def at_the_last(gpt: Gpt) -> tuple[Array, KVCache]:
        x_BTD, new_cache = gpt.hidden_states(tokens_BT, valid_BT.astype(jnp.int32), cache=cache)
        # The head sees one position a row: scores of a whole prompt would not fit in memory.
        last_B = jnp.sum(valid_BT, axis=1) - 1
        x_B1D = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)
        table_VD = gpt.embedding.as_kernel(head_table(params, gpt.embedding.table))
        logits_B1V = gpt.head(x_B1D, table_VD, jnp.ones_like(valid_BT[:, :1]))
        assert new_cache is not None
        # Of devices that share the vocabulary, each gets all scores and draws for itself.
        return constrain(logits_B1V[:, 0], "batch", None), new_cache

    return model.apply({"params": restore(params)}, method=at_the_last)  # type: ignore[return-value]
