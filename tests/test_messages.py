"""Messages are short, have a unit that fits, and count one thing as one thing."""

import ast
import itertools
import re
from collections.abc import Iterator

import pytest

from jaxgpt.config import load_config, replace
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.existing import name_some, recorded_settings, settings_differences
from jaxgpt.corpus.filters.config import FiltersConfig
from jaxgpt.data.loader import DataConfig, WeightedDataset, open_training_batches
from jaxgpt.errors import UsageError
from jaxgpt.planning.plan import describe_time
from jaxgpt.reports.console import format_count
from jaxgpt.runs.config import TrainConfig
from tests.tiny import REPOSITORY

BASE = load_config(REPOSITORY / "configs/quickstart.py", TrainConfig)


def test_one_is_singular() -> None:
    assert format_count(1, "document") == "1 document"
    assert format_count(0, "document") == "0 documents"
    assert format_count(20_000, "copy") == "20,000 copies"


def test_no_verb_or_report_writes_a_count_with_a_fixed_plural() -> None:
    nouns = ("documents", "sources", "files", "copies", "shards")
    paths = [
        *(REPOSITORY / "jaxgpt" / "tools").glob("*.py"),
        *(REPOSITORY / "jaxgpt" / "corpus" / "report").glob("*.py"),
        *(REPOSITORY / "jaxgpt" / "runs").rglob("*.py"),
        *(REPOSITORY / "jaxgpt").glob("*.py"),
    ]
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for value, after in itertools.pairwise(parts):
                if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                    text = str(after.value).lstrip()
                    assert not text.startswith(nouns), f"{path.name}:{after.lineno}"


def _docstrings(tree: ast.AST) -> Iterator[tuple[ast.Expr, str, bool]]:
    """Yield the docstrings below a node: statement, text, and whether it is a field's."""
    for node in ast.walk(tree):
        statements = getattr(node, "body", None)
        for before, after in (
            itertools.pairwise([None, *statements]) if isinstance(statements, list) else ()
        ):
            if not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
                continue
            is_field = isinstance(before, ast.Assign | ast.AnnAssign)
            if (before is None or is_field) and isinstance(after.value.value, str):
                yield after, after.value.value, is_field


def _wording(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring, or string in a `raise` or a log line, that is odd."""
    question = re.compile(r"(Of|What|Whatever|Whether|Who|Whose|Whoever|Where|Which|How|So)\b")
    odd = re.compile(r"\b(so many|so much|so long|anew|whoever|beside)\b")
    for statement, text, is_field in _docstrings(tree):
        # A field's text is read alone, in a help: it begins a sentence and ends one.
        part = is_field and (text[:1].islower() or not text.rstrip().endswith("."))
        if question.match(text) or part or odd.search(" ".join(text.split())):
            yield statement.lineno, text
    for node in ast.walk(tree):
        # What a function does begins with a verb.
        if isinstance(node, ast.FunctionDef) and "property" not in map(
            ast.unparse, node.decorator_list
        ):
            text = ast.get_docstring(node) or ""
            if re.match(r"(The|A|An|As|All)\b", text):
                yield node.lineno, text
        logs = isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger.")
        for part in ast.walk(node) if logs or isinstance(node, ast.Raise) else ():
            if isinstance(part, ast.Constant) and odd.search(str(part.value)):
                yield part.lineno, str(part.value)


def test_docstrings_options_and_errors_are_plain_sentences() -> None:
    files = [path for folder in ("jaxgpt", "tools", "configs")
             for path in sorted((REPOSITORY / folder).rglob("*.py"))]  # fmt: skip
    found = [f"{path.relative_to(REPOSITORY)}:{line}: {text}"
             for path in files for line, text in _wording(ast.parse(path.read_text()))]  # fmt: skip
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("Training steps per round.", False),
        ("Of a round.", True),
        ("A step may take this many times the median step,", True),
        ("and always this many seconds.", True),
        ("Computed anew, which costs memory.", True),
    ],
)
def test_odd_wording_is_found(text: str, is_found: bool) -> None:
    config = f'class Config:\n    rounds: int = 1\n    """{text}"""\n'
    assert bool(list(_wording(ast.parse(config)))) == is_found


def test_a_function_without_a_verb_is_found() -> None:
    for text, is_found in (("The sum.", True), ("Return the sum.", False)):
        function = ast.parse(f'def add():\n    """{text}"""\n')
        assert bool(list(_wording(function))) == is_found


def test_another_dataset_is_told_in_a_few_words() -> None:
    there = recorded_settings(DatasetConfig(filters=FiltersConfig(profile="web-en")))
    here = recorded_settings(DatasetConfig(seed=1))
    differences = settings_differences(there, here)
    text = name_some(differences)
    assert len(differences) > 5
    assert len(text) < 400
    assert "filters.c4 = C4Config(...) there, None here" in text
    assert f"more of {len(differences)} differences" in text


@pytest.mark.parametrize(
    ("days", "num_steps", "time", "cost"),
    [
        (1e-4, 400, "all steps 9 s for 400 steps", 0.0012),
        (0.03, 1, "all steps 43 min for 1 step", 3.4),
        (9.0, 2000, "all steps 9 d 0 h for 2,000 steps", 432.0),
    ],
)
def test_time_and_cost_of_a_plan_have_a_unit_and_digits_that_fit(days, num_steps, time, cost):
    lines = [" ".join(line.split()) for line in describe_time(days, cost, num_steps)]
    assert lines == [time, f"cost {cost:g} in the currency of --price-per-hour"]


def test_a_run_that_was_moved_away_from_its_dataset_asks_for_data(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = DataConfig(datasets=(WeightedDataset(path="data/mine"),))
    with pytest.raises(UsageError, match="say with --data where it is now"):
        replace(BASE, data=data).own_dataset()
    with pytest.raises(UsageError, match=f"no dataset at data/mine, seen from {tmp_path}.*--data"):
        open_training_batches(data, BASE.batch, 0)
