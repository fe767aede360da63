"""Text around decoding: prompts, whole characters, stop strings that are never seen."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.errors import UsageError
from jaxgpt.inference.decode import Decoder, NewTokens
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.inference.stop_strings import StopStrings
from jaxgpt.inference.text_generation import (
    choose_length,
    continue_texts,
    encode_prompt,
    heal_prompt,
    make_text_decoder,
    stream_text,
)
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.positions import Learned, Position, Rotary
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer

GREEDY = SamplingConfig(temperature=0.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = "the quick brown fox jumps over the lazy dog. " * 50
    return train_tokenizer([text], TokenizerConfig(kind="bpe", vocab_size=320))


class Script:
    """Stands in for a decoder: says given ids in given portions, and why each row ends."""

    context_length = 64

    def __init__(self, *blocks: list[NewTokens]) -> None:
        self.blocks = blocks
        self.prompts: list[list[int]] = []
        self.num_yielded = 0

    def generate(
        self, prompts, max_new_tokens, sampling, seed, constraint, breakers
    ) -> Iterator[list[NewTokens]]:
        self.prompts = prompts
        for block in self.blocks:
            self.num_yielded += 1
            yield block


def as_blocks(ids: list[int], size: int, finish: str = "length") -> list[list[NewTokens]]:
    parts = [ids[i : i + size] for i in range(0, len(ids), size)] or [[]]
    last = len(parts) - 1
    return [[NewTokens(0, part, finish if i == last else None)] for i, part in enumerate(parts)]


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet="abx", max_size=30),
    stop=st.lists(st.text(alphabet="abx", min_size=1, max_size=5), max_size=3),
    sizes=st.lists(st.integers(1, 4), min_size=30, max_size=30),
)
def test_what_is_shown_is_the_text_before_the_first_stop_string(
    text: str, stop: list[str], sizes: list[int]
) -> None:
    held, shown, place = StopStrings(stop), "", 0
    for size in sizes:
        shown += held.feed(text[place : place + size])
        place += size
        assert not any(string in shown for string in stop)
    assert held.feed("") == ""
    shown += held.flush()
    assert held.found == any(string in text for string in stop)
    # Letter by letter: the first stop string to be complete decides, the longest if several are.
    for end in range(len(text) + 1):
        complete = [string for string in stop if text[:end].endswith(string)]
        if complete:
            assert shown == text[: end - max(map(len, complete))]
            return
    assert shown == text


def test_only_the_possible_beginning_of_a_stop_string_is_held_back() -> None:
    held = StopStrings(["\n\nUser:"])
    assert held.feed("one\n") == "one"
    assert held.feed("two") == "\ntwo"
    assert held.feed("\n\nUse") == ""
    assert held.feed("ful") == "\n\nUseful"
    assert held.feed(" end\n\nUser: hi") == " end"
    assert held.found
    assert held.feed("more") == ""
    with pytest.raises(ValueError, match="empty"):
        StopStrings([""])


@pytest.mark.parametrize("size", [1, 2, 7])
def test_pieces_never_end_within_a_character(tokenizer: Tokenizer, size: int) -> None:
    text = "naïve 東京 🎉 fox"
    script = Script(*as_blocks(tokenizer.encode(text), size))
    pieces = list(stream_text(script, tokenizer, [""], 99, GREEDY))  # type: ignore[arg-type]
    assert "".join(piece.text for piece in pieces) == text
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert [piece.finish for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]


def test_an_unfinished_character_at_the_end_is_shown_as_one_mark(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🎉")[:-1]
    script = Script(*as_blocks(ids, 1))
    assert continue_texts(script, tokenizer, [""], 99, GREEDY) == ["a\ufffd"]  # type: ignore


def test_a_stop_string_across_blocks_ends_its_row_and_then_the_stream(
    tokenizer: Tokenizer,
) -> None:
    first = as_blocks(tokenizer.encode("over the dog. ENDING"), 1)
    second = as_blocks(tokenizer.encode("brown fox"), 1, "stop")
    second = [[NewTokens(1, new.ids, new.finish)] for (new,) in second]
    num_blocks = max(len(first), len(second))
    padded = [blocks + [[]] * (num_blocks - len(blocks)) for blocks in (first, second)]
    script = Script(*[a + b for a, b in zip(*padded, strict=True)])
    pieces = list(stream_text(script, tokenizer, ["", ""], 99, GREEDY, stop=[" END"]))  # type: ignore
    texts = ["".join(piece.text for piece in pieces if piece.row == row) for row in (0, 1)]
    assert texts == ["over the dog.", "brown fox"]
    ends = [[piece.finish for piece in pieces if piece.row == row][-1] for row in (0, 1)]
    assert ends == ["stop", "stop"]
    assert script.num_yielded < num_blocks, "no block is computed that nobody sees"
    assert sum(piece.finish is not None for piece in pieces) == 2


def test_a_held_back_beginning_is_shown_when_the_row_ends(tokenizer: Tokenizer) -> None:
    script = Script(*as_blocks(tokenizer.encode("the EN"), 1))
    texts = continue_texts(script, tokenizer, [""], 9, GREEDY, stop=["END"])  # type: ignore
    assert texts == ["the EN"]


def test_an_empty_prompt_is_the_start_symbol_alone(tokenizer: Tokenizer) -> None:
    assert encode_prompt(tokenizer, "") == [tokenizer.bos_id]
    assert encode_prompt(tokenizer, "the")[0] == tokenizer.bos_id
    assert tokenizer.decode(encode_prompt(tokenizer, "the fox")) == "the fox"
    # A control token written as text is text.
    assert tokenizer.eos_id not in encode_prompt(tokenizer, "</s><|user|>")


def make_decoder(tokenizer: Tokenizer) -> Decoder:
    config = GptConfig(num_layers=1, d_model=16, attention=GroupedQueryAttention(num_heads=2))
    model = config.build(tokenizer.vocab_size)
    params = meta.unbox(model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"])
    return make_text_decoder(model, params, tokenizer, context_length=64)


def test_the_number_of_new_tokens_fits_the_context_unless_told_otherwise(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    def choose(prompt: str, wanted: int | None, position: Position, context: int = 64) -> int:
        config = GptConfig(
            num_layers=1,
            d_model=16,
            attention=GroupedQueryAttention(num_heads=2),
            position=position,
        )
        model = config.build(tokenizer.vocab_size)
        decoder = make_text_decoder(model, {}, tokenizer, context)
        return choose_length(decoder, tokenizer, ["", prompt], wanted)

    prompt = "the fox"
    used = len(encode_prompt(tokenizer, prompt))
    assert choose(prompt, None, Rotary()) == 64 - used
    assert choose(prompt, None, Rotary(), context=4096) == 256
    assert choose(prompt, 10, Rotary()) == 10
    assert not caplog.records
    assert choose(prompt, 100, Rotary()) == 100
    assert choose("fox " * 100, None, Rotary()) == 256
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    # The last token drawn is never read, so it needs no position.
    assert choose(prompt, 65 - used, Learned(max_length=64)) == 65 - used
    for text, wanted in ((prompt, 66 - used), ("fox " * 100, None)):
        with pytest.raises(UsageError, match="do not fit"):
            choose(text, wanted, Learned(max_length=64))


def test_a_real_decoder_draws_text_and_ends_documents(tokenizer: Tokenizer) -> None:
    decoder = make_decoder(tokenizer)
    assert decoder.stop_ids == (tokenizer.eos_id,)
    others = {id for name, id in tokenizer.special_ids.items() if name != "eos"}
    assert set(decoder.forbidden_ids) == others
    hot = SamplingConfig(temperature=30.0)
    pieces = list(stream_text(decoder, tokenizer, ["the fox", ""], 20, hot, seed=1))
    texts = ["".join(piece.text for piece in pieces if piece.row == row) for row in (0, 1)]
    assert texts == continue_texts(decoder, tokenizer, ["the fox", ""], 20, hot, seed=1)
    assert texts != continue_texts(decoder, tokenizer, ["the fox", ""], 20, hot, seed=2)
    assert all(texts)
    assert {piece.finish for piece in pieces} <= {None, "stop", "length"}


class Recorder:
    """A decoder that remembers the ids of each row, the prompt's and the drawn ones."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.context_length = decoder.context_length
        self.rows: list[list[int]] = []

    def generate(self, prompts: Any, *args: Any, **kwargs: Any) -> Iterator[list[NewTokens]]:
        self.rows = [list(prompt) for prompt in prompts]
        for news in self.decoder.generate(prompts, *args, **kwargs):
            for new in news:
                self.rows[new.row] += new.ids
            yield news


