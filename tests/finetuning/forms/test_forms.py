"""Forms: the example of a good row, and one line for each way in which a row is bad."""

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.config import from_dict, to_dict
from jaxgpt.errors import ConfigError
from jaxgpt.finetuning import (
    Instruction,
    Labelled,
    Messages,
    MultiLabelled,
    Preferences,
    PromptCompletion,
    Spans,
    Template,
    Text,
    UnpairedPreferences,
)
from jaxgpt.finetuning.forms.form import BadRowError, Example, Form
from jaxgpt.finetuning.forms.recognised import KNOWN
from jaxgpt.names.variants import find_variants


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def shown(example: Example) -> list[list[str]]:
    """Each sequence as its parts, a target marked by a star."""
    return [
        [f"{part.role}{'*' if part.is_target else ''}:{part.text}" for part in sequence]
        for sequence in example.sequences
    ]


CALLS = [
    {"id": "c", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALLED = [
    user("1 + 2?"),
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "c", "content": "3"},
    assistant("It is 3."),
]
TWO_TURNS = [user("a"), assistant("b"), user("c"), assistant("d")]
GOOD: list[tuple[Form, dict[str, Any], list[list[str]], int]] = [
    (
        Messages(),
        {"messages": TWO_TURNS},
        [["user:a", "assistant*:b", "user:c", "assistant*:d"]],
        3,
    ),
    (
        Messages(),
        {"messages": [{"role": "system", "content": "s"}, user("a"), assistant("b", train=False),
                      user("c"), assistant("d", train=True)]},
        [["system:s", "user:a", "assistant:b", "user:c", "assistant*:d"]],
        4,
    ),
    (
        Messages(messages="conversations"),
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        [["user:a", "assistant*:b"]],
        1,
    ),
    (
        Messages(),
        {"messages": [{"role": None, "from": "human", "content": None, "value": "a"},
                      {"role": "assistant", "from": None, "content": "b", "value": None}]},
        [["user:a", "assistant*:b"]],
        1,
    ),
    (
        Messages(),
        {"messages": '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'},
        [["user:a", "assistant*:b"]],
        1,
    ),
    (PromptCompletion(), {"prompt": "a", "completion": 7}, [["user:a", "assistant*:7"]], 1),
    (
        PromptCompletion(),
        {"prompt": TWO_TURNS[:3], "completion": [assistant("d")]},
        [["user:a", "assistant:b", "user:c", "assistant*:d"]],
        3,
    ),
    (Instruction(), {"instruction": "a", "output": "b"}, [["user:a", "assistant*:b"]], 1),
    (
        Instruction(),
        {"instruction": "a", "input": "x", "output": "b"},
        [["user:a\n\nx", "assistant*:b"]],
        1,
    ),
    (
        Instruction(),
        {"instruction": "a", "input": " ", "output": "b"},
        [["user:a", "assistant*:b"]],
        1,
    ),
    (
        Template(prompt="To German: {en}", target="{de}!", system="{{x}}"),
        {"en": "one {de}", "de": "eins"},
        [["system:{x}", "user:To German: one {de}", "assistant*:eins!"]],
        2,
    ),
    (
        Template(prompt="{t.en}", target="{t.de}"),
        {"t": {"en": "one", "de": "{eins}"}},
        [["user:one", "assistant*:{eins}"]],
        1,
    ),
    # JSON that is the answer, and JSON that stands for messages in CSV.
    (
        PromptCompletion(),
        {"prompt": "[1]", "completion": '[{"role": "admin"}]'},
        [["user:[1]", 'assistant*:[{"role": "admin"}]']],
        1,
    ),
    (
        PromptCompletion(),
        {"prompt": '[{"role": "user", "content": "a"}]', "completion": "b"},
        [["user:a", "assistant*:b"]],
        1,
    ),
    (
        Preferences(),
        {"prompt": [user("a")], "chosen": "b", "rejected": "c"},
        [["user:a", "assistant*:b"], ["user:a", "assistant*:c"]],
        1,
    ),
    (
        Preferences(),
        {"chosen": [*TWO_TURNS[:3], assistant("x")], "rejected": TWO_TURNS},
        [["user:a", "assistant:b", "user:c", "assistant*:x"],
         ["user:a", "assistant:b", "user:c", "assistant*:d"]],
        3,
    ),
    (  # The answers repeat the prompt.
        Preferences(),
        {"prompt": "a", "chosen": [user("a"), assistant("b")],
         "rejected": [user("a"), assistant("c")]},
        [["user:a", "assistant*:b"], ["user:a", "assistant*:c"]],
        1,
    ),
    (
        UnpairedPreferences(),
        {"prompt": "a", "completion": "b", "label": False},
        [["user:a", "assistant*:b"]],
        1,
    ),
    (Text(), {"text": "a"}, [["None*:a"]], 0),
    (Labelled(), {"text": "a", "label": 1}, [["None:a"]], 0),
    (Spans(), {"text": "a", "spans": []}, [["None:a"]], 0),
    (Spans(label="entities"), {"text": "a", "entities": [[0, 1, "x"]]}, [["None:a"]], 0),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(GOOD)))
