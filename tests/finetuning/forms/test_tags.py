"""Tags: against a reading of spans by the words of their definition, token by token."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.finetuning.forms.tags import count_spans, mark_spans, num_tags, renumber

NUM_LABELS, ROWS, LENGTH = 2, 3, 12
COUNT = jax.jit(lambda gold, predicted: count_spans(gold, predicted, NUM_LABELS))


@st.composite
def marked_texts(draw: st.DrawFn) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Bytes of tokens, and spans of bytes that may lie behind the last."""
    inner = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    total = sum(inner) + draw(st.integers(0, 3))
    edges = sorted(draw(st.sets(st.integers(0, total), max_size=6)))
    spans = [
        (start, stop, draw(st.integers(0, NUM_LABELS - 1)))
        for start, stop in itertools.pairwise(edges)
        if draw(st.booleans())
    ]
    return np.array(inner), spans


@given(marked_texts())
def test_a_token_has_the_first_span_that_it_touches(
    text: tuple[np.ndarray, list[tuple[int, int, int]]],
) -> None:
    bytes_T, spans = text
    tags_T = np.zeros(len(bytes_T), np.int32)
    num_lost = mark_spans(tags_T, bytes_T, spans)
    stops = np.cumsum(bytes_T)
    owners = []
    for stop, size in zip(stops.tolist(), bytes_T.tolist(), strict=True):
        touched = [
            place for place, span in enumerate(spans) if span[0] < stop and span[1] > stop - size
        ]
        owners.append(touched[0] if touched else None)
    expected = []
    for place, owner in enumerate(owners):
        if owner is None:
            expected.append(0)
        else:
            is_first = place == 0 or owners[place - 1] != owner
            expected.append((1 if is_first else 2) + 2 * spans[owner][2])
    assert tags_T.tolist() == expected
    assert num_lost == len(set(range(len(spans))) - set(owners))


def spans_of(tags: list[int]) -> set[tuple[int, int, int]]:
    """Read tags as conlleval does, one after the other."""
    found, start, label = set(), 0, 0
    for place, tag in enumerate([*tags, 0]):
        here = (tag + 1) // 2
        goes_on = tag > 0 and tag % 2 == 0 and here == label
        if label and not goes_on:
            found.add((start, place, label))
        if not goes_on:
            start, label = place, here
    return found


ANY_TAGS = st.lists(
    st.lists(st.integers(0, num_tags(NUM_LABELS) - 1), min_size=LENGTH, max_size=LENGTH),
    min_size=ROWS, max_size=ROWS,
)  # fmt: skip


@given(ANY_TAGS, ANY_TAGS)
def test_spans_are_counted_as_sets_of_them_are(gold: list, predicted: list) -> None:
    counts = np.asarray(COUNT(np.array(gold), np.array(predicted)))
    for label in range(1, NUM_LABELS + 1):
        sides = [
            {(row, *span) for row, tags in enumerate(rows) for span in spans_of(tags)
             if span[2] == label}
            for rows in (gold, predicted)
        ]  # fmt: skip
        expected = [len(sides[0]), len(sides[1]), len(sides[0] & sides[1])]
        assert counts[label - 1].tolist() == expected


def test_the_reading_of_tags_is_that_of_seqeval() -> None:
    entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    names = ["O", "B-1", "I-1", "B-2", "I-2"]
    rng = np.random.default_rng(0)
    for tags in rng.integers(0, len(names), (200, LENGTH)).tolist():
        theirs = {(a, b + 1, int(name)) for name, a, b in entities([names[tag] for tag in tags])}
        assert spans_of(tags) == theirs


def test_labels_are_renumbered() -> None:
    assert renumber(np.arange(-1, 5), np.array([2, 0])).tolist() == [-1, 0, 5, 6, 1, 2]
    assert renumber(np.zeros(3, np.int32), np.zeros(0, np.int32)).tolist() == [0, 0, 0]
