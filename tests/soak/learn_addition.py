"""GRPO on sums of two-digit numbers: from a model that is right now and then to one that knows.

    python -m tests.soak.learn_addition --folder ADDITION [--seeds 0 1 2] [--objective Grpo] [...]

A tiny model of characters, which has read sums of three-digit numbers for a moment, is trained on
sums of two-digit ones by configs/sft.py. The first of its checkpoints with a
held-out target loss below LOSS answers some of them; from there configs/grpo.py does the rest by a
reward alone. Further options are options of it. Prints, for each seed, the share of held-out sums
that are right before and after, with 95% intervals, and the seconds of GRPO.
"""

import argparse
import json
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
    "--schedule.num-steps 600 --evaluation.every-steps 20 --checkpoint.every-steps 20 "
    "--checkpoint.keep-latest 30 --evaluation.prompts"
)
GRPO = (
    "--batch.sequence-length 16 --objective.max-answer-tokens 5 --num-epochs None "
    "--schedule.num-steps 400 --schedule.peak-learning-rate 5e-5 --evaluation.prompts"
)
# The model then answers a third of the sums or so.
LOSS = 0.55


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--objective", default="Grpo")
    options, more = parser.parse_known_args()
    options.more = more
    folder: Path = options.folder
    sums = folder / "sums.jsonl"
    number_examples(["--output", str(sums), "--num-examples", "8100"])
    results = {seed: learn(folder, sums, seed, options) for seed in options.seeds}
    print(json.dumps(results, indent=1))


def learn(folder: Path, sums: Path, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """Make the runs of a seed; return what held-out sums say before and after GRPO."""
    base, sft, grpo = (folder / f"{name}-{seed}" for name in ("base", "sft", options.objective))
    if not (sft / "report.html").exists():
        make_base(folder, base, seed)
        finetune(
            ["--config", "configs/sft.py", "--checkpoint", str(base), "--data", str(sums),
             "--run-dir", str(sft), "--seed", str(seed), *SFT.split()]
        )  # fmt: skip
    step = next(each["step"] for each in evaluations(sft) if each["loss"] < LOSS)
    shutil.rmtree(grpo, ignore_errors=True)
    began = time.perf_counter()
    finetune(
        ["--config", "configs/grpo.py", "--checkpoint", str(sft), "--step", str(step), "--data",
         str(sums), "--run-dir", str(grpo), "--seed", str(seed), "--objective", options.objective,
         *GRPO.split(), *options.more]
    )  # fmt: skip
    seconds = time.perf_counter() - began
    found = evaluations(grpo)
    names = ("reward", "reward_low", "reward_high", "examples")
    before, after = ({name: each[name] for name in names} for each in (found[0], found[-1]))
    return {"before": before, "after": after, "seconds": round(seconds, 1)}


def evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """Return the figures of each evaluation of a run, with its step."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
    return [{"step": each["step"], **each["eval"]} for each in records if "eval" in each]


def make_base(folder: Path, base: Path, seed: int) -> None:
    """Train a model of characters on sums of three-digit numbers as plain text, for a moment."""
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
