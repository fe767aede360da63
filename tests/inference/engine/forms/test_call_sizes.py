"""Functions keep their schemas as far as these are small enough together."""

from typing import Any

import pytest

from jaxgpt.inference.engine.forms.call_sizes import of_allowed_size
from jaxgpt.inference.engine.forms.json_schema import GrammarError

MOST = 1000
TEXT = "x" * MOST


def function(num_values: int, **fields: Any) -> dict[str, Any]:
    values = [f"{number:08}" for number in range(num_values)]
    parameters = {"type": "object", "properties": {"a": {"enum": values}}}
    return {"name": "f", "parameters": parameters, **fields}


def test_descriptions_do_not_count_and_properties_of_such_names_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = {"description": TEXT, "title": TEXT, "default": [TEXT], "examples": [{"a": TEXT}]}
    inner = {"properties": {"a": {"$comment": TEXT, "type": "string"}}, **said}
    tools = [{"name": "f", "description": TEXT, "parameters": inner}, {"name": "g"}]
    assert of_allowed_size(tools, MOST, must_follow=True) == tools
    assert not caplog.records
    named = {"name": "f", "parameters": {"properties": {"title": {"const": TEXT}}}}
    assert of_allowed_size([named], MOST, False) == [{**named, "parameters": {"type": "object"}}]


def test_functions_are_kept_until_there_is_no_room(caplog: pytest.LogCaptureFixture) -> None:
    small, large = function(30), function(70)
    tools = [small, large, small, function(30, strict=True)]
    found = of_allowed_size(tools, MOST, must_follow=False)
    assert found == [small, {**large, "parameters": {"type": "object"}}, {**small, "parameters": {
        "type": "object"}}, tools[3]]  # fmt: skip
    (record,) = caplog.records
    assert "the arguments of 2 of them are any object" in record.getMessage()


def test_strict_functions_that_are_too_large_are_refused() -> None:
    tools = [function(70), function(70)]
    for given, must_follow in (
        (tools, True),
        ([{**each, "strict": True} for each in tools], False),
    ):
        with pytest.raises(GrammarError, match="have more than 1,000 characters together"):
            of_allowed_size(given, MOST, must_follow)
    free = [{**each, "strict": False} for each in tools]
    assert sum(each in free for each in of_allowed_size(free, MOST, must_follow=True)) == 1
