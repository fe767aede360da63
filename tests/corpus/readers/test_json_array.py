"""Elements of a JSON array are found wherever the chunks are cut."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.readers.json_array import array_elements
from jaxgpt.corpus.readers.json_text import JsonText

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\[{,]}', max_size=4), inner)
    ),
    max_leaves=8,
)


def chunks(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(st.lists(VALUES, max_size=6), st.sampled_from([None, 0, 2]), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_the_elements_of_any_array_in_any_chunks(values, indent, size):
    data = json.dumps(values, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")
    elements = list(array_elements(JsonText(chunks(data, size)), max_bytes=10_000))
    assert all(element.is_complete for element in elements)
    found = [json.loads(element.data.decode("utf-8", "surrogatepass")) for element in elements]
    assert found == values


def test_elements_know_their_line():
    data = b'\xef\xbb\xbf [\n {"a":\n 1},\n\n {"b": "]"} ]\n'
    elements = list(array_elements(JsonText([data[:7], data[7:]]), 100))
    assert [(element.line, element.data.strip()) for element in elements] == [
        (2, b'{"a":\n 1}'),
        (5, b'{"b": "]"}'),
    ]


def test_an_element_beyond_the_limit_is_left_out_and_the_next_is_found():
    data = json.dumps([{"a": 1}, {"text": "x\n" * 5000}, {"b": 2}], indent=1).encode()
    elements = list(array_elements(JsonText(chunks(data, 64)), max_bytes=100))
    assert [element.data is None for element in elements] == [False, True, False]
    assert json.loads(elements[2].data) == {"b": 2}
    assert [element.line for element in elements] == [2, 5, 8]


def test_what_a_truncated_array_ends_in_is_not_complete():
    data = b'[{"a": 1}, {"b": 2}, {"text": "unfini'
    *complete, last = array_elements(JsonText([data]), 100)
    assert [json.loads(element.data) for element in complete] == [{"a": 1}, {"b": 2}]
    assert not last.is_complete
    assert last.data == b'{"text": "unfini'


def test_a_hundred_thousand_brackets_are_no_recursion():
    data = b"[" * 200_000 + b"]" * 200_000
    (element,) = array_elements(JsonText([data]), 1 << 20)
    assert element.data == data[1:-1]
