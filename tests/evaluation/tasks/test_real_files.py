"""Every row of the real evaluation files becomes an item of the task that its name finds."""

from pathlib import Path

import pytest

from jaxgpt.evaluation.runner.known_tasks import find_task

# File, its number of items, and the accuracy of a guess where there are choices.
FILES = {
    "hellaswag_val_1000.jsonl": (1000, 0.25),
    "arc_easy.jsonl": (2376, 0.25),
    "arc_challenge.jsonl": (1172, 0.25),
    "piqa.jsonl": (1838, 0.5),
    "boolq.jsonl": (3270, 0.5),
    "winogrande.jsonl": (1267, 0.5),
    "openbook_qa.jsonl": (500, 0.25),
    "lambada_openai.jsonl": (5153, None),
    "truthfulqa_mc_task.json": (None, None),
    "TruthfulQA.csv": (None, None),
    "gsm8k_test.jsonl": (1319, None),
    "HumanEval.jsonl": (164, None),
    "wikitext-2.test.txt": (None, None),
}


@pytest.mark.parametrize("name", FILES)
def test_all_rows_are_items(shared_data: Path, name: str) -> None:
    path, (count, chance) = shared_data / "eval" / name, FILES[name]
    task = find_task(name, path)
    items = [task.read(row) for _, row in task.read_file(path)]
    assert len(items) == count if count else len(items) > 50
    chances = [task.chance(item) for item in items]
    if chance is None:
        assert set(chances) == {None}
    else:
        assert sum(each or 0 for each in chances) / len(chances) == pytest.approx(chance, abs=0.001)
    if name == "wikitext-2.test.txt":
        pages = [item.gold for item in items]
        assert all(page.lstrip().startswith("= ") for page in pages)
        assert sum(len(page) for page in pages) > 0.99 * len(path.read_text("utf-8"))
