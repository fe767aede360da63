"""The Witten-Bell baseline against a plain dictionary implementation, and its distributions."""

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.evaluation import ngram_baseline
from jaxgpt.evaluation.ngram_baseline import WittenBellModel

# Few letters make contexts repeat; 0x00 and 0xff are the ends of the packed range.
SMALL_TEXT = st.lists(st.sampled_from([0, 97, 98, 255]), max_size=40).map(bytes)


class SlowModel:
    """The formula of the module's docstring with one dictionary a context length."""

    def __init__(self, context_bytes: int, documents: list[bytes]) -> None:
        self.context_bytes = context_bytes
        self.counts: Counter[tuple[bytes, int]] = Counter()
        for document in documents:
            for place, byte in enumerate(document):
                for length in range(min(place, context_bytes) + 1):
                    self.counts[document[place - length : place], byte] += 1

    def probability(self, context: bytes, byte: int) -> float:
        probability = 1 / 256
        for length in range(min(len(context), self.context_bytes) + 1):
            h = context[len(context) - length :]
            after = {w: c for (g, w), c in self.counts.items() if g == h}
            if after:
                weight = len(after)
                probability = (after.get(byte, 0) + weight * probability) / (
                    sum(after.values()) + weight
                )
        return probability

    def num_bits(self, documents: list[bytes]) -> float:
        return -sum(
            math.log2(self.probability(document[:place], byte))
            for document in documents
            for place, byte in enumerate(document)
        )


@settings(max_examples=40, deadline=None)
@given(
    train=st.lists(SMALL_TEXT, max_size=4),
    validation=st.lists(SMALL_TEXT, max_size=3),
    context_bytes=st.integers(0, 5),
)
def test_code_lengths_equal_those_of_the_slow_model(
    train: list[bytes], validation: list[bytes], context_bytes: int
) -> None:
    bits, num_bytes = WittenBellModel(context_bytes).fit(train).num_bits(validation)
    assert num_bytes == sum(map(len, validation))
    expected = SlowModel(context_bytes, train).num_bits(validation)
    assert bits == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(train=st.lists(SMALL_TEXT, max_size=4), context=SMALL_TEXT, order=st.integers(0, 5))
def test_the_probabilities_after_any_context_sum_to_one(
    train: list[bytes], context: bytes, order: int
) -> None:
    probabilities = WittenBellModel(order).fit(train).next_byte_probabilities(context)
    assert probabilities.shape == (256,)
    assert probabilities.min() > 0
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    slow = SlowModel(order, train)
    for byte in (0, 97, 255):
        assert probabilities[byte] == pytest.approx(slow.probability(context, byte), rel=1e-9)


def test_contexts_do_not_reach_into_the_document_before() -> None:
    train = [b"ab", b"cd"]
    joined = WittenBellModel().fit([b"abcd"]).next_byte_probabilities(b"b")[ord("c")]
    separate = WittenBellModel().fit(train).next_byte_probabilities(b"b")[ord("c")]
    assert separate < joined
    # Order and grouping of documents do not matter.
    model = WittenBellModel().fit(train)
    assert model.bits_per_byte([b"abab", b"cd"]) == model.bits_per_byte([b"cd", b"abab"])


def test_fitting_in_parts_equals_fitting_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [bytes([97 + i % 3, 98, 97 + i % 5]) * 4 for i in range(30)]
    at_once = WittenBellModel().fit(documents).num_bits(documents)
    monkeypatch.setattr(ngram_baseline, "_CHUNK_BYTES", 50)
    assert WittenBellModel().fit(documents).num_bits(documents) == pytest.approx(at_once)
    in_two_calls = WittenBellModel().fit(documents[:11]).fit(iter(documents[11:]))
    assert in_two_calls.num_bits(documents) == pytest.approx(at_once)


def test_an_empty_model_is_uniform_and_nothing_to_predict_is_an_error() -> None:
    assert WittenBellModel().fit([b"", b""]).bits_per_byte([b"any text"]) == pytest.approx(8)
    with pytest.raises(ValueError, match="no bytes"):
        WittenBellModel().fit([b"abc"]).bits_per_byte([b""])
    with pytest.raises(ValueError, match="0 to 5"):
        WittenBellModel(6)


def test_longer_contexts_predict_real_text_better(repository: Path) -> None:
    # Our own sources are the same under every Python and NumPy; theirs are not.
    sources = [path.read_bytes() for path in sorted((repository / "jaxgpt").rglob("*.py"))]
    train = [source for place, source in enumerate(sources) if place % 10]
    validation = sources[::10]
    assert sum(map(len, validation)) > 100_000
    bits = [WittenBellModel(n).fit(train).bits_per_byte(validation) for n in (0, 1, 3, 5)]
    assert bits == sorted(bits, reverse=True)
    assert 1.0 < bits[-1] < 3.0 < bits[0] < 6.0
