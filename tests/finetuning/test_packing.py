"""Best-fit decreasing: every example once, no row too full, few rows."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.errors import BadInputError
from jaxgpt.finetuning.packing import pack


def best_fit_decreasing(lengths: list[int], row_length: int) -> list[list[int]]:
    """The same by its definition, in quadratic time."""
    rows: list[list[int]] = []
    rooms: list[int] = []
    for example in sorted(range(len(lengths)), key=lambda e: -lengths[e]):
        fitting = [row for row, room in enumerate(rooms) if room >= lengths[example]]
        if fitting:
            row = min(fitting, key=lambda row: rooms[row])
        else:
            row = len(rows)
            rows.append([])
            rooms.append(row_length)
        rows[row].append(example)
        rooms[row] -= lengths[example]
    return rows


def first_fit(lengths: list[int], row_length: int) -> int:
    """The rows that examples take in the order of their file, each in the first that has room."""
    rooms: list[int] = []
    for length in lengths:
        row = next((row for row, room in enumerate(rooms) if room >= length), None)
        if row is None:
            rooms.append(row_length - length)
        else:
            rooms[row] -= length
    return len(rooms)


@st.composite
def examples(draw: st.DrawFn) -> tuple[list[int], int]:
    row_length = draw(st.integers(1, 60))
    return draw(st.lists(st.integers(1, row_length), max_size=60)), row_length


@given(examples())
def test_the_rows_are_those_of_the_definition(case: tuple[list[int], int]) -> None:
    lengths, row_length = case
    packing = pack(np.array(lengths, np.int64), row_length)
    rows = [packing.row(index).tolist() for index in range(len(packing))]
    assert sorted(packing.examples_E.tolist()) == list(range(len(lengths)))
    assert all(sum(lengths[example] for example in row) <= row_length for row in rows)
    # Which of two rows with equal room comes first is a matter of taste, how full they are is not.
    filled = [sorted(lengths[example] for example in row) for row in rows]
    defined = best_fit_decreasing(lengths, row_length)
    assert sorted(filled) == sorted(sorted(lengths[example] for example in row) for row in defined)


@st.composite
def full_rows(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Examples that fill a known number of rows to the last token."""
    row_length = draw(st.integers(2, 100))
    rows = draw(st.lists(st.sets(st.integers(1, row_length - 1), max_size=5), min_size=1))
    lengths = [
        stop - start
        for cuts in rows
        for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), row_length], strict=True)
    ]
    return draw(st.permutations(lengths)), row_length, len(rows)


@given(full_rows())
def test_rows_are_at_most_eleven_ninths_of_the_fewest(case: tuple[list[int], int, int]) -> None:
    lengths, row_length, fewest = case
    assert fewest <= len(pack(np.array(lengths), row_length)) <= 11 / 9 * fewest + 1


@pytest.mark.parametrize("seed", range(3))
def test_it_takes_no_more_rows_than_first_fit_on_lengths_as_of_conversations(seed: int) -> None:
    lengths = np.clip(np.random.default_rng(seed).lognormal(4.5, 0.8, 2000), 1, 512).astype(int)
    packing = pack(lengths, 512)
    assert len(packing) <= first_fit(lengths.tolist(), 512)
    assert lengths.sum() / (len(packing) * 512) > 0.99


def test_many_examples_take_little_time() -> None:
    lengths = np.random.default_rng(0).integers(1, 4097, 200_000)
    start = time.process_time()
    packing = pack(lengths, 4096)
    # In quadratic time it would be hours.
    assert time.process_time() - start < 10
    assert len(packing.examples_E) == 200_000


@pytest.mark.parametrize("length", [0, 9])
def test_an_example_that_no_row_takes_is_named(length: int) -> None:
    with pytest.raises(BadInputError, match=rf"example 1 has {length} tokens; a row takes 1 to 8"):
        pack(np.array([3, length]), 8)