@pytest.fixture(scope="module")
def decoder(tokenizer: Tokenizer) -> Decoder:
    return make_decoder(tokenizer)


@settings(max_examples=40, deadline=None)
@given(
    prompt=st.text(alphabet="the quickbrown.\né🎉", max_size=9),
    other=st.sampled_from(["", "the ", "the quick br", "x"]),
    number=st.integers(1, 3),
)
def test_what_is_drawn_spells_the_prompt_first_and_has_the_tokens_asked_for(
    tokenizer: Tokenizer, decoder: Decoder, prompt: str, other: str, number: int
) -> None:
    recorder, hot, prompts = Recorder(decoder), SamplingConfig(temperature=20.0), [prompt, other]
    pieces = list(stream_text(recorder, tokenizer, prompts, number, hot))  # type: ignore
    for row, (text, ids) in enumerate(zip(prompts, recorder.rows, strict=True)):
        spelled = tokenizer.decode_bytes(ids)
        assert spelled.startswith(text.encode())
        shown = "".join(piece.text for piece in pieces if piece.row == row)
        if "\ufffd" not in shown:  # Otherwise half a character was drawn.
            whole = (text + shown).encode()
            assert spelled.startswith(whole)
            ends = np.cumsum(tokenizer.bytes_per_token[ids])
            assert np.sum((ends > len(text.encode())) & (ends <= len(whole))) <= number
        assert [piece.finish is not None for piece in pieces if piece.row == row].count(True) == 1


