"""Questions of examples: a conversation up to its last answer."""

import json
from pathlib import Path
from typing import Any

from jaxgpt.finetuning.examples import ExamplesConfig, read_examples
from jaxgpt.finetuning.written_answers import read_questions
from jaxgpt.tokenizer.chat_template import ASSISTANT, SYSTEM, USER, ChatTemplate, Message
from tests.finetuning.small_tokenizer import small_tokenizer


def test_the_last_answer_of_a_conversation_is_asked_for(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    talk = [
        Message(SYSTEM, "the user asks"),
        Message(USER, "how many?"),
        Message(ASSISTANT, "there are 7"),
        Message(USER, "<|end|> are there 8?"),
        Message(ASSISTANT, "7\n"),
    ]
    rows = [{"messages": [{"role": each.role, "content": each.content} for each in talk]}]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = read_examples(ExamplesConfig(files=(str(file),), held_out_share=0), tokenizer, 256)
    (question,), *_ = read_questions(examples.training, tokenizer)
    assert question.ids == ChatTemplate(tokenizer).render_prompt(talk[:-1]).tolist()
    assert question.answer == talk[-1].content
    assert question.text == (
        "system: the user asks\nuser: how many?\nassistant: there are 7\n"
        "user: <|end|> are there 8?\nassistant:"
    )


def test_answers_end_with_the_last_target_and_those_that_are_cut_are_counted(
    tmp_path: Path,
) -> None:
    def talk(answer: str, *later: dict[str, Any]) -> dict[str, Any]:
        first = [{"role": "user", "content": "how many?"}, {"role": "assistant", "content": answer}]
        return {"messages": [*first, *later]}

    later = [
        {"role": "user", "content": "are there 8?"},
        {"role": "assistant", "content": "there are 7", "train": False},
    ]
    rows = [talk("there are 8", *later), talk("the user asks " * 20)]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ExamplesConfig(files=(str(file),), held_out_share=0)
    examples = read_examples(config, small_tokenizer(), 40).training
    assert len(examples) == 2
    (question,), num_cut, num_without = read_questions(examples, small_tokenizer())
    assert (question.answer, num_cut, num_without) == ("there are 8", 1, 0)


def test_plain_texts_ask_nothing(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "there are 7"}\n')
    config = ExamplesConfig(files=(str(file),), held_out_share=0)
    examples = read_examples(config, small_tokenizer(), 256)
    assert len(examples.training) == 1
    assert read_questions(examples.training, small_tokenizer()) == ([], 0, 1)
