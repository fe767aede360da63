"""The chat template: ids by parts, weights on answers, back again, and the same as Jinja."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.errors import BadInputError
from jaxgpt.tokenizer.chat_template import Message
from jaxgpt.tokenizer.jinja_template import JINJA
from tests.tokenizer.rendered import TYPED, as_text, template

texts = st.lists(st.sampled_from([*TYPED, *"aé漢🙂 \n\r\t▁", "", "the ", "  \n"])).map("".join)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    messages = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(texts)))
        messages.append(Message("assistant", draw(texts), draw(st.booleans())))
    return messages


def control_ids(ids: np.ndarray) -> list[str]:
    names = {id: name for name, id in template().tokenizer.special_ids.items()}
    return [names[id] for id in ids.tolist() if id in names]


@given(conversations())
def test_what_was_rendered_is_parsed_back(messages: list[Message]) -> None:
    ids, weights = template().render(messages)
    assert template().parse(ids, weights) == messages
    prompt = template().render_prompt(messages[:-1])
    assert [each[:2] for each in template().parse(prompt)] == [each[:2] for each in messages[:-1]]
    # The model answers where the prompt ends, with what it was trained on.
    np.testing.assert_array_equal(ids[: len(prompt)], prompt)


@given(conversations())
def test_typed_control_text_never_becomes_a_control_id(messages: list[Message]) -> None:
    ids, _ = template().render(messages)
    frames = [name for each in messages for name in (each.role, "end")]
    assert control_ids(ids) == ["bos", *frames]


@given(conversations())
def test_answers_and_their_ends_are_predicted_and_nothing_else(messages: list[Message]) -> None:
    ids, weights = template().render(messages)
    tokenizer = template().tokenizer
    answers = [each for each in messages if each.role == "assistant" and each.train]
    wanted = [id for each in answers for id in [*tokenizer.encode(each.content),
                                               tokenizer.special_ids["end"]]]  # fmt: skip
    assert ids[weights > 0].tolist() == wanted
    assert set(weights.tolist()) <= {0.0, 1.0}


def test_jinja_renders_a_thousand_random_conversations_alike() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    draw = random.Random(0)
    letters = [*TYPED, *"aé漢🙂 \n\r\t{}%'\"\\<>&", "{{ x }}", "{% if %}", " the\n\n"]
    batch = []
    for _ in range(1000):
        content = lambda: "".join(draw.choices(letters, k=draw.randrange(8)))  # noqa: E731
        turns = [
            Message(role, content(), role == "user" or draw.random() < 0.8)
            for _ in range(draw.randint(1, 4))
            for role in ("user", "assistant")
        ]
        batch.append([*[Message("system", content())][: draw.randrange(2)], *turns])
    dicts = [[each._asdict() for each in messages] for messages in batch]
    rendered, predicted = utils.render_jinja_template(
        dicts, chat_template=JINJA, return_assistant_tokens_mask=True
    )
    for messages, text, marks in zip(batch, rendered, predicted, strict=True):
        assert as_text(*template().render(messages)) == (text, marks)
    prompts, _ = utils.render_jinja_template(
        [each[:-1] for each in dicts], chat_template=JINJA, add_generation_prompt=True
    )
    for messages, text in zip(batch, prompts, strict=True):
        prompt = template().render_prompt(messages[:-1])
        assert as_text(prompt, np.zeros(len(prompt))) == (text, [])


WRONG = {
    "message 2 is of role 'user', where 'assistant' is due; allowed: an opt": ["user", "user"],
    "message 1 is of role 'assistant', where 'user' is due": ["assistant"],
    "message 2 is of role 'system', where 'user' is due": ["system", "system"],
    "message 3 is of role 'system', where 'user' is due": ["user", "assistant", "system"],
    "message 1 is of role 'tool', where 'user' is due": ["tool"],
}


@pytest.mark.parametrize("error", WRONG)
def test_roles_out_of_order_are_named_here_and_refused_by_jinja(error: str) -> None:
    messages = [Message(role, "x") for role in WRONG[error]]
    with pytest.raises(BadInputError, match=error):
        template().render(messages)
    jinja2 = pytest.importorskip("jinja2")
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    with pytest.raises(jinja2.exceptions.TemplateError, match="roles out of order"):
        utils.render_jinja_template([[e._asdict() for e in messages]], chat_template=JINJA)


def test_a_conversation_ends_with_the_assistant_and_a_prompt_with_the_user() -> None:
    with pytest.raises(BadInputError, match="ends with 'user'; its last message must be of role"):
        template().render([Message("user", "x")])
    with pytest.raises(BadInputError, match="ends with 'assistant'"):
        template().render_prompt([Message("user", "x"), Message("assistant", "y")])
    with pytest.raises(BadInputError, match="has no message"):
        template().render([])


def test_ids_that_are_no_conversation_are_refused() -> None:
    ids = template().render([Message("user", "x"), Message("assistant", "y")])[0].tolist()
    end = template().tokenizer.special_ids["end"]
    for wrong, error in (
        (ids[1:], "do not begin with BOS"),
        (ids[:-1], "has no end"),
        (ids[:1] + ids[2:], "is no role"),
        ([each for place, each in enumerate(ids) if each != end or place == len(ids) - 1],
         "inside a message"),
    ):  # fmt: skip
        with pytest.raises(BadInputError, match=error):
            template().parse(wrong)