def test_a_row_becomes_its_example(case: int) -> None:
    form, row, sequences, num_prompt_parts = GOOD[case]
    example = form.read(row)
    assert shown(example) == sequences
    assert example.num_prompt_parts == num_prompt_parts
    assert len(example.sequences) == form.group_size
    assert from_dict(to_dict(form), Form) == form


TEXTS = {"prompt": "a", "completion": "b"}
DEEP = functools.reduce(lambda inner, _: [inner], range(5000), [0])
BAD: list[tuple[Form, dict[str, Any], str, str]] = [
    (Messages(), {}, "not_messages", "'messages' is NoneType; allowed: a list of messages"),
    (Messages(), {"messages": []}, "not_messages", "'messages' is an empty list"),
    (Messages(), {"messages": ["a"]}, "not_messages", "message 1 is no object"),
    (Messages(), {"messages": [user("a"), {"role": "admin", "content": "x"}]}, "unknown_role",
     "message 2 is of role 'admin'; allowed: system, user, assistant, tool, human"),
    (Messages(), {"messages": [user("a"), {"role": "tool", "content": "x"}]}, "role_order",
     "message 2 is of role 'tool', where 'assistant' is due"),
    (Messages(), {"messages": [user("a"), assistant("b"), {"role": "tool", "content": "x"}]},
     "role_order", "message 3 is the result of a tool, and the assistant called none before it"),
    (Messages(), {"messages": CALLED[:3]}, "role_order", "must be of role 'assistant'"),
    (Messages(), {"messages": [user("a"), {"role": "assistant", "tool_calls": [{}]}]}, "bad_call",
     "message 2: a call is no object with a function's name and arguments"),
    (Messages(), {"messages": [user("a"), {"role": "assistant", "tool_calls": "x"}]}, "bad_call",
     "`tool_calls` of message 2 is no list"),
    (Messages(), {"messages": [user("a") | {"tool_calls": CALLS}]}, "bad_call",
     "message 1 has tool_calls, and is of role 'user'"),
    (Messages(), {"messages": [user("a"), {"role": "assistant", "tool_calls":
     [{"name": "f", "arguments": "{"}]}]}, "bad_call", "neither an object nor the JSON of one"),
    (Messages(), {"messages": [user("a"), {"role": "assistant", "tool_calls":
     [{"name": "f", "arguments": {"a": "\udcff"}}]}]}, "not_unicode", "a call of message 2"),
    (Messages(), {"messages": TWO_TURNS, "tools": "x"}, "bad_tool", "'tools' is no list of tools"),
    (Messages(), {"messages": TWO_TURNS, "tools": [TOOL, {"type": "function"}]}, "bad_tool",
     "tool 2 of 'tools' is no object with a name"),
    (Messages(), {"messages": TWO_TURNS, "tools": [{"name": "f", "x": DEEP}]}, "bad_tool",
     "'tools' has too many levels"),
    (Messages(), {"messages": [{"role": ["a"]}]}, "unknown_role", "allowed: system"),
    (Messages(), {"messages": [user("a"), user("b")]}, "role_order",
     "message 2 is of role 'user', where 'assistant' is due; allowed: an optional system"),
    (Messages(), {"messages": [user("a")]}, "role_order", "must be of role 'assistant'"),
    (Messages(), {"messages": [user("a"), assistant(" \n")]}, "empty_answer",
     "the answer in message 2 is empty"),
    (Messages(), {"messages": [user("a"), assistant("b", train=False)]}, "no_target",
     "`train` is false in every one"),
    (Messages(), {"messages": [user("a"), assistant("b", train="no")]}, "not_a_flag",
     "`train` of message 2 is 'no'; allowed: true, false"),
    (Messages(), {"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "not_text",
     "the content of message 1 is a list; allowed: text"),
    (PromptCompletion(), {"prompt": "a", "answer": "b"}, "missing_field",
     r"no 'completion' among its fields (prompt, answer)"),
    (PromptCompletion(), {**TEXTS, "completion": ""}, "empty_answer", "message 2 is empty"),
    (PromptCompletion(), {**TEXTS, "prompt": " "}, "empty_prompt", "'prompt' is empty"),
    (PromptCompletion(), {**TEXTS, "completion": True}, "not_text", "is true or false"),
    (PromptCompletion(), {**TEXTS, "completion": "b\udcff"}, "not_unicode",
     "'completion' is not valid UTF-8 at character 1"),
    (Instruction(), {"instruction": "a"}, "missing_field", "no 'output'"),
    (Template(prompt="{a}", target="{b}."), {"a": "x", "b": ""}, "empty_answer", "every field"),
    (Template(prompt="{a}", target="{b}."), {"a": "x"}, "missing_field", "no 'b'"),
    (Preferences(), {"prompt": "a", "chosen": "b", "rejected": "b"}, "equal_answers",
     "the chosen and the rejected answer are equal"),
    (Preferences(), {"chosen": TWO_TURNS, "rejected": TWO_TURNS}, "equal_answers", "are equal"),
    (Preferences(), {"chosen": "b", "rejected": "c"}, "missing_field", "no 'prompt', and 'chosen'"),
    (Preferences(),
     {"chosen": [user("a"), assistant("b")], "rejected": [user("x"), assistant("c")]},
     "missing_field", "the answers have no common beginning"),
    (UnpairedPreferences(), {**TEXTS, "label": "maybe"}, "unknown_label",
     "'label' is 'maybe'; allowed: true, false"),
    (Labelled(labels=("x", "y")), {"text": "a", "label": "z"}, "unknown_label",
     "label 'z' is not listed: x, y"),
    (Labelled(), {"text": "a", "label": ["x"]}, "not_text", "form=MultiLabelled"),
    (Labelled(), {"text": "a"}, "missing_field", "no 'label'"),
    (Spans(), {"text": "abc", "spans": {}}, "not_spans", "no list of objects with start, end"),
    (Spans(), {"text": "abc", "spans": [[0, 1]]}, "not_spans", "span 1 has not start, end and"),
    (Spans(), {"text": "abc", "spans": [[0, 1.5, "x"]]}, "not_spans", "allowed: whole numbers"),
    (Spans(), {"text": "abc", "spans": [[0, 1, "x"], [2, 4, "x"]]}, "bad_span",
     "span 2 is 2 to 4 of a text of 3 characters; allowed: 0 <= start < end <= 3"),
    (Spans(), {"text": "abc", "spans": [[1, 1, "x"]]}, "bad_span", "span 1 is 1 to 1"),
    (Spans(), {"text": "abc", "spans": [[1, 3, "y"], [0, 2, "x"]]}, "overlapping_spans",
     "the spans 0 to 2 (x) and 1 to 3 (y) overlap"),
    (Spans(), {"text": "abc", "spans": [{"start": 0, "end": 1}]}, "missing_field", "no label"),
    (Spans(labels=("x",)), {"text": "abc", "spans": [[0, 1, "y"]]}, "unknown_label", "listed: x"),
    (Spans(), {"text": "abc"}, "missing_field", "no 'spans'"),
    (Text(), {"text": " "}, "empty_text", "the text is empty"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(BAD)))
def test_a_bad_row_is_told_in_one_line(case: int) -> None:
    form, row, reason, text = BAD[case]
    with pytest.raises(BadRowError) as caught:
        form.read(row)
    assert caught.value.reason == reason
    assert text in caught.value.detail
    assert "\n" not in caught.value.detail


def test_labels_that_are_found_are_sorted_by_value_and_listed_ones_keep_their_order() -> None:
    def arrays(form: Form, *labels: Any) -> Any:
        field = form.required[1]
        return form.label_arrays([form.read({"text": "a", field: label}) for label in labels])

    found, names = arrays(Labelled(), 10, "9", 10)
    assert names == ("9", "10")
    assert found["label"].tolist() == [1, 0, 1]
    assert arrays(Labelled(), "b", True, "a")[1] == ("a", "b", "true")
    listed, names = arrays(Labelled(labels=("b", "a")), "a", "b")
    assert (names, listed["label"].tolist()) == (("b", "a"), [1, 0])
    marks, names = arrays(MultiLabelled(), ["b"], [], ["a", "b"], "c")
    assert names == ("a", "b", "c")
    marked = [[names[place] for place in np.flatnonzero(row)] for row in marks["labels"]]
    assert marked == [["b"], [], ["a", "b"], ["c"]]


@pytest.mark.parametrize("label", [True, "true", "1", 1, " True "])
def test_desirable_answers_are_true_in_every_format(label: Any) -> None:
    form = UnpairedPreferences()
    example = form.read({**TEXTS, "label": label})
    assert form.label_arrays([example])[0]["desirable"].tolist() == [True]


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("no field", "names no field"),
        ("{a[0]}", r"has {a\[0\]}; allowed in braces: the name of a field"),
        ("{}", "allowed in braces"),
        ("{a!r}", "allowed in braces"),
        ("{a:>9}", "allowed in braces"),
        ("{", "is no template"),
    ],
)
def test_a_template_names_fields_and_nothing_more(prompt: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        Template(prompt=prompt, target="{b}")


KEYS = ("role", "content", "from", "train", "tool_calls", "tool_call_id", "name", "arguments")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3)
    | st.sampled_from(["user", "assistant", "tool", "{}", "\ud800", "[1]"])
    | st.just('[{"role": "user", "content": "x"}]'),
    lambda inside: st.lists(inside, max_size=4)
    | st.dictionaries(st.sampled_from(KEYS), inside, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(st.sampled_from([*KNOWN, Template(prompt="{text.role}", target="{label}")]), st.data())
def test_any_row_is_an_example_or_bad_in_one_line(form: Form, data: st.DataObject) -> None:
    row = {name: data.draw(JSON) for name in (*form.required, *form.optional)}
    read: Example | BadRowError
    try:
        read = form.read(row)
    except BadRowError as error:
        read = error
    if isinstance(read, BadRowError):
        assert 0 < len(read.detail) < 400
        assert "\n" not in read.detail
        read.detail.encode()
    else:
        assert len(read.sequences) == form.group_size
        answers = [part for each in read.sequences for part in each if part.is_target]
        assert all(part.text.strip() for part in answers)
        form.label_arrays([read])


def test_every_form_can_be_chosen_by_name_on_the_command_line() -> None:
    names = {type(form).__name__ for form in KNOWN} | {"Recognised", "Template"}
    assert names == set(find_variants(Form))


def test_known_forms_need_different_fields_or_read_the_same() -> None:
    fields = [{*form.required, *form.optional} for form in KNOWN]
    assert all(fields)
    assert len({tuple(sorted(each)) for each in fields}) == len(KNOWN)
