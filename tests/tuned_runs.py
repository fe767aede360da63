"""Small runs of every objective of fine-tuning: their command lines, and what they come to."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxgpt.checkpoints.orbax_adapter import OrbaxFiles
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.tokenizer.tokenizer import Tokenizer
from tests.run_folder import make_run
from tests.tiny import REPOSITORY, make_dataset

# What a clock measured.
_TIMINGS = {"tokens_per_second", "mfu", "seconds", "data_wait_seconds", "time"}


class Job(NamedTuple):
    """A config of configs/, the data of `make_world` that it learns from, and options."""

    config: str
    data: str
    options: tuple[str, ...] = ()


_ADAPTER = ("--adapter", "Lora", "--adapter.rank", "2", "--adapter.dropout", "0.1")
JOBS = {
    "supervised": Job("sft", "answers.jsonl"),
    "lora": Job("lora", "answers.jsonl", ("--adapter.rank", "2", "--adapter.dropout", "0.1")),
    "dpo": Job("dpo", "pairs.jsonl"),
    "dpo with adapter": Job("dpo", "pairs.jsonl", _ADAPTER),
    "kto": Job("kto", "judged.jsonl"),
    "orpo": Job("dpo", "pairs.jsonl", ("--objective", "Orpo")),
    "classification": Job("classify", "texts.jsonl"),
    "distillation": Job("distill", "answers.jsonl", ("--objective.teacher", "{world}/teacher")),
    "continue": Job("continue", "new", ("--data.replay-share", "0.25")),
}


def make_world(folder: Path) -> Path:
    """Write a base, a teacher that is wider, and data for each job, into a folder; return it."""
    old = make_dataset(folder / "old")
    attention = GroupedQueryAttention(num_heads=2)
    make_run(folder / "base", old, {10: 3.0}, attention=attention)
    make_run(folder / "teacher", old, {5: 3.0}, attention=attention, d_model=32)
    rng, words = random.Random(0), ("red", "green", "old", "new", "small", "quick")
    texts = sorted({" ".join(rng.choices(words, k=rng.randint(1, 4))) for _ in range(100)})
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("answers", "pairs", "judged", "texts")
    }
    for number, text in enumerate(texts):
        good, bad = text.split()[-1], f"bird {rng.choice(words)}"
        is_good = number % 2 == 0
        rows["answers"].append({"prompt": text, "completion": good})
        rows["pairs"].append({"prompt": text, "chosen": good, "rejected": bad})
        answer = good if is_good else bad
        rows["judged"].append({"prompt": text, "completion": answer, "label": is_good})
        rows["texts"].append({"text": text, "label": good})
    for name, each in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    new = [" ".join(rng.choices(["one", "two", "three"], k=30)) for _ in range(60)]
    make_dataset(folder / "new", tokenizer=Tokenizer.load(old / "tokenizer"), texts=new)
    return folder


def arguments(job: Job, world: Path, run_dir: Path, num_steps: int, *more: str) -> list[str]:
    """Return the arguments of `finetune` for a run that saves each second step."""
    return [
        "--config", str(REPOSITORY / "configs" / f"{job.config}.py"),
        "--checkpoint", str(world / "base"), "--data", str(world / job.data),
        "--run-dir", str(run_dir), "--schedule.num-steps", str(num_steps),
        "--batch.sequence-length", "32", "--batch.global-batch-size", "4",
        "--schedule.peak-learning-rate", "0.02", "--logging.every-steps", "1",
        "--checkpoint.every-steps", "2", "--evaluation.every-steps", "3",
        "--evaluation.prompts", *(option.format(world=world) for option in job.options), *more,
    ]  # fmt: skip


def outcome(run_dir: Path, step: int) -> dict[str, str]:
    """Return hashes of all arrays of a step, and the metrics without what a clock measured."""
    files, folder, found = OrbaxFiles(), run_dir / "checkpoints" / str(step), {}
    for item in ("params", "training_state"):
        specs = {
            name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
            for name, spec in files.specs(folder, item).items()
        }
        for name, array in files.read(folder, item, specs).items():
            found[f"{item}/{name}"] = hashlib.sha256(array.tobytes()).hexdigest()
    files.close()
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    records = [record for line in lines if "goodput" not in (record := json.loads(line))]
    kept = [{key: record[key] for key in record if key not in _TIMINGS} for record in records]
    return {**found, "metrics": json.dumps(kept)}
