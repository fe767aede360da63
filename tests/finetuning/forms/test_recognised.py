"""Recognition: the form that the fields of the first rows fit, or an error that lists both."""

from typing import Any

import pytest

from jaxgpt.corpus.readers.rows import Row
from jaxgpt.errors import BadInputError
from jaxgpt.finetuning import Instruction, Messages, Preferences, PromptCompletion, Recognised


def rows(*values: dict[str, Any]) -> list[Row]:
    return [
        Row(id="", text="", location=f"a.jsonl:{number}", source="", values=each)
        for number, each in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ("messages source", "Messages(messages[, tools])"),
        ("prompt prompt_id messages category", "Messages(messages[, tools])"),
        ("id conversations", "Messages(conversations[, tools])"),
        ("prompt completion", "PromptCompletion(prompt, completion[, tools])"),
        ("prompt response", "PromptCompletion(prompt, response[, tools])"),
        ("question answer", "PromptCompletion(question, answer[, tools])"),
        ("instruction input output", "Instruction(instruction, output[, input])"),
        ("instruction output text_id", "Instruction(instruction, output[, input])"),
        ("instruction context response category", "Instruction(instruction, response[, context])"),
        ("instruction response", "Instruction(instruction, response[, input])"),
        ("prompt chosen rejected", "Preferences(chosen, rejected[, prompt][, tools])"),
        ("chosen rejected", "Preferences(chosen, rejected[, prompt][, tools])"),
        ("prompt completion label", "UnpairedPreferences(prompt, completion, label[, tools])"),
        ("text label", "Labelled(text, label)"),
        ("text labels", "MultiLabelled(text, labels)"),
        ("text spans id", "Spans(text, spans)"),
        ("text entities", "Spans(text, entities)"),
        ("text url", "Text(text)"),
    ],
)
def test_the_names_of_other_tools_are_recognised(fields: str, form: str) -> None:
    row = dict.fromkeys(fields.split(), "x")
    assert Recognised().choose("a.jsonl", rows(row)).describe() == form


def test_a_few_odd_rows_do_not_decide() -> None:
    good = {"question": "a", "answer": "b"}
    found = Recognised().choose(
        "a", rows({"text": "x", "answer": None}, good, good, {**good, "text": 1})
    )
    assert found == PromptCompletion(prompt="question", completion="answer")


def test_fields_that_fit_several_forms_are_refused_with_their_names() -> None:
    row = {"prompt": "a", "messages": [], "chosen": [], "rejected": []}
    with pytest.raises(BadInputError) as caught:
        Recognised().choose("a.jsonl", rows(row))
    assert str(caught.value) == (
        "a.jsonl has the fields prompt, messages, chosen, rejected, which fit several forms: "
        f"{Messages().describe()}, {Preferences().describe()}; set `form` to one"
    )


def test_fields_that_fit_no_form_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(
        BadInputError, match=r"a.jsonl has the fields en, de, which fit no known"
    ) as caught:
        Recognised().choose("a.jsonl", rows({"en": "one", "de": "eins"}))
    for form in (Messages(), Instruction(), Preferences()):
        assert form.describe() in str(caught.value)
    assert "\n" not in str(caught.value)
