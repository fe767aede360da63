"""Cached decoding: equal to the full forward pass, whatever the batch, block or padding."""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.config import replace
from jaxgpt.errors import ConfigError, DivergedError, MismatchError
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decode_programs import decode_block, prefill
from jaxgpt.inference.decoding_weights import cast_weights, lay_out
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import Dtype, GptConfig
from jaxgpt.model.heads import ClassificationHead, LanguageModelHead
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.feed_forward import Gelu
from jaxgpt.model.layers.norms import LayerNorm
from jaxgpt.model.layers.positions import Learned, NoPosition, Sinusoidal
from jaxgpt.model.layers.projection import Initialization

VOCAB_SIZE = 61
BOS, EOS, PAD = 1, 2, 0
CONTEXT = 48
GREEDY = SamplingConfig(temperature=0.0)
# Large initial weights, so that greedy choices are clear and depend on the whole context.
BASE = GptConfig(
    num_layers=2,
    d_model=32,
    attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2),
    initialization=Initialization(std=0.3),
)
VARIANTS = {
    "rotary": BASE,
    "learned": replace(BASE, position=Learned(max_length=CONTEXT), norm=LayerNorm()),
    "sinusoidal": replace(BASE, position=Sinusoidal(), layers=Scanned()),
    "none, windowed": replace(
        BASE,
        position=NoPosition(),
        attention=GroupedQueryAttention(num_heads=4, num_kv_heads=1, windows=(5, None)),
    ),
    "untied, capped": replace(BASE, head=LanguageModelHead(tied=False, soft_cap=4.0)),
}
PROMPTS = [[BOS, 9, 33, 7], [BOS], [BOS, *range(20, 40)], [BOS, 50, 51]]


@functools.cache
def make_params(name: str) -> Any:
    tokens = jnp.zeros((1, 4), jnp.int32)
    return meta.unbox(VARIANTS[name].build(VOCAB_SIZE).init(jax.random.key(3), tokens)["params"])


@functools.cache
def make_decoder(
    name: str = "rotary", block_size: int = 8, stop_ids: tuple[int, ...] = (EOS,)
) -> Decoder:
    model = VARIANTS[name].build(VOCAB_SIZE)
    return Decoder(
        model=model,
        params=lay_out(model, make_params(name)),
        stop_ids=stop_ids,
        forbidden_ids=(PAD, BOS),
        context_length=CONTEXT,
        block_size=block_size,
    )


def generate(decoder: Decoder, prompts: Any, num: int, *args: Any, **kwargs: Any):
    """All new tokens of each row, and why each row ended."""
    ids: list[list[int]] = [[] for _ in prompts]
    ends: list[str | None] = [None] * len(prompts)
    for news in decoder.generate(prompts, num, *args, **kwargs):
        for new in news:
            assert ends[new.row] is None, "a finished row gains nothing"
            ids[new.row] += new.ids
            ends[new.row] = new.finish
    return ids, ends


@pytest.mark.parametrize("name", VARIANTS)
def test_greedy_decoding_is_the_argmax_of_full_forward_passes(name: str) -> None:
    decoder = make_decoder(name)
    ids, ends = generate(decoder, PROMPTS, 20, GREEDY)
    choices = [row + [EOS] * (end == "stop") for row, end in zip(ids, ends, strict=True)]
    padded = np.zeros((len(PROMPTS), CONTEXT), np.int32)
    for row, prompt in enumerate(PROMPTS):
        padded[row, : len(prompt) + len(choices[row])] = prompt + choices[row]
    logits = np.array(decoder.model.apply({"params": make_params(name)}, padded)[0])
    logits[..., [PAD, BOS]] = -np.inf
    for row, prompt in enumerate(PROMPTS):
        places = np.arange(len(prompt) - 1, len(prompt) - 1 + len(choices[row]))
        ranked = np.sort(logits[row, places], axis=-1)
        assert (ranked[:, -1] - ranked[:, -2]).min() > 1e-4, "a tie would prove nothing"
        assert logits[row, places].argmax(axis=-1).tolist() == choices[row]
        assert ends[row] == "stop" or len(ids[row]) == 20
    assert len({tuple(row) for row in ids}) == len(ids), "rows that agree would hide mix-ups"


@pytest.mark.optimized
def test_a_row_is_the_same_alone_in_a_batch_and_with_any_block_size() -> None:
    sampling = SamplingConfig(temperature=1.2, top_p=0.95, repetition_penalty=1.1)
    together, ends = generate(make_decoder(), PROMPTS, 19, sampling, seed=5)
    for row, prompt in list(enumerate(PROMPTS))[1:3]:
        alone = generate(make_decoder(), [prompt], 19, sampling, seed=5, rows=[row])
        assert alone == ([together[row]], [ends[row]])
    for block_size in (1, 5):
        decoder = make_decoder(block_size=block_size)
        assert generate(decoder, PROMPTS, 19, sampling, seed=5) == (together, ends)
    other, _ = generate(make_decoder(), PROMPTS, 19, sampling, seed=6)
    assert all(a != b for a, b in zip(other, together, strict=True))


def test_rows_with_one_prompt_differ_by_their_number() -> None:
    same_prompt = [PROMPTS[0]] * 4
    ids, _ = generate(make_decoder(), same_prompt, 12, SamplingConfig(temperature=1.5))
    assert len({tuple(row) for row in ids}) == 4


@pytest.mark.optimized
def test_a_row_continues_from_its_own_tokens_with_the_same_rest() -> None:
    sampling = SamplingConfig(temperature=1.3, repetition_penalty=1.5)
    decoder = make_decoder(stop_ids=())
    whole, _ = generate(decoder, PROMPTS[:1], 18, sampling, seed=1)
    rest, _ = generate(decoder, [PROMPTS[0] + whole[0][:7]], 11, sampling, seed=1)
    assert len(rest[0]) == 11
    assert rest[0] == whole[0][7:]


