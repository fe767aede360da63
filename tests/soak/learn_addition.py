"""GRPO on sums of two-digit numbers: from a model that is mostly careless to one that is right.

    python -m tests.soak.learn_addition --folder ADDITION [--seeds 0 1 2] [--objective Grpo] [...]

A tiny model of characters, which has read sums of three-digit numbers for a moment, learns sums of
two-digit ones by configs/sft.py. Then it is spoiled by the same file with CARELESS of the answers
added digit by digit, without a carry, until most of its answers are wrong. From there
configs/grpo.py does the rest by a reward alone: 1 for a right answer, otherwise 0. All three hold
out the same tenth of the sums. Further options are options of configs/grpo.py. Prints, for each
seed, the share of held-out sums that are right before and after GRPO, with 95% intervals, and the
seconds of GRPO.
"""

import argparse
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

from jaxgpt.finetune import main as finetune
from jaxgpt.tools.build_dataset import main as build_dataset
from jaxgpt.tools.number_examples import main as number_examples
from jaxgpt.train import main as train

BASE = (
    "--model.num-layers 2 --model.d-model 128 --model.attention.num-heads 4 "
    "--model.compute-dtype float32 --batch.sequence-length 64 --schedule.num-steps 50 "
    "--evaluation.prompts --evaluation.every-steps 50"
)
SFT = (
    "--batch.sequence-length 64 --batch.global-batch-size 16 --schedule.peak-learning-rate 2e-3 "
    "--schedule.num-steps 1000 --evaluation.every-steps 500 --evaluation.prompts "
    "--data.held-out-share 0.1"
)
SPOIL = (
    f"{SFT} --schedule.peak-learning-rate 1e-3 --schedule.num-steps 200 "
    "--evaluation.every-steps 100"
)
GRPO = (
    "--batch.sequence-length 16 --objective.max-answer-tokens 5 --num-epochs None "
    "--schedule.num-steps 250 --schedule.peak-learning-rate 1e-4 --evaluation.every-steps 50 "
    "--evaluation.prompts"
)
# Share of the answers without a carry. A quarter of them are right even so.
CARELESS = 0.8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--objective", default="Grpo")
    options, more = parser.parse_known_args()
    folder: Path = options.folder
    number_examples(["--output", str(folder / "sums.jsonl"), "--num-examples", "8100"])
    mix(folder / "sums.jsonl", folder / "mixed.jsonl")
    grpo = ["--objective", options.objective, *GRPO.split(), *more]
    print(json.dumps({seed: learn(folder, seed, grpo) for seed in options.seeds}, indent=1))


def mix(sums: Path, mixed: Path) -> None:
    """Copy examples; some of the answers are then those of somebody who forgets to carry."""
    rng = random.Random(0)
    rows = [json.loads(line) for line in sums.open()]
    for row in rows:
        if rng.random() < CARELESS:
            digits = zip(*row["prompt"].split("+"), strict=True)
            added = "".join(str(sum(map(int, pair)) % 10) for pair in digits)
            row["completion"] = str(int(added))
    mixed.write_text("".join(json.dumps(row) + "\n" for row in rows))


def learn(folder: Path, seed: int, grpo: list[str]) -> dict[str, object]:
    """Make the runs of a seed; return what held-out sums say before and after GRPO."""
    if not (folder / f"spoiled-{seed}" / "report.html").exists():
        make_base(folder, folder / f"base-{seed}", seed)
        tune(folder, seed, "base", "sums", "sft", ["--config", "configs/sft.py", *SFT.split()])
        tune(
            folder, seed, "sft", "mixed", "spoiled", ["--config", "configs/sft.py", *SPOIL.split()]
        )
    began = time.perf_counter()
    tune(folder, seed, "spoiled", "sums", "grpo", ["--config", "configs/grpo.py", *grpo])
    seconds = time.perf_counter() - began
    found = evaluations(folder / f"grpo-{seed}")
    names = ("reward", "reward_low", "reward_high", "examples")
    before, after = ({name: each[name] for name in names} for each in (found[0], found[-1]))
    return {"before": before, "after": after, "seconds": round(seconds, 1)}


def tune(folder: Path, seed: int, before: str, data: str, after: str, more: list[str]) -> None:
    """Make the run `after` of a seed, which begins with its run `before`."""
    run_dir = folder / f"{after}-{seed}"
    shutil.rmtree(run_dir, ignore_errors=True)
    finetune(
        ["--checkpoint", str(folder / f"{before}-{seed}"), "--data", str(folder / f"{data}.jsonl"),
         "--run-dir", str(run_dir), "--seed", str(seed), *more]
    )  # fmt: skip


def evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """Return the figures of each evaluation of a run, with its step."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
    return [{"step": each["step"], **each["eval"]} for each in records if "eval" in each]


def make_base(folder: Path, base: Path, seed: int) -> None:
    """Train a model of characters on sums of three-digit numbers as plain text, for a moment."""
    if (base / "report.html").exists():
        return
    data, longer = folder / "dataset", folder / "longer.jsonl"
    if not data.exists():
        number_examples(["--output", str(longer), "--digits", "3"])
        rows = [json.loads(line) for line in longer.open()]
        text = "".join(f"{row['prompt']}={row['completion']}\n" for row in rows)
        (folder / "sums.txt").write_text(text)
        build_dataset(
            ["--config", "configs/dataset_char.py", "--input", str(folder / "sums.txt"),
             "--output", str(data), "--executor.kind", "serial"]
        )  # fmt: skip
    train(
        ["--config", "configs/quickstart.py", "--data", str(data), "--run-dir", str(base),
         "--seed", str(seed), *BASE.split()]
    )  # fmt: skip


if __name__ == "__main__":
    main()
