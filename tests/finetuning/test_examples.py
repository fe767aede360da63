"""Files of examples to arrays: sides, copies, bad rows, and what is said of them."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgpt.errors import BadInputError, UsageError
from jaxgpt.finetuning import ExamplesConfig, Labelled, Preferences, PromptCompletion, Text
from jaxgpt.finetuning.examples import Examples, read_examples
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.tokenizer.chat_template import ChatTemplate, Message
from tests.finetuning.small_tokenizer import small_tokenizer

TOKENIZER = small_tokenizer()
TEMPLATE = ChatTemplate(TOKENIZER)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(*files: str, max_length: int = 512, **settings: Any) -> Examples:
    return read_examples(ExamplesConfig(files=files, **settings), TOKENIZER, max_length)


def exchanges(examples: TokenizedExamples) -> list[tuple[str, ...]]:
    """The contents of each conversation, which must be what the template renders."""
    found = []
    for sequence in range(len(examples.offsets) - 1):
        ids, weights = examples.sequence(sequence)
        messages = TEMPLATE.parse(ids, weights)
        for ours, rendered in zip((ids, weights), TEMPLATE.render(messages), strict=True):
            np.testing.assert_array_equal(ours, rendered)
        found.append(tuple(each.content for each in messages))
    return found


def qa(number: int, **more: Any) -> dict[str, Any]:
    return {"question": f"how many are {number}?", "answer": f"there are {number}", **more}


def test_examples_are_what_the_template_renders_and_every_row_is_on_one_side(
    tmp_path: Path,
) -> None:
    rows = [qa(number) for number in range(200)]
    read_back = read(write(tmp_path / "a.jsonl", rows), held_out_share=0.2)
    sides = [exchanges(read_back.training), exchanges(read_back.held_out)]
    wanted = [(row["question"], row["answer"]) for row in rows]
    assert sorted(sides[0] + sides[1]) == sorted(wanted)
    assert sides[0] == [each for each in wanted if each in set(sides[0])]
    assert 20 < len(sides[1]) < 60
    described = read_back.description
    assert (described.num_training, described.num_held_out) == (len(sides[0]), len(sides[1]))
    assert described.num_targets == read_back.training.num_targets + read_back.held_out.num_targets
    assert described.num_turns == 200


def test_rows_that_are_added_move_nothing_and_one_prompt_stays_on_one_side(tmp_path: Path) -> None:
    rows = [qa(number) for number in range(100)]
    others = [qa(number, answer="many") for number in range(100, 0, -1)]
    before = read(write(tmp_path / "a.jsonl", rows), held_out_share=0.3)
    after = read(write(tmp_path / "b.jsonl", [*others, *rows]), held_out_share=0.3)
    held_out = set(exchanges(before.held_out))
    assert held_out <= set(exchanges(after.held_out))
    prompts = [
        {prompt for prompt, _ in exchanges(side)} for side in (after.training, after.held_out)
    ]
    assert not prompts[0] & prompts[1]


def test_exact_copies_are_kept_once_and_named(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [qa(1), qa(2), qa(1, more="x")])
    b = write(tmp_path / "b.jsonl", [qa(2), qa(3)])
    read_back = read(b, a, held_out_share=0.0)
    assert len(read_back.training) == 3
    assert read_back.description.num_copies == 2
    assert read_back.description.copies == ((f"{a}:3", f"{a}:1"), (f"{b}:1", f"{a}:2"))
    assert f"exact copies left out: 2 ({a}:3 is {a}:1; {b}:1 is {a}:2)" in (
        read_back.description.lines()
    )


def long_text(seed: int, num_words: int = 60) -> str:
    return " ".join(f"w{word}" for word in np.random.default_rng(seed).integers(0, 9999, num_words))


def test_near_copies_and_copies_of_evaluation_files_are_reported_and_kept(tmp_path: Path) -> None:
    rows = [{"prompt": long_text(seed), "completion": "x"} for seed in range(60)]
    near = [{**row, "completion": "y"} for row in rows[:5]]
    data = write(tmp_path / "a.jsonl", rows + near)
    test = write(tmp_path / "test.jsonl", [{"question": f"say: {long_text(7)}", "answer": "z"}])
    read_back = read(data, held_out_share=0.5, evaluation_files=(test,))
    described = read_back.description
    assert described.num_examples == 65
    assert (described.num_near_copies, described.num_near_groups) == (5, 5)
    # They have one prompt, and so stand on one side.
    assert described.num_near_held_out == 0
    assert {(a, b) for a, b, _ in described.near_copies} <= {
        (f"{data}:{row}", f"{data}:{row + 60}") for row in range(1, 6)
    }
    assert described.evaluation_copies == {test: 1}
    changed = [{**row, "prompt": row["prompt"] + " again"} for row in rows]
    apart = read(write(tmp_path / "b.jsonl", rows + changed), held_out_share=0.5).description
    assert apart.num_near_copies == 60
    assert 10 < apart.num_near_held_out < 50
    assert read(data, near_copy_similarity=None).description.num_near_copies == 0


def test_bad_rows_are_named_counted_and_refused_above_a_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "a.jsonl"
    write(data, [qa(number) for number in range(7)])
    with data.open("a") as file:
        file.write(json.dumps(qa(7, answer=" ")) + "\n" + '{"question": "x"}\n' + "{broken\n")
    read_back = read(str(data), max_bad_share=0.3)
    assert read_back.description.num_examples == 7
    assert read_back.description.bad == {
        "malformed_json": 1, "empty_answer": 1, "missing_field": 1
    }  # fmt: skip
    assert "3 of 10 rows are bad" in caplog.text
    with pytest.raises(BadInputError) as caught:
        read(str(data), max_bad_share=0.2)
    error = str(caught.value)
    assert error.startswith("3 of 10 rows are bad (30.0%; at most 20.0% may be): ")
    assert f"{data}:8: the answer in message 2 is empty; {data}:9: no 'answer' among" in error
    assert "max_bad_share" in error


def test_of_a_damaged_file_the_rows_before_the_damage_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw = np.random.default_rng(0)
    rows = [qa(number, noise=draw.bytes(200).hex()) for number in range(100)]
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    read_back = read(str(tmp_path / "a.jsonl.gz"), max_bad_share=0.1)
    assert 40 < read_back.description.num_examples < 60
    assert read_back.description.bad == {"truncated_record": 1}
    assert "a.jsonl.gz is truncated" in caplog.text


@pytest.mark.parametrize("held_out_share", [0.0, 0.5])
def test_labels_and_pairs_stay_with_their_examples(tmp_path: Path, held_out_share: float) -> None:
    rows = [{"text": f"the user asks {number}", "label": number % 3} for number in range(40)]
    labelled = read(write(tmp_path / "a.jsonl", rows), held_out_share=held_out_share)
    assert labelled.label_names == ("0", "1", "2")
    for side in (labelled.training, labelled.held_out):
        assert side.num_targets == 0
        for example in range(len(side)):
            ids, _ = side.sequence(example)
            number = int(TOKENIZER.decode(ids).split()[-1])
            assert ids[0] == TOKENIZER.bos_id
            assert ids[-1] == TOKENIZER.eos_id
            assert side.labels["label"][example] == number % 3
    assert labelled.description.label_counts == {"0": 14, "1": 13, "2": 13}
    pairs = [{"prompt": f"ask {n}", "chosen": f"{n} a", "rejected": f"{n} b"} for n in range(40)]
    preferred = read(write(tmp_path / "b.jsonl", pairs), held_out_share=held_out_share)
    for side in (preferred.training, preferred.held_out):
        assert side.group_size == 2
        for chosen, rejected in zip(exchanges(side)[::2], exchanges(side)[1::2], strict=True):
            assert chosen[0] == rejected[0]
            assert chosen[1].replace("a", "b") == rejected[1]


def test_texts_are_predicted_after_bos_and_end(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [{"text": "the user asks"}])
    ids, weights = read(data, held_out_share=0.0).training.sequence(0)
    assert ids.tolist() == [TOKENIZER.bos_id, *TOKENIZER.encode("the user asks"), TOKENIZER.eos_id]
    assert weights.tolist() == [0.0] + [1.0] * (len(ids) - 1)


def test_the_description_says_in_sentences_what_was_read(tmp_path: Path) -> None:
    turns = [Message("user", "how many?"), Message("assistant", "7")] * 2
    rows = [{"messages": [each._asdict() for each in turns], "id": "x"}]
    rows += [{"messages": [each._asdict() for each in turns[:2]], "id": "y"}]
    data = write(tmp_path / "a.jsonl", rows)
    targets = 3 * (len(TOKENIZER.encode("7")) + 1) / 2
    assert read(data, held_out_share=0.0).description.lines() == [
        f"2 conversations, 1.5 turns, {targets:,.0f} target tokens on average, 0 held out",
        f"{data}: 2 rows, read as Messages(messages[, tools]); not used: id",
    ]


def test_errors_say_what_and_where(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", [qa(1)])
    pairs = write(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    text = tmp_path / "a.txt"
    text.write_text("hello")
    empty = write(tmp_path / "empty.jsonl", [])
    cases: list[tuple[type, str, tuple[str, ...], dict[str, Any]]] = [
        (UsageError, "--data .*none: no such file", (str(tmp_path / "none"),), {}),
        (UsageError, "a.txt: no file of rows; allowed: .jsonl, .nd", (good, str(text)), {}),
        (BadInputError, "empty.jsonl: no example in 0 rows", (empty,), {}),
        (BadInputError, r"good.jsonl has rows of PromptCompletion.* and .*pairs.jsonl of Pref",
         (good, pairs), {}),
        (BadInputError, r"1 of 1 rows are bad \(100.0%.*no 'text' among its fields \(question, an",
         (good,), {"form": Text()}),
        (BadInputError, "label 'c' is not listed: x, y", (pairs,),
         {"form": Labelled(text="prompt", label="rejected", labels=("x", "y"))}),
        (BadInputError, "no evaluation file", (good,), {"evaluation_files": ("none.jsonl",)}),
        (BadInputError, "good.jsonl:1: the example has .* tokens; the context takes 16",
         (good,), {"too_long": "refuse", "max_length": 16}),
        (BadInputError, "no example of 1 is left for training .0 are held out, 1 are too long",
         (good,), {"too_long": "drop", "max_length": 16}),
        (BadInputError, "a context of 9 tokens is too short", (good,), {"max_length": 9}),
    ]  # fmt: skip
    for kind, error, files, settings in cases:
        kind = UsageError if "no evaluation file" in error else kind
        with pytest.raises(kind, match=error) as caught:
            read(*files, **settings)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code in (2, 82)


def test_the_same_form_may_come_from_files_of_several_kinds(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [qa(1)])
    b = write(tmp_path / "b.jsonl", [{"instruction": "how many?", "output": "7"}])
    read_back = read(a, b, held_out_share=0.0)
    assert exchanges(read_back.training) == [("how many are 1?", "there are 1"), ("how many?", "7")]
    assert [form for _, form, _, _ in read_back.description.forms] == [
        PromptCompletion(prompt="question", completion="answer").describe(),
        "Instruction(instruction, output[, input])",
    ]


def test_a_folder_may_hold_other_files(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [qa(1)])
    (tmp_path / "README.md").write_text("about these files")
    assert len(read(str(tmp_path), held_out_share=0.0).training) == 1


def test_real_chats_and_preferences_are_read(shared_data: Path) -> None:
    chats = read(str(shared_data / "instruct" / "oasst_conversations.jsonl"))
    assert chats.description.num_examples == 547
    assert chats.description.bad == {}
    pairs = read(str(shared_data / "preference" / "oasst_pairs.jsonl"), form=Preferences())
    assert (pairs.description.num_examples, pairs.training.group_size) == (207, 2)
