"""The quickstart as a new user starts it: on text of one's own, twice; its model at full size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import REPOSITORY, environment, make_texts


def _quickstart(
    folder: Path, *arguments: str, optimized: bool = False, timeout: float = 600
) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "jaxgpt.quickstart", *arguments],
        cwd=folder,
        env={**environment(folder / "cache", 1, optimized), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.slow
def test_on_own_text_from_another_folder_and_again(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(make_texts(150)):
        (tmp_path / "texts" / f"{number}.txt").write_text(text * 3)
    first = _quickstart(tmp_path, "--input", "texts", "--num-steps", "4")
    for command in ("tools/build_dataset.py", "jaxgpt.train", "jaxgpt.eval", "jaxgpt.generate"):
        assert command in first
    result = json.loads((tmp_path / "runs" / "quickstart" / "quickstart.json").read_text())
    assert set(result) == {"bits_per_byte", "ngram_bits_per_byte", "seconds"}
    report = (tmp_path / "runs" / "quickstart" / "report.html").read_text()
    assert f"{result['ngram_bits_per_byte']:.3f}" in report
    again = _quickstart(tmp_path, "--input", "texts", "--num-steps", "4")
    assert "held-out text" in again
    last = again.rstrip().splitlines()[-1]
    assert last.startswith("$ pip install -e '.[serve]' && python -m jaxgpt.serve --checkpoint ")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_at_two_fifths_of_its_steps_it_beats_counting(tmp_path: Path) -> None:
    printed = _quickstart(tmp_path, "--num-steps", "160", optimized=True, timeout=1400)
    result = json.loads((tmp_path / "runs" / "quickstart" / "quickstart.json").read_text())
    print(result)
    assert result["bits_per_byte"] <= 1.65
    assert result["bits_per_byte"] < result["ngram_bits_per_byte"]
    assert "self" in printed.split("== 4.")[1], "the samples do not look like Python"
