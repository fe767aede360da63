"""Rows of the known files and data sets become the questions that lm-evaluation-harness asks."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from jaxgpt.errors import BadInputError, UsageError
from jaxgpt.evaluation.runner.core import CORE_TASKS, CoreTask, aggregate, find_files, run_core
from jaxgpt.evaluation.runner.known_tasks import find_task
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.evaluation.scoring import Request, Score, Scorer
from jaxgpt.evaluation.statistics import Metric, Values
from jaxgpt.evaluation.tasks import (
    Arc,
    BoolQ,
    CommonsenseQa,
    ContextChoice,
    Continuation,
    Copa,
    HellaSwag,
    Lambada,
    MultipleChoice,
    OpenBookQa,
    Piqa,
    TruthfulQa,
    WikiText,
    WinoGrande,
)
from jaxgpt.evaluation.tasks.shots import Shots
from jaxgpt.evaluation.tasks.task import Item, choice_index
from tests.evaluation.tiny_scoring import load_tiny

LETTERS = {"label": ["A", "B", "C"], "text": ["a stone", "a river", "a dog"]}
# A row as the data set has it, or llm-foundry, and what is asked: context, choices, right one.
ROWS = {
    "hellaswag": (
        HellaSwag(),
        {"activity_label": "Dogs", "ctx_a": "A dog runs [step] away.", "ctx_b": "the dog",
         "endings": ["sleeps [title] End", "flies  up"], "label": "1"},
        "Dogs: A dog runs away. The dog", [" sleeps. End", " flies up"], 1,
    ),
    "hellaswag, llm-foundry": (
        HellaSwag(), {"query": "A dog", "choices": ["runs", "flies"], "gold": 0},
        "A dog", [" runs", " flies"], 0,
    ),
    "piqa": (
        Piqa(), {"goal": "Cut wood.", "sol1": "Saw.", "sol2": "Sing.", "label": 0},
        "Question: Cut wood.\nAnswer:", [" Saw.", " Sing."], 0,
    ),
    "piqa, llm-foundry": (
        Piqa(), {"query": "Question: Cut wood.\n", "choices": ["Saw.", "Sing."], "gold": 0},
        "Question: Cut wood.\nAnswer:", [" Saw.", " Sing."], 0,
    ),
    "arc": (
        Arc(), {"question": "What barks?", "choices": LETTERS, "answerKey": "C"},
        "Question: What barks?\nAnswer:", [" a stone", " a river", " a dog"], 2,
    ),
    "arc, numbered": (
        Arc(), {"question": "What barks?", "choices": LETTERS | {"label": ["1", "2", "3"]},
                "answerKey": "1"},
        "Question: What barks?\nAnswer:", [" a stone", " a river", " a dog"], 0,
    ),
    "commonsense_qa": (
        CommonsenseQa(), {"question": "What flows?", "choices": LETTERS, "answerKey": "B"},
        "Question: What flows?\nAnswer:", [" a stone", " a river", " a dog"], 1,
    ),
    "openbook_qa": (
        OpenBookQa(), {"question_stem": "Water runs in", "choices": LETTERS, "answerKey": "B"},
        "Water runs in", [" a stone", " a river", " a dog"], 1,
    ),
    "boolq": (
        BoolQ(), {"passage": "Dogs bark.", "question": "do dogs bark", "answer": True},
        "Dogs bark.\nQuestion: do dogs bark?\nAnswer:", [" no", " yes"], 1,
    ),
    "copa": (
        Copa(), {"premise": "The dog barked.", "choice1": "A man came.", "choice2": "It slept.",
                 "question": "cause", "label": 0},
        "The dog barked because", [" a man came.", " it slept."], 0,
    ),
    "fields of one's own": (
        MultipleChoice(query="Q: {ask.text}", choices="options", gold="right", ending="\nA:"),
        {"ask": {"text": "What? "}, "options": ["this", "that"], "right": "that"},
        "Q: What?\nA:", [" this", " that"], 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("task", "row", "context", "choices", "gold"), ROWS.values(), ids=ROWS)
def test_rows_become_questions(task, row, context, choices, gold) -> None:
    item = task.read(row)
    assert list(item.requests) == [Request(context, choice) for choice in choices]
    assert item.gold == gold
    assert item.example == context + choices[gold]
    assert [f" {choice}" for choice in item.choices] == choices
    assert task.chance(item) == 1 / len(choices)


def test_beginnings_and_last_words() -> None:
    row = {"sentence": "Ann saw Bea because _ looked up.", "option1": "Ann", "option2": "Bea"}
    item = WinoGrande().read(row | {"answer": "2"})
    begins = ["Ann saw Bea because Ann", "Ann saw Bea because Bea"]
    assert list(item.requests) == [Request(begin, " looked up.") for begin in begins]
    row = {"context_options": begins, "continuation": "looked up.", "gold": 1}
    assert WinoGrande().read(row) == item
    texts = {"text": "The dog saw the cat"}, {"context": "The dog saw the", "continuation": "cat"}
    for row in texts:
        assert Lambada().read(row).requests == (Request("The dog saw the", " cat"),)


def make_scores(log_likelihoods: list[float], num_tokens: list[int] | None = None) -> list[Score]:
    counts = num_tokens or [1] * len(log_likelihoods)
    return [
        Score(value, False, count, 0, np.zeros(count, np.float32))
        for value, count in zip(log_likelihoods, counts, strict=True)
    ]


def test_accuracies_differ_in_what_a_log_likelihood_is_divided_by() -> None:
    # Characters 1, 4, 2 and 10; bytes 1, 4, 8 and 10.
    item = MultipleChoice().make_item("", ["a", "bbbb", "\N{DOG FACE}\N{CAT FACE}", "c" * 10], 0)
    scores = make_scores([-3.0, -8.0, -6.0, -25.0], [1, 5, 3, 20])
    for right, names in ((0, {"acc"}), (1, {"acc_norm"}), (2, {"acc_bytes"}), (3, {"acc_tokens"})):
        measured = MultipleChoice().measure(item._replace(gold=right), scores)
        assert {name for name, value in measured.items() if value.value} == names


def test_truthful_answers() -> None:
    mc1, mc2 = {"yes": 1, "no": 0}, {"yes": 1, "of course": 1, "no": 0}
    ours = {"question": "Do dogs bark?", "mc1_targets": mc1, "mc2_targets": mc2}
    lists = {"choices": list(mc2), "labels": list(mc2.values())}
    table = {"Question": "Do dogs bark?", "Best Answer": "yes", "Incorrect Answers": "no",
             "Correct Answers": "yes; of course"}  # fmt: skip
    task = TruthfulQa()
    item = task.read(ours)
    assert task.read(ours | {"mc2_targets": lists}) == item
    assert task.read(table) == item
    assert item.requests[0].context.endswith("in Barcelona, Spain.\n\nQ: Do dogs bark?\nA:")
    scores = make_scores([-2.0, -1.0, *np.log([0.1, 0.2, 0.1])])
    measured = task.measure(item, scores)
    assert measured["mc1"].value == 0
    assert measured["mc2"].value == pytest.approx(0.75)


def test_articles_of_wikitext(tmp_path: Path) -> None:
    first = " = Dogs = \n \n They bark @-@ loud , at 1 @,@ 000 ( cats ) . \n = = Kinds = = \n"
    second = " = Cats = \n \n They don 't . \n"
    (tmp_path / "wiki.txt").write_text(f" \n{first} \n{second}", "utf-8")
    task = WikiText()
    rows = list(task.read_file(tmp_path / "wiki.txt"))
    assert [place for place, _ in rows] == [1, 7]
    pages = [row["page"] for _, row in rows]
    assert [page.count("=") for page in pages] == [6, 2]
    seen = []

    class Documents:
        def score_documents(self, texts: list[str]) -> list[Score]:
            seen.extend(texts)
            return make_scores([-12.0, -6.0])

    items = [task.read(row) for _, row in rows]
    scores = task.score(Documents(), items, ["", ""])  # type: ignore[arg-type]
    assert "They bark-loud, at 1,000 (cats). " in seen[0].replace("\n", " ")
    measured = task.measure(items[1], scores[1])
    assert measured["word_perplexity"] == (-6.0, len(pages[1].split()) + 2)
    assert measured["bits_per_byte"] == (-6.0, len(pages[1].encode()))
    # Articles stand alone, whatever other tasks of the same command have before their questions.
    assert not task.takes_examples


def test_examples_are_others_and_stay_what_they_are() -> None:
    items = [Item((), f"example {number}", 0) for number in (0, 1, 1, 2, 3, 4)]
    first = Shots(num_shots=2)
    assert first.prefix(items, 4, "\n") == "example 0\nexample 1\n"
    # Neither the question itself nor a copy of it.
    assert first.prefix(items, 2, "\n") == "example 0\nexample 2\n"
    drawn = [Shots(num_shots=2, shots_seed=seed).prefix(items, 1, ";") for seed in range(20)]
    assert not any("example 1" in text for text in drawn)
    assert all(len(set(text.split(";"))) == 3 for text in drawn)
    assert len(set(drawn)) > 5
    assert drawn[3] == Shots(num_shots=2, shots_seed=3).prefix(items, 1, ";")
    with pytest.raises(UsageError, match="--num-shots 5 needs that many other items"):
        Shots(num_shots=5).prefix(items, 1, "")


def test_the_right_choice_has_many_spellings() -> None:
    for value in (1, "1", "B", " B", "the cat"):
        assert choice_index(value, ("a dog", "the cat")) == 1
    for value in (2, -1, "C", "a cat", None, 1.0):
        with pytest.raises(ValueError, match="the right choice is"):
            choice_index(value, ("a dog", "the cat"))


def test_a_task_is_found_by_name_or_by_fields(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text('{"query": "q", "choices": ["a", "b"], "gold": 0}\n')
    names = {"arc_easy_50": Arc, "ARC": Arc, "openbook_qa": OpenBookQa, "hellaswag-val": HellaSwag,
             "arcade": MultipleChoice, "me": MultipleChoice, "wikitext.test": WikiText}  # fmt: skip
    for name, kind in names.items():
        assert type(find_task(name, path)) is kind
    path.write_text('{"ask": "q"}\n')
    with pytest.raises(UsageError, match=r"'hellaswg'; did you mean 'hellaswag'\?, nor .*: ask;"):
        find_task("hellaswg", path)


def test_bad_rows_say_what_is_wrong() -> None:
    row = {"query": "q", "choices": ["a", "b"], "gold": 0}
    for change, message in (
        ({"choices": ["a"]}, "at least 2"),
        ({"choices": ["a", ""]}, "empty"),
        ({"choices": "ab"}, "list of texts"),
        ({"query": 3}, "must be a text"),
        ({"gold": 2}, "right choice"),
    ):
        with pytest.raises(ValueError, match=message):
            MultipleChoice().read(row | change)
    with pytest.raises(ValueError, match=r"no field 'gold'; there: query, choices"):
        MultipleChoice().read({name: row[name] for name in ("query", "choices")})


def test_core_is_the_mean_of_centred_accuracies() -> None:
    def result(name: str, task: CoreTask, accuracies: list[float]) -> TaskResult:
        metric = "acc" if isinstance(task.task, Continuation | ContextChoice) else "acc_tokens"
        ones = np.ones(len(accuracies))
        values = {metric: Values(np.array(accuracies), ones)}
        return TaskResult(name, {metric: Metric()}, values, {}, [], 0)

    for accuracy in (0.0, 0.5, 1.0):
        # As far above chance in each task.
        results = [
            result(name, task, [task.chance + accuracy * (1 - task.chance)] * 4)
            for name, task in CORE_TASKS.items()
        ]
        found = aggregate(results)
        assert found["value"] == pytest.approx(accuracy)
        assert found["missing"] == []
    right_and_wrong = [result(name, task, [0.0, 1.0]) for name, task in CORE_TASKS.items()]
    room = [1 / (1 - task.chance) for task in CORE_TASKS.values()]
    # The standard error of one right and one wrong answer is 0.5.
    assert aggregate(right_and_wrong)["stderr"] == pytest.approx(0.5 * np.linalg.norm(room) / 22)
    assert aggregate(results[1:]) == {
        "value": None, "stderr": None, "missing": ["hellaswag_zeroshot"],
        "centred": dict.fromkeys(list(CORE_TASKS)[1:], pytest.approx(1.0)),
    }  # fmt: skip


def test_all_22_tasks_of_core_are_scored_from_a_folder_and_single_files(tmp_path: Path) -> None:
    rows = {
        MultipleChoice: {"query": "the old", "choices": ["cat", "dog"], "gold": 1},
        ContextChoice: {"context_options": ["a cat", "a dog"], "continuation": " runs", "gold": 0},
        Continuation: {"context": "the old", "continuation": "cat"},
    }
    for task in CORE_TASKS.values():
        row = next(row for kind, row in rows.items() if isinstance(task.task, kind))
        # Ten examples go before a question, and none of them is equal to it.
        lines = [
            json.dumps(row).replace("the old", f"the old {n}").replace("runs", f"runs {n}")
            for n in range(12)
        ]
        (tmp_path / task.file).write_text("\n".join(lines))
    other = (tmp_path / "jeopardy_all.jsonl").rename(tmp_path / "questions.txt.jsonl")
    places = [str(tmp_path), f"jeopardy={other}"]
    results = run_core(places, Scorer(load_tiny(), silent=True), limit=1)
    assert [each.name for each in results] == list(CORE_TASKS)
    found = aggregate(results)
    assert found["missing"] == []
    assert found["value"] == pytest.approx(np.mean(list(found["centred"].values())))
    assert "jeopardy" not in find_files(places[:1])
    # A file that is named goes before one of the folder.
    assert find_files([f"copa={other}", str(tmp_path)])["copa"] == other
    for wrong, message in (
        (["cop=x"], "did you mean"),
        (["copa=x", "copa=y"], "--core names copa twice"),
        ([str(tmp_path / "none")], "no file of CORE below"),
    ):
        with pytest.raises(UsageError, match=message):
            find_files(wrong)


def test_parquet_is_read_and_what_is_not_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"query": f"q{number}", "choices": ["a", "b"], "gold": 1} for number in range(3)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert list(MultipleChoice().read_file(path)) == list(enumerate(rows, 1))
    path.write_bytes(b"no table")
    with pytest.raises(BadInputError, match=r"rows\.parquet is not Parquet"):
        list(MultipleChoice().read_file(path))
