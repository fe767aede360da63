"""Lines and pieces: nothing lost, however the bytes arrive, and never more than the limit held."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.readers.lines import bounded_lines, bounded_pieces

BYTES = st.lists(
    st.sampled_from([b"a", b"bc", b"\n", b"\r\n", "\u2028".encode(), "é".encode(), b"\xff", b" "]),
    max_size=60,
).map(b"".join)


def chunks(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(BYTES, st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_lines_are_what_lies_between_newlines(data, size):
    lines = list(bounded_lines(chunks(data, size), max_bytes=1000))
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert [line.data for line in lines] == expected
    assert [line.number for line in lines] == list(range(1, len(expected) + 1))
    assert all(line.has_newline for line in lines[:-1])
    if lines:
        assert lines[-1].has_newline == data.endswith(b"\n")


@given(BYTES, st.integers(1, 20), st.integers(1, 10))
@settings(max_examples=200, deadline=None)
def test_exactly_the_lines_beyond_the_limit_are_left_out(data, size, limit):
    lines = list(bounded_lines(chunks(data, size), max_bytes=limit))
    expected = data.split(b"\n")
    for line in lines:
        whole = expected[line.number - 1]
        assert line.data == (whole if len(whole) <= limit else None)


def test_byte_order_marks_and_zeros_before_a_line_go():
    lines = bounded_lines([b"\xef\xbb", b"\xbfabc\n\xef\xbb\xbfd\n\0\0", b"\0\0\0\0\0\0ef\0\n"], 3)
    assert [line.data for line in lines] == [b"abc", b"d", b"ef\0"]


# A hole in a file reads as zeros.
@pytest.mark.parametrize("filling", [b"x", b"\0", b"\xef\xbb\xbf", b"\0\xef\xbb\xbf"])
def test_a_line_of_100_mb_takes_no_memory_and_the_next_is_read(filling):
    def data():
        yield b'{"a":1}\n['
        for _ in range(100):
            yield filling * ((1 << 20) // len(filling))
        yield b'\n{"b":2}\n'

    tracemalloc.start()
    lines = list(bounded_lines(data(), max_bytes=8 << 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [line.data for line in lines] == [b'{"a":1}', None, b'{"b":2}']
    assert peak < 30 << 20


@pytest.mark.parametrize("filling", [b"\0", b"\xef\xbb\xbf", b"\0\xef\xbb\xbf"])
def test_any_length_of_zeros_and_marks_before_a_line_goes_in_little_memory(filling):
    tracemalloc.start()
    lines = list(bounded_lines([filling * (8 << 20), b"abc\n"], max_bytes=8 << 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [line.data for line in lines] == [b"abc"]
    assert peak < 4 * len(filling) * (8 << 20)


@given(st.text(max_size=200), st.integers(1, 20), st.integers(4, 50))
@settings(max_examples=200, deadline=None)
def test_pieces_join_to_the_text_and_cut_no_character(text, size, limit):
    data = text.encode("utf-8", "surrogatepass")
    pieces = list(bounded_pieces(chunks(data, size), max_bytes=limit))
    assert b"".join(piece.data for piece in pieces) == data
    assert all(len(piece.data) <= limit for piece in pieces)
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    line = 1
    for piece in pieces:
        piece.data.decode("utf-8", "surrogatepass")
        assert piece.number == line
        line += piece.data.count(b"\n")


def test_pieces_are_cut_between_paragraphs_where_possible():
    text = b"one two\nthree\n\nfour five six\n"
    pieces = [piece.data for piece in bounded_pieces([text], max_bytes=20)]
    assert pieces == [b"one two\nthree\n\n", b"four five six\n"]