def test_a_stop_id_ends_its_row_alone_and_is_left_out() -> None:
    # The untrained model repeats itself in greedy mode; make one of its tokens the stop.
    free, _ = generate(make_decoder(), PROMPTS, 20, GREEDY)
    stop = free[0][3]
    ids, ends = generate(make_decoder(stop_ids=(EOS, stop)), PROMPTS, 20, GREEDY)
    for row in range(len(PROMPTS)):
        if stop in free[row]:
            assert (ids[row], ends[row]) == (free[row][: free[row].index(stop)], "stop")
        else:
            assert ids[row] == free[row]
    assert ends[0] == "stop"
    assert "length" in ends


def test_forbidden_ids_and_padding_are_never_drawn_at_any_temperature() -> None:
    hot = SamplingConfig(temperature=50.0)
    ids, _ = generate(make_decoder(), [[BOS]] * 16, 40, hot)
    drawn = {token for row in ids for token in row}
    assert drawn <= set(range(VOCAB_SIZE)) - {BOS, EOS, PAD}
    assert len(drawn) > 50


def test_prompt_lengths_share_compiled_programs() -> None:
    decoder = make_decoder()
    generate(decoder, [[BOS] * 3], 10, GREEDY)
    before = (prefill._cache_size(), decode_block._cache_size())
    for length in (1, 5, 7):
        generate(decoder, [[BOS] * length], 16 - length, GREEDY)
    assert (prefill._cache_size(), decode_block._cache_size()) == before


def test_the_longest_text_that_learned_positions_allow_can_be_filled() -> None:
    decoder = make_decoder("learned")
    ids, ends = generate(decoder, [[BOS] * (CONTEXT - 9)], 10, GREEDY)
    assert ends == ["stop"] or len(ids[0]) == 10
    with pytest.raises(ConfigError, match="learned positions"):
        generate(decoder, [[BOS] * (CONTEXT - 9)], 11, GREEDY)


def test_parameters_as_they_are_give_the_same_tokens() -> None:
    laid_out = make_decoder()
    plain = dataclasses.replace(laid_out, params=make_params("rotary"))
    assert generate(plain, PROMPTS, 12, GREEDY) == generate(laid_out, PROMPTS, 12, GREEDY)


def test_a_model_that_diverged_is_an_error_not_a_text() -> None:
    decoder = make_decoder()
    broken = jax.tree.map(lambda leaf: leaf.at[..., 0].set(jnp.nan), make_params("rotary"))
    diverged = Decoder(
        model=decoder.model,
        params=lay_out(decoder.model, broken),
        stop_ids=(EOS,),
        forbidden_ids=(),
        context_length=CONTEXT,
    )
    for sampling in (GREEDY, SamplingConfig()):
        with pytest.raises(DivergedError, match="not finite"):
            generate(diverged, PROMPTS, 5, sampling)


def test_impossible_requests_are_refused() -> None:
    for prompts, num in (([], 5), ([[BOS], []], 5), ([[BOS]], 0)):
        with pytest.raises(ValueError, match="at least one token"):
            generate(make_decoder(), prompts, num, GREEDY)
    classifier = replace(BASE, head=ClassificationHead(num_classes=3)).build(VOCAB_SIZE)
    with pytest.raises(MismatchError, match="ClassificationHead"):
        Decoder(
            model=classifier,
            params=lay_out(classifier, {}),
            stop_ids=(),
            forbidden_ids=(),
            context_length=CONTEXT,
        )


@pytest.mark.optimized
@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loop_over_steps_copies_neither_weights_nor_the_cache(
    dtype: Dtype, num_rows: int
) -> None:
    """Nothing of their sizes is made anew: cut out of a stack, transposed or converted."""
    # No kernel has as many numbers as an activation.
    config = replace(
        BASE,
        d_model=40,
        attention=GroupedQueryAttention(num_heads=5, head_dim=6, num_kv_heads=5),
        feed_forward=Gelu(hidden=56),
        compute_dtype=dtype,
    )
    model = config.build(VOCAB_SIZE)
    params = meta.unbox(model.init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"])
    weights = lay_out(model, cast_weights(model, params))
    decoder = Decoder(
        model=model, params=weights, stop_ids=(), forbidden_ids=(), context_length=CONTEXT
    )
    limits, allowed_V = [8] * num_rows, decoder._allowed_V
    state = decoder._start(PROMPTS[:num_rows], limits, GREEDY, 0, None, allowed_V)
    lowered = decode_block.lower(model, GREEDY, 4, weights, state, allowed_V)
    program = lowered.compile().as_text()
    kernels = {40 * 56, 40 * 30}
    pieces = [block.size for blocks in state.cache.k_BKCH for block in blocks]
    sizes = {pieces[0], sum(pieces)} | kernels | {2 * size for size in kernels}
    found = re.findall(r" = \w+\[([\d,]+)\]\S* ([\w-]+)\(", program)
    made = {how for shape, how in found if math.prod(map(int, shape.split(","))) in sizes}
    assert "parameter" in made
    assert made <= {"parameter", "get-tuple-element", "bitcast", "scatter", "fusion"}
    # Of that size, what is written are the places of new keys and values.
    made_whole = {
        name
        for name, shape in re.findall(r"%(\w+?)[.\d]* = \w+\[([\d,]+)\]\S* fusion", program)
        if math.prod(map(int, shape.split(","))) in sizes
    }
    assert made_whole <= {"wrapped_scatter"}
