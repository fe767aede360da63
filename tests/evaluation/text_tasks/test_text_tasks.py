"""Answers that a model writes: numbers, programs in their sandbox, translations, summaries."""

import decimal
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.config import replace
from jaxgpt.errors import UsageError
from jaxgpt.evaluation.generation import continue_greedily
from jaxgpt.evaluation.runner.run_task import run_task
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.evaluation.tasks.shots import Shots
from jaxgpt.evaluation.tasks.task import Answer
from jaxgpt.evaluation.text_tasks import (
    Gsm8k,
    HumanEval,
    Summaries,
    TextPairs,
    Translations,
    sandbox,
)
from jaxgpt.evaluation.text_tasks.gsm8k import last_number
from jaxgpt.evaluation.text_tasks.sandbox import runs_without_error
from jaxgpt.inference.text_generation import encode_prompt
from tests.evaluation.test_scoring import forward
from tests.evaluation.tiny_scoring import load_tiny


@given(number=st.decimals(-(10**9), 10**9, places=2), before=st.integers(0, 99))
def test_the_last_number_counts(number: decimal.Decimal, before: int) -> None:
    for text in (f"{number}", f"{number:,}", f"It is ${number:,}.", f"{number}\n#### {number}"):
        assert last_number(f"With {before}, and {text}") == number
    assert last_number(f"{number} is no {before} percent.") == before


def test_answers_to_mathematics() -> None:
    row = {"question": "How many?", "answer": "1 + 1 = <<1+1=2>>2\n#### 1,002"}
    item = Gsm8k().read(row)
    assert item.requests[0].context == "Question: How many?\nAnswer:"
    assert item.example.endswith("#### 1,002")
    for text, value in (("So 1002.", 1), ("1002.0", 1), ("1,002 of 3", 0), ("none", 0), ("", 0)):
        assert Gsm8k().measure(item, [Answer(text)])["exact_match"].value == value
    with pytest.raises(ValueError, match="no number"):
        Gsm8k().read(row | {"answer": "none"})


@pytest.mark.slow
def test_continuations_are_the_most_probable_tokens() -> None:
    loaded = load_tiny()
    prompts = ["the small cat", "", "one quick dog sees the old stone and some fish"]
    written = continue_greedily(loaded, prompts, 3, (), batch_size=2, silent=True)
    texts = [each.text for each in written]
    for prompt, text in zip(prompts, texts, strict=True):
        (alone,) = continue_greedily(loaded, [prompt], 3, (), silent=True)
        assert alone.text == text
    ids = encode_prompt(loaded.tokenizer, "")
    for _ in range(3):
        scores = forward(loaded)(ids)[-1].copy()
        scores[[i for name, i in loaded.tokenizer.special_ids.items() if name != "eos"]] = -1e9
        ids.append(int(scores.argmax()))
    assert texts[1].startswith(loaded.tokenizer.decode(ids[1:]).rstrip("\ufffd"))


@pytest.fixture(scope="module")
def can_isolate() -> None:
    try:
        runs_without_error("")
    except UsageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("program", "passes"),
    [
        ("assert 1 + 1 == 2", True),
        ("import math, collections, typing", True),
        ("assert 1 + 1 == 3", False),
        ("raise SystemExit(0)", False),
        ("import os; os._exit(0)", False),
        ("syntax error", False),
        ("import time; time.sleep(60)", False),
        ("while True: pass", False),
        ("bytearray(2 << 30)", False),
    ],
)
def test_programs_pass_only_if_they_end_well_within_their_limits(
    can_isolate: None, program: str, passes: bool
) -> None:
    assert runs_without_error(program, seconds=1) == passes


def test_a_program_has_no_network_writes_nothing_and_ends_nobody(
    can_isolate: None, tmp_path: Path
) -> None:
    (tmp_path / "there").write_text("as it was")
    attempts = {
        "network": "import socket; socket.create_server(('127.0.0.1', 0)).close();"
        "socket.create_connection(('192.0.2.1', 80), 0.2)",
        "write": f"open({str(tmp_path / 'new')!r}, 'w').write('x')",
        "delete": f"import os; os.remove({str(tmp_path / 'there')!r})",
        "end": f"import os, signal; os.kill({os.getpid()}, signal.SIGTERM)",
    }
    for what, attempt in attempts.items():
        assert not runs_without_error(attempt, seconds=5), what
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "as it was"


def test_where_it_cannot_be_isolated_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = sandbox._PRELUDE.replace("libc.unshare(", "1 or libc.unshare(")
    monkeypatch.setattr(sandbox, "_PRELUDE", refused)
    with pytest.raises(UsageError, match="leave out --run-code"):
        runs_without_error("")


def test_functions_are_completed_and_run_only_on_request(can_isolate: None) -> None:
    row = {"prompt": 'def twice(x):\n    """2x"""\n', "entry_point": "twice",
           "test": "def check(f):\n    assert f(2) == 4\n"}  # fmt: skip
    task = HumanEval()
    assert task.metrics == {}
    assert task.measure(task.read(row), [Answer("    raise SystemExit")]) == {}
    task = replace(task, run_code=True)
    for text, value in (("    return 2 * x", 1), ("    return x * x + 1", 0), ("", 0)):
        assert task.measure(task.read(row), [Answer(text)])["pass_at_1"].value == value
    with pytest.raises(ValueError, match="no name"):
        task.read(row | {"entry_point": "x; evil()"})


def test_texts_are_written_scored_and_kept(tmp_path: Path) -> None:
    pytest.importorskip("rouge_score", reason="needs: pip install -e '.[metrics]'")
    rows = [{"prompt": "the cat sees", "completion": "a dog"}, {"prompt": "a", "completion": "b"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Summaries(max_new_tokens=4)
    found = run_task("mine", path, Scorer(load_tiny(), silent=True), Shots(), task=task)
    assert found.estimates()["rouge1"]["n"] == 2
    assert [sample["gold"] for sample in found.samples] == ["a dog", "b"]
    assert all(len(sample["texts"]) == 1 for sample in found.samples)
    with pytest.raises(UsageError, match="after BOS"):
        run_task("m", path, Scorer(load_tiny(), add_bos=False, silent=True), Shots(), task=task)


def test_figures_are_those_of_sacrebleu_and_rouge_score() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="needs: pip install -e '.[metrics]'")
    pytest.importorskip("rouge_score", reason="needs: pip install -e '.[metrics]'")
    texts = ["the cat sat on the mat .", "a dog barks at the man", "it rained all day long today"]
    gold = ["the cat sat on a mat .", "a dog barks at a man there", "it rained all day long"]
    task = Translations(prompt="{text}", reference="to")
    items = [task.read({"text": "x", "to": each}) for each in gold]
    figures = task.measure_all(items, [[Answer(f" {text}\n")] for text in texts])
    assert figures["bleu"]["value"] == pytest.approx(sacrebleu.corpus_bleu(texts, [gold]).score)
    assert figures["chrf"]["value"] == pytest.approx(sacrebleu.corpus_chrf(texts, [gold]).score)
    for figure in figures.values():
        assert figure["low"] < figure["value"] < figure["high"]
        assert "version:" in figure["signature"]
    measured = Summaries().measure(items[1]._replace(gold="a b c d"), [Answer("a b x")])
    # Two of three words are right, and two of four are found.
    assert measured["rouge1"].value == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert measured["rouge2"].value == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    with pytest.raises(ValueError, match="is empty"):
        TextPairs().read({"prompt": "x", "completion": " "})
