"""Reports of runs: right figures, with any part missing, escaped, in one file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from jaxgpt.runs.report.curves import course_figures, learning_figures, mean_throughput
from jaxgpt.runs.report.records import write_baseline
from jaxgpt.runs.report.report import write_run_report
from jaxgpt.training.goodput import PURPOSES
from tests.reports.test_page import Page
from tests.run_folder import make_run
from tests.tiny import make_dataset


def step_record(step: int, **changes: Any) -> dict[str, Any]:
    record = {
        "step": step,
        "tokens": step * 100,
        "loss": 5.0 - step / 100,
        "bits_per_byte": 3.0 - step / 100,
        "learning_rate": 1e-3,
        "grad_norm": 0.5,
        "tokens_per_second": 1000.0,
        "mfu": None,
        "seconds": step / 10,
        "data_wait_seconds": 0.01,
    }
    return record | changes


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    make_run(folder, make_dataset(tmp_path / "data"), {})
    evaluation = {"loss": 3.5, "perplexity": 33.1, "bits_per_byte": 2.25, "tokens": 777}
    records = [step_record(step) for step in range(1, 41)]
    write_lines(folder / "metrics.jsonl", [*records, {"step": 40, "eval": evaluation}])
    write_lines(
        folder / "events.jsonl",
        [
            {"event": "start", "step": 0, "num_parameters": 1_234_567},
            {"event": "sample", "step": 20, "prompt": "the", "text": " early <b>words</b>"},
            {"event": "sample", "step": 40, "prompt": "the", "text": " late words"},
        ],
    )
    (folder / "env.json").write_text(json.dumps({"python": "3.11", "packages": {"jax": "0.10"}}))
    return folder


def read(path: Path) -> str:
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), "something from elsewhere"
    assert not re.search(r"url\((?!#)", html)
    return page.text


def test_a_report_shows_what_the_folder_holds(run: Path) -> None:
    extra = {
        "evaluation": {
            "step": 40,
            "split": "val",
            "loss": 3.4,
            "perplexity": 29.96,
            "bits_per_byte": 2.2111,
            "tokens": 2057,
        },
        "baseline": 2.5432,
        "samples": [{"prompt": "a dog", "text": " & a <cat>", "finish": "stop"}],
    }
    path = write_run_report(run, extra)
    assert path == run / "report.html"
    text = read(path)
    for expected in (
        "Run run",
        "Finished at step 40",
        "2.211",
        "2.5432",
        "1.23 M",
        "4,000",
        "33.10",
        "a dog & a <cat>",
        "the early <b>words</b>",
        "the late words",
        "model: GptConfig",
        "attention.num_kv_heads",
        "GroupedQueryAttention",
        "every byte equally likely",
        "jax",
        str(run.parent / "data"),
    ):
        assert expected in text, expected
    assert "Missing from this report" not in text
    assert text.index("After training") < text.index("At step 40") < text.index("At step 20")


def test_a_report_tells_faults_and_where_the_time_went(run: Path) -> None:
    assert "Faults" not in read(write_run_report(run))
    seconds = dict.fromkeys(PURPOSES, 0.0) | {"step": 60.0, "replay": 15.0, "down": 25.0}
    document = {"version": 1, "seconds": seconds, "furthest_step": 40, "until": 0}
    (run / "goodput.json").write_text(json.dumps(document))
    with open(run / "events.jsonl", "a") as file:
        file.write('{"event": "skip", "step": 33, "batch": 4321, "loss": "nan"}\n')
        file.write('{"event": "skip", "step": 34, "reason": "loss 9 exceeds 4", "loss": 9.0}\n')
        file.write('{"event": "hang", "step": 35, "purpose": "data_wait"')
        file.write(', "time": "2026-11-29T12:34:56.789+00:00"}\n')
    text = read(write_run_report(run))
    for expected in ("Goodput: 60.0%", "steps done again", "15.0%", "batch 4321",
                     "loss 9 exceeds 4", "2026-11-29 12:34:56hung"):  # fmt: skip
        assert expected in text, expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "config.json: not in the folder"),
        ("lineage.json", "lineage.json: not in the folder"),
        ("env.json", "env.json: not in the folder"),
        ("metrics.jsonl", "no step is recorded yet"),
        ("events.jsonl", ""),
        ("../data/manifest.json", "manifest.json: not in the folder"),
    ],
)
def test_any_part_may_be_missing_or_damaged_and_is_named(run: Path, name: str, said: str) -> None:
    (run / name).unlink()
    text = read(write_run_report(run))
    assert said in text
    assert ("Missing from this report" in text) == bool(said)
    (run / name).write_text('{"half')
    read(write_run_report(run))


def test_an_empty_folder_has_a_report_that_says_so(tmp_path: Path) -> None:
    text = read(write_run_report(tmp_path))
    assert "No step is recorded yet" in text
    for name in ("config.json", "lineage.json", "env.json", "metrics.jsonl"):
        assert name in text


def test_another_dataset_in_the_same_place_is_not_taken_for_the_runs(run: Path) -> None:
    manifest = run.parent / "data" / "manifest.json"
    changed = json.loads(manifest.read_text()) | {"fingerprint": "0" * 64}
    manifest.write_text(json.dumps(changed))
    text = read(write_run_report(run))
    assert "holds another dataset by now" in text
    assert "Splits" not in text


def test_an_unfinished_run_says_how_far_it_is(run: Path) -> None:
    write_lines(run / "metrics.jsonl", [step_record(step) for step in range(1, 8)])
    assert "At step 7 of 20" in read(write_run_report(run))


def test_losses_that_are_not_finite_leave_a_report(run: Path) -> None:
    records = [step_record(step, loss=float("nan"), bits_per_byte=float("inf")) for step in (1, 2)]
    bad = {"loss": float("nan"), "perplexity": float("nan"), "bits_per_byte": float("inf")}
    write_lines(run / "metrics.jsonl", [*records, {"step": 2, "eval": bad}])
    assert "nan" in read(write_run_report(run))


def test_a_figure_that_the_log_has_as_null_is_called_not_finite(run: Path) -> None:
    """So `MetricsLog` writes it, such as the perplexity of a loss above 709 nats."""
    bad = {"loss": 800.0, "perplexity": None, "bits_per_byte": None, "tokens": 9, "bytes": 0}
    write_lines(run / "metrics.jsonl", [step_record(2), {"step": 2, "eval": bad}])
    html = read(write_run_report(run))
    assert "800.0000" in html
    assert "not finite" in html
    worse = bad | {"loss": None}
    write_lines(run / "metrics.jsonl", [step_record(2), {"step": 2, "eval": worse}])
    assert "not finite" in read(write_run_report(run))


def test_the_best_evaluation_is_one_that_was_measured_as_the_last(run: Path) -> None:
    figures = {"perplexity": 33.1, "bits_per_byte": 2.25, "tokens": 777}
    losses = ((10, 1.5, "words"), (20, 3.25, "digits"), (30, 3.75, "digits"))
    lines = [
        {"step": step, "eval": {"loss": loss, **figures}, "eval_settings": {"data": data}}
        for step, loss, data in losses
    ]
    write_lines(run / "metrics.jsonl", [step_record(30), *lines])
    html = read(write_run_report(run))
    assert "best during training, step 20" in html
    assert "1.5000" not in html


def test_throughput_is_tokens_over_seconds_not_a_mean_of_rates() -> None:
    records = [step_record(1), step_record(2, tokens_per_second=100_000.0), step_record(3)]
    # 100 tokens each, in 0.1, 0.001 and 0.1 seconds.
    assert mean_throughput(records) == pytest.approx(300 / 0.201)
    assert mean_throughput([]) == 0.0


def test_tokens_that_fell_at_a_change_of_batch_size_make_no_negative_throughput() -> None:
    """Records of versions that had no counter."""
    records = [step_record(step) for step in range(1, 11)]
    records += [step_record(step, tokens=step * 10) for step in range(11, 14)]
    assert mean_throughput(records) == pytest.approx(1000.0)


def test_curves_are_drawn_for_what_there_is() -> None:
    steps = [step_record(step) for step in range(1, 50)]
    evaluations = [{"step": 10, "loss": 4.0, "bits_per_byte": 2.0}]
    both = learning_figures(steps, evaluations, 1.7)
    assert len(both) == 2
    assert "n-gram model" not in both[0]
    assert "n-gram model" in both[1]
    assert all("held out" in figure and "training" in figure for figure in both)
    assert all("held out" not in figure for figure in learning_figures(steps, [], None))
    assert learning_figures([], [], 1.7) == []
    assert len(learning_figures([], evaluations, None)) == 2
    assert len(course_figures(steps)) == 4
    assert course_figures([]) == []


def test_a_held_out_loss_above_the_training_loss_is_inside_of_the_frame() -> None:
    # Memorised text: the training loss falls to nothing while the held-out loss rises.
    steps = [step_record(step, loss=4.0 / step, bits_per_byte=2.0 / step) for step in range(1, 401)]
    evaluations = [
        {"step": step, "loss": 3.0 + step / 100, "bits_per_byte": 2.0 + step / 100}
        for step in range(40, 401, 40)
    ]
    for figure in learning_figures(steps, evaluations, 1.7):
        frames = re.findall(r'<rect x="[\d.]+" y="([\d.]+)" [^>]*height="([\d.]+)"', figure)
        top, height = map(float, frames[0])
        dots = re.findall(r'<use [^>]*y="([-\d.]+)"[^>]*#d55e00', figure)
        dots = [float(y) for y in dots[: len(evaluations)]]  # After them the legend's.
        assert len(dots) == len(evaluations)
        assert all(top <= dot <= top + height for dot in dots)


def test_overfitting_and_epochs_are_said_and_the_config_is_folded(run: Path) -> None:
    assert "Overfitting" not in read(write_run_report(run))
    tokens = json.loads((run.parent / "data" / "manifest.json").read_text())
    epochs = 4000 / tokens["splits"]["train"]["num_tokens"]
    records = [
        {"step": step, "eval": {"loss": loss, "perplexity": 9.0, "bits_per_byte": loss / 2}}
        for step, loss in ((20, 3.0), (30, 3.5), (40, 4.0))
    ]
    write_lines(run / "metrics.jsonl", [*(step_record(n) for n in range(1, 41)), *records])
    text = read(write_run_report(run))
    assert "Overfitting: the held-out loss has risen from 3.0000 at step 20" in text
    assert f"{epochs:.2f}epochs" in re.sub(r"\s", "", text)
    assert re.search(
        r"<details><summary>all \d+ fields</summary>", (run / "report.html").read_text()
    )


def test_the_baseline_stays_when_training_goes_on_and_not_for_another_dataset(run: Path) -> None:
    lineage = json.loads((run / "lineage.json").read_text())
    fingerprint = lineage["data"]["datasets"][0]["fingerprint"]
    write_baseline(run, fingerprint, 2.5432)
    assert "2.5432" in read(write_run_report(run))
    write_baseline(run, "0" * 64, 2.5432)
    assert "n-gram" not in read(write_run_report(run))