def test_a_prompt_that_ends_within_a_piece_is_continued_by_that_piece(tokenizer: Tokenizer) -> None:
    whole = encode_prompt(tokenizer, "the lazy")
    for cut, rest in (("the ", b" "), ("the laz", b" laz"), ("the lazy", b"")):
        healed = heal_prompt(tokenizer, cut)
        assert (healed.ids, healed.rest) == (whole[: len(healed.ids)], rest), cut
        if rest:
            assert tokenizer.allowed_before(rest)[whole[len(healed.ids)]], cut
    assert heal_prompt(tokenizer, "") == ([tokenizer.bos_id], b"", 0)


def test_an_end_that_is_spelled_byte_by_byte_leaves_the_tokens_asked_for() -> None:
    text = "the king of kings and the kingdom of a quick fox. " * 50 + " king" * 20
    tokenizer = train_tokenizer([text], TokenizerConfig(kind="bpe", vocab_size=320))
    recorder = Recorder(make_decoder(tokenizer))
    prompts, hot = ["the king"] * 30, SamplingConfig(temperature=20.0)
    assert heal_prompt(tokenizer, "the king")[1:] == (b" king", 1)
    pieces = list(stream_text(recorder, tokenizer, prompts, 1, hot))  # type: ignore
    for row, ids in enumerate(recorder.rows):
        assert tokenizer.decode_bytes(ids).startswith(b"the king")
        finish = [piece.finish for piece in pieces if piece.row == row][-1]
        shown = "".join(piece.text for piece in pieces if piece.row == row)
        assert shown or finish == "stop"


@pytest.mark.optimized
def test_a_row_is_continued_alike_alone_and_beside_others(
    tokenizer: Tokenizer, decoder: Decoder
) -> None:
    prompts = ["the qu", "the lazy", "fox "]
    together = continue_texts(decoder, tokenizer, prompts, 8, GREEDY)
    assert together == [continue_texts(decoder, tokenizer, [p], 8, GREEDY)[0] for p in prompts]
