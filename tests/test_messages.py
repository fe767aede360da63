"""Messages are short, have a unit that fits, and count one thing as one thing."""

import ast
import itertools
import re

import pytest

from jaxgpt.config import load_config, replace
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.existing import name_some, recorded_settings, settings_differences
from jaxgpt.corpus.filters.config import FiltersConfig
from jaxgpt.data.loader import DataConfig, WeightedDataset, open_training_batches
from jaxgpt.errors import UsageError
from jaxgpt.planning.plan import describe_time
from jaxgpt.reports.console import format_count
from jaxgpt.runs.config import Run, TrainConfig
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


def test_the_text_of_an_option_stands_alone() -> None:
    odd = re.compile(
        r"(Of|What|Whether|Who|Which|Where|How|So) |.*\b(so many|so much|so long|anew)\b", re.DOTALL
    )
    found = []
    for path in sorted((REPOSITORY / "jaxgpt").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            statements = node.body if isinstance(node, ast.ClassDef) else []
            for field, text in itertools.pairwise(statements):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    help_text = ast.literal_eval(text.value)
                    if odd.match(help_text) or not help_text.endswith("."):
                        found.append(f"{path.name}:{text.lineno}: {help_text}")
    assert not found


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
    run = Run(tmp_path, replace(BASE, data=data), None, {}, None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="say with --data where it is now"):
        run.own_dataset()
    with pytest.raises(UsageError, match=f"no dataset at data/mine, seen from {tmp_path}.*--data"):
        open_training_batches(data, BASE.batch, 0)
