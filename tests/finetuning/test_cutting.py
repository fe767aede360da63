"""Examples longer than the context: the answer stays, the prompt loses its beginning."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.finetuning.cutting import MIN_CONTEXT, Fitted, LongAnswers, fit
from jaxgpt.finetuning.examples import encode_parts
from jaxgpt.finetuning.forms.chats import conversation, parts_of
from jaxgpt.finetuning.forms.form import Example
from jaxgpt.tokenizer.chat_template import ASSISTANT, ChatTemplate, Message, check_order
from jaxgpt.tokenizer.sequences import assemble
from tests.finetuning.small_tokenizer import small_tokenizer

TEMPLATE = ChatTemplate(small_tokenizer())


def cut(
    examples: list[Example], max_length: int, long_answers: LongAnswers = "cut"
) -> tuple[Fitted, list[tuple[list[int], list[float]]]]:
    prompts = np.array([each.num_prompt_parts for each in examples])
    group_size = len(examples[0].sequences)
    parts = encode_parts(examples, TEMPLATE)
    fitted = fit(parts, prompts, group_size, max_length, TEMPLATE, long_answers)
    tokens, weights, offsets = assemble(fitted.parts, TEMPLATE.tokenizer.bos_id)
    return fitted, [
        (tokens[start:stop].tolist(), weights[start:stop].tolist())
        for start, stop in itertools.pairwise(offsets)
    ]


def letters(num: int, letter: str) -> str:
    """A text of as many ids: capitals are in no piece."""
    return letter * num


def chat(*messages: tuple[str, int]) -> Example:
    return conversation(
        [Message(role, letters(num, "XYZ"[n % 3])) for n, (role, num) in enumerate(messages)]
    )


def messages_of(ids: list[int]) -> list[Message]:
    """The messages of a conversation, whose answer may have lost its end."""
    end = TEMPLATE.frame("user")[1]
    return TEMPLATE.parse(ids if ids[-1] == end else [*ids, end])


def roles_and_sizes(ids: list[int]) -> list[tuple[str, int]]:
    return [(each.role, len(each.content)) for each in messages_of(ids)]


@pytest.mark.parametrize(
    ("messages", "max_length", "left"),
    [
        # 1 for BOS, 2 for each message.
        ([("user", 10), ("assistant", 10)], 25, [("user", 10), ("assistant", 10)]),
        ([("user", 10), ("assistant", 10)], 24, [("user", 9), ("assistant", 10)]),
        ([("system", 5), ("user", 20), ("assistant", 5)], 24,
         [("system", 5), ("user", 7), ("assistant", 5)]),
        # Too long a system message goes, the question stays.
        ([("system", 50), ("user", 5), ("assistant", 5)], 24, [("user", 5), ("assistant", 5)]),
        # The oldest turn is cut, then left out, and no answer stays without a question.
        ([("user", 9), ("assistant", 3), ("user", 3), ("assistant", 3)], 24,
         [("user", 6), ("assistant", 3), ("user", 3), ("assistant", 3)]),
        ([("user", 9), ("assistant", 9), ("user", 3), ("assistant", 3)], 23,
         [("user", 3), ("assistant", 3)]),
        # A prompt keeps a quarter of the context, and the answer loses its end.
        ([("user", 30), ("assistant", 30)], 40, [("user", 8), ("assistant", 28)]),
        ([("user", 3), ("assistant", 30)], 24, [("user", 3), ("assistant", 17)]),
    ],
)  # fmt: skip
def test_what_stays(messages: list, max_length: int, left: list) -> None:
    fitted, ((ids, _),) = cut([chat(*messages)], max_length)
    assert roles_and_sizes(ids) == left
    assert len(ids) <= max_length
    is_whole = ids[-1] == TEMPLATE.frame("assistant")[1]
    assert is_whole == (left[-1] == messages[-1]) == (not fitted.is_long_E[0])


def test_a_prompt_keeps_its_end_and_an_answer_its_beginning() -> None:
    example = conversation(
        [Message("user", "ABCDEFGHIJKL"), Message("assistant", "MNOPQRSTUVWXYZ")]
    )
    _, ((ids, weights),) = cut([example], 16)
    text = TEMPLATE.tokenizer.decode(ids)
    assert text == "KLMNOPQRSTUVW"[: len(text)]
    assert sum(weights) == len(text) - 2


@st.composite
def chats(draw: st.DrawFn) -> Example:
    sizes = st.integers(1, 30)
    messages = [("system", draw(sizes))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages += [("user", draw(sizes)), ("assistant", draw(sizes))]
    return chat(*messages)


@given(st.lists(chats(), min_size=1, max_size=4), st.integers(MIN_CONTEXT, 80))
def test_every_sequence_fits_and_has_a_target_and_a_question(
    examples: list[Example], max_length: int
) -> None:
    fitted, sequences = cut(examples, max_length)
    whole = [
        TEMPLATE.render([Message(*part[:2]) for part in each.sequences[0]]) for each in examples
    ]
    for number, (ids, weights) in enumerate(sequences):
        assert len(ids) <= max_length
        assert sum(weights) > 0
        check_order(messages_of(ids), ASSISTANT)
        is_touched = fitted.is_cut_E[number] or fitted.is_long_E[number]
        assert is_touched == (len(whole[number][0]) > max_length)
        if not is_touched:
            assert ids == whole[number][0].tolist()
        if not fitted.is_long_E[number]:
            # The last answer is whole.
            size = len(examples[number].sequences[0][-1].text)
            assert weights[-size - 1 :] == [1.0] * (size + 1)
    assert fitted.is_kept_E.all()
    dropped, _ = cut(examples, max_length, "drop")
    np.testing.assert_array_equal(dropped.is_kept_E, ~fitted.is_long_E)


@given(chats(), st.integers(1, 60), st.integers(1, 60), st.integers(MIN_CONTEXT, 90))
def test_both_sides_of_a_pair_keep_one_prompt(
    chat: Example, one: int, other: int, max_length: int
) -> None:
    *prompt, _ = [Message(*part[:2], train=False) for part in chat.sequences[0]]
    sides = [Message(ASSISTANT, letters(num, "Y")) for num in (one, other)]
    sequences = tuple(parts_of([*prompt, side]) for side in sides)
    _, pair = cut([Example(sequences, len(prompt), "")], max_length)
    prompts = [ids[: weights.index(1.0)] for ids, weights in pair]
    assert prompts[0] == prompts[1]
    assert all(len(ids) <= max_length for ids, _ in pair)
    for num, (ids, _) in zip((one, other), pair, strict=True):
        check_order(messages_of(ids), ASSISTANT)
        # A quarter of the context at least is the prompt, and the rest is the answer.
        assert len(ids) - len(prompts[0]) >= min(num + 1, max_length - 1 - max_length // 4 - 1)
