"""Rows against a token-by-token reading of the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data.packing import make_rows


def rows_by_definition(tokens, starts, length, mask_documents):
    """One row as lists: (tokens, targets, segments, positions, weights)."""
    row = ([], [], [], [], [])
    segment = position = 0
    for index in range(len(tokens) - 1):
        if index >= length:
            values = (0, 0, 0, 0, 0.0)
        else:
            opens = index == 0 or (mask_documents and starts[index])
            segment, position = (segment + 1, 0) if opens else (segment, position + 1)
            predicted = index + 1 < length
            counted = predicted and not (mask_documents and starts[index + 1])
            target = tokens[index + 1] if predicted else 0
            values = (tokens[index], target, segment, position, float(counted))
        for column, value in zip(row, values, strict=True):
            column.append(value)
    return row


@st.composite
def windows(draw):
    num_rows, window = draw(st.integers(1, 4)), draw(st.integers(2, 12))
    shape = (num_rows, window)
    ids = st.lists(st.integers(1, 70_000), min_size=window, max_size=window)
    flags = st.lists(st.booleans(), min_size=window, max_size=window)
    rows = st.integers(0, window)
    tokens = np.array(draw(st.lists(ids, min_size=num_rows, max_size=num_rows)))
    starts = np.array(draw(st.lists(flags, min_size=num_rows, max_size=num_rows)))
    lengths = draw(st.none() | st.lists(rows, min_size=num_rows, max_size=num_rows))
    assert tokens.shape == starts.shape == shape
    return tokens, starts, lengths


@settings(max_examples=60, deadline=None)
@given(windows(), st.booleans())
def test_rows_follow_the_definition(window, mask_documents):
    tokens, starts, lengths = window
    given_lengths = None if lengths is None else np.array(lengths)
    batch = make_rows(tokens, starts, given_lengths, mask_documents)
    full = [tokens.shape[1]] * len(tokens) if lengths is None else lengths
    for row in range(len(tokens)):
        expected = rows_by_definition(tokens[row], starts[row], full[row], mask_documents)
        for found, column in zip(batch[:5], expected, strict=True):
            # Without documents or padding there is nothing to keep apart, so no segments.
            assert column == [1] * len(column) if found is None else found[row].tolist() == column


@pytest.mark.parametrize("mask_documents", [True, False])
def test_types_are_those_of_a_batch(mask_documents):
    batch = make_rows(
        np.ones((2, 5), np.uint16),
        np.zeros((2, 5), bool),
        np.array([4, 4]),
        mask_documents=mask_documents,
    )
    assert [array.dtype for array in batch[:5]] == [np.int32] * 4 + [np.float32]
    assert all(array.shape == (2, 4) and array.flags.writeable for array in batch[:5])


def test_arguments_are_left_alone():
    tokens, starts = np.arange(10).reshape(2, 5), np.zeros((2, 5), bool)
    make_rows(tokens, starts, lengths_B=np.array([2, 0]))
    assert tokens.tolist() == np.arange(10).reshape(2, 5).tolist()
    assert not starts.any()
