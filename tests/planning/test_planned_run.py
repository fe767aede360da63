"""Plans of fine-tuning: every objective has one, from the same files as its run.

That planned rows are those of the run is in runs/test_objectives_on_meshes.py.
"""

import json
from pathlib import Path

import pytest

from jaxgpt import plan
from tests.tiny import REPOSITORY
from tests.tuned_runs import JOBS, Job, make_world

ALL = {
    **JOBS,
    "extraction": Job("extract", "spans.jsonl"),
    "rewards": Job("grpo", "answers.jsonl", ("--objective.max-answer-tokens", "8")),
}
# Those whose rows bring what the base says of the answers.
QUICK = ("dpo", "kto")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("plans"))
    row = {"text": "the red bird", "spans": [{"start": 4, "end": 7, "label": "colour"}]}
    (folder / "spans.jsonl").write_text(20 * (json.dumps(row) + "\n"))
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ALL]
)
def test_every_objective_has_a_plan(
    name: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, base = ALL[name], str(world / "base")
    plan.main([
        "--config", str(REPOSITORY / "configs" / f"{job.config}.py"), "--checkpoint", base,
        "--data", str(world / job.data), "--batch.sequence-length", "32", "--json",
        *(option.format(world=world) for option in job.options),
    ])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    parts = found["bytes_per_device"]
    assert parts["total"] == sum(count for part, count in parts.items() if part != "total")
    has_frozen = name in ("lora", "dpo with adapter", "distillation")
    assert (parts["frozen"] > 0) == has_frozen
