"""Tools in rows: what is learned of them, in every form, and what a table lacks."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from jaxgpt.finetuning import Messages, Preferences, PromptCompletion, UnpairedPreferences
from jaxgpt.finetuning.forms.form import Part
from tests.finetuning.forms.test_forms import CALLED, CALLS, TOOL, TWO_TURNS, assistant, user


def test_calls_are_learned_and_tools_and_results_are_not() -> None:
    row = {"messages": CALLED, "tools": [TOOL]}
    example = Messages().read(row)
    ((system, *parts),) = example.sequences
    assert (system.role, system.is_target) == ("system", False)
    assert json.dumps(TOOL) in system.text
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
    assert parts == [
        Part("user", "1 + 2?", False),
        Part("assistant", call, True),
        Part("user", "<tool_response>\n3\n</tool_response>", False),
        Part("assistant", "It is 3.", True),
    ]
    assert example.prompt == "1 + 2?"
    # As JSON, as CSV and Parquet files have it; nulls stand for nothing.
    assert Messages().read({name: json.dumps(value) for name, value in row.items()}) == example
    nulls = [{"tool_calls": None, "tool_call_id": None} | each for each in CALLED]
    assert Messages().read({"messages": nulls, "tools": [TOOL]}) == example
    beside = [{"name": "add", "function": None, "arguments": {"a": 1, "b": 2}}]
    beside_it = [CALLED[0], {"role": "assistant", "tool_calls": json.dumps(beside)}, *CALLED[2:]]
    beside_it[2] = {"role": "tool", "content": "3"}
    assert Messages().read({"messages": beside_it, "tools": [TOOL]}) == example
    nameless = Messages().read({**row, "tools": json.dumps([{"name": "add", "function": None}])})
    assert nameless.sequences[0][1:] == tuple(parts)


def test_what_a_table_lacks_is_not_learned(tmp_path: Path) -> None:
    call = {"name": "add", "arguments": {"a": 1, "terms": [{"b": 2}, {"c": 3}]}}
    written = {"name": "add", "arguments": '{"a": null}'}
    tools = [
        {"name": "add", "parameters": {"properties": {"a": {"type": "number"}}}},
        {"name": "look", "parameters": {"properties": {"place": {"type": "string"}}}},
    ]
    rows = [
        {"messages": [user("x"), {"role": "assistant", "tool_calls": [each]}], "tools": given}
        for each, given in (
            (call, tools),
            ({"name": "look", "arguments": {"place": "y"}}, tools[:1]),
        )
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert read != rows
    assert [Messages().read(row) for row in read] == [Messages().read(row) for row in rows]
    # What is written as JSON, null or not, is meant.
    rows[0]["messages"][1]["tool_calls"] = [written]
    ((*_, answer),) = Messages().read(rows[0]).sequences
    assert '{"a": null}' in answer.text


def test_an_empty_cell_is_no_field() -> None:
    plain = {"messages": TWO_TURNS}
    blank = [each | {"tool_calls": " "} for each in TWO_TURNS]
    assert Messages().read({"messages": blank, "tools": ""}) == Messages().read(plain)
    assert Messages().read({"messages": json.dumps(blank)}) == Messages().read(plain)
    whole = {"chosen": TWO_TURNS, "rejected": [*TWO_TURNS[:3], assistant("e")]}
    pair = Preferences().read({**whole, "prompt": "", "tools": ""})
    assert pair == Preferences().read(whole)


def test_a_conversation_with_tools_is_the_same_in_every_form() -> None:
    row = {"prompt": CALLED[:3], "completion": CALLED[3:], "tools": [TOOL], "label": True}
    (parts,) = Messages().read({"messages": CALLED, "tools": [TOOL]}).sequences
    pair = {**row, "chosen": CALLED[3:], "rejected": [assistant("4")]}
    whole = {"chosen": CALLED, "rejected": [*CALLED[:3], assistant("4")], "tools": [TOOL]}
    for form, values in (
        (PromptCompletion(), row),
        (UnpairedPreferences(), row),
        (Preferences(), pair),
        (Preferences(), {**pair, "chosen": CALLED, "rejected": whole["rejected"]}),
        (Preferences(), whole),
    ):
        example = form.read(values)
        assert [part[:2] for part in example.sequences[0]] == [part[:2] for part in parts]
        assert [part.is_target for part in example.sequences[0]] == [False] * 4 + [True]
        assert example.num_prompt_parts == 4
    # The answer may begin with the results of the prompt's calls, or with some of them.
    twice = [{**CALLED[1], "tool_calls": [CALLS[0], {**CALLS[0], "id": "d"}]}]
    both = [CALLED[0], *twice, CALLED[2], {**CALLED[2], "tool_call_id": "d"}, CALLED[3]]
    for messages, cut in ((CALLED, 2), (both, 2), (both, 3)):
        (parts,) = Messages().read({"messages": messages, "tools": [TOOL]}).sequences
        row = {"prompt": messages[:cut], "completion": messages[cut:], "tools": [TOOL]}
        (cut_parts,) = PromptCompletion().read(row).sequences
        assert cut_parts == (*parts[:2], parts[2]._replace(is_target=False), *parts[3:])
        pair = {**row, "chosen": messages[cut:], "rejected": [*messages[cut:-1], assistant("4")]}
        example = Preferences().read(pair)
        assert (example.sequences[0], example.num_prompt_parts) == (cut_parts, cut + 1)
    pair["rejected"] = [{**both[3], "content": "5"}, CALLED[3]]
    assert Preferences().read(pair).num_prompt_parts == 3
    # Calls alone make two answers differ.
    other = {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]}
    row = {"prompt": "1 + 2?", "chosen": CALLED[1:2], "rejected": [other], "tools": [TOOL]}
    first, second = Preferences().read(row).sequences
    assert first[:-1] == second[:-1]
    assert first[-1] != second[-1]
