"""Differences of JSON values by dotted path."""

import pytest

from jaxgpt.names.dotted_paths import find_differences


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, []),
        ({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}, [("a.b", 1, 3)]),
        ({"a": [1, {"b": 2}]}, {"a": (1, {"b": 3})}, [("a[1].b", 2, 3)]),
        ({"a": [1]}, {"a": [1, 2]}, [("a", [1], [1, 2])]),
        ({"b": 1}, {"c": 2, "b": 0}, [("b", 1, 0), ("c", "absent", 2)]),
        ({"a": {"b": 1}}, {"a": None}, [("a", {"b": 1}, None)]),
    ],
)
def test_each_difference_is_named_by_its_path(first, second, found) -> None:
    assert list(find_differences(first, second, absent="absent")) == found


def test_lists_can_be_compared_as_a_whole() -> None:
    found = list(find_differences({"a": [1, 2]}, {"a": [1, 3]}, into_lists=False))
    assert found == [("a", [1, 2], [1, 3])]
