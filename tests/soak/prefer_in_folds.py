"""DPO on pairs in folds: does a model rank answers as people do that it has not learned from?

    python -m tests.soak.prefer_in_folds --pairs FILE --sft RUN --folder FOLDS [--folds 0 1] [...]

The pairs are divided into three folds, those of one conversation into one of them. For each fold
configs/dpo.py trains the model of RUN on the others; both models then rank the fold's pairs, as
`jaxgpt.eval --examples` does. Further options are options of configs/dpo.py. Prints, over all folds
together, the share of pairs whose preferred answer has the larger mean log-probability of a token
(token_mean_accuracy) or the larger sum (log_probability_accuracy), and the paired differences with
95% intervals, which draw whole conversations; and the same where the preferred answer is longer,
and where it is not.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.evaluation.runner.example_options import ExampleOptions
from jaxgpt.finetune import main as finetune
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.evaluation.evaluate import loaded_run
from jaxgpt.runs.run import open_run

NUM_FOLDS = 3
DPO = (
    "--config configs/dpo.py --data.held-out-share 0 --batch.sequence-length 512 "
    "--batch.global-batch-size 4 --num-epochs 2 --schedule.peak-learning-rate 2e-4 "
    "--objective.per-token True --objective.beta 5 --evaluation.prompts"
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--sft", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=tuple(range(NUM_FOLDS)))
    options, more = parser.parse_known_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in options.pairs.open()]
    folds = [fold_of(row) for row in rows]
    pairs = []
    for fold in options.folds:
        held_out = [row for row, each in zip(rows, folds, strict=True) if each == fold]
        rest = [row for row, each in zip(rows, folds, strict=True) if each != fold]
        pairs += rank_fold(options, fold, rest, held_out, more)
    (options.folder / "pairs.json").write_text(json.dumps(pairs))
    longer = [pair["num_tokens"][0] > pair["num_tokens"][1] for pair in pairs]
    report = {
        "preferred answer is longer": float(np.mean(longer)),
        "all": compare(pairs),
        "longer": compare(
            [pair for pair, is_longer in zip(pairs, longer, strict=True) if is_longer]
        ),
        "others": compare(
            [pair for pair, is_longer in zip(pairs, longer, strict=True) if not is_longer]
        ),
    }
    print(json.dumps(report, indent=1))


def conversation(row: dict[str, Any]) -> str:
    """Return the first message, by which a tree of conversations is told from others."""
    return row["prompt"][0]["content"]


def fold_of(row: dict[str, Any]) -> int:
    return hashlib.sha256(conversation(row).encode()).digest()[0] % NUM_FOLDS


def rank_fold(
    options: argparse.Namespace, fold: int, rest: list[Any], held_out: list[Any], more: list[str]
) -> list[dict[str, Any]]:
    """Train without a fold; return what both models say of each of its pairs."""
    folder: Path = options.folder
    train, test = (folder / f"{name}-{fold}.jsonl" for name in ("rest", "test"))
    run_dir = folder / f"run-{fold}"
    for file, part in ((train, rest), (test, held_out)):
        file.write_text("".join(json.dumps(row) + "\n" for row in part))
    finetune(
        ["--checkpoint", str(options.sft), "--data", str(train), "--run-dir", str(run_dir),
         *DPO.split(), *more]
    )  # fmt: skip
    run = open_run(run_dir)
    length = run.config.batch.sequence_length
    held, _ = run.config.open_held_out(str(test), "val", length, run.tokenizer, str(run_dir))
    mesh = single_device_mesh()
    found = []
    for each in (open_run(options.sft), run):
        with loaded_run(each, each.choose_step("latest"), mesh, length) as loaded:
            examples = ExampleOptions(examples=len(held_out))
            (result,) = run.config.score_examples(loaded, held, examples, 8, True)
            found.append(result.samples)
    return [
        {
            "conversation": conversation(row),
            "num_tokens": before["num_tokens"],
            "before": before["log_probabilities"],
            "after": after["log_probabilities"],
        }
        for row, before, after in zip(held_out, *found, strict=True)
    ]


def compare(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the accuracies before and after, and their difference with its interval."""
    lengths_E2 = np.array([pair["num_tokens"] for pair in pairs])
    _, groups_E = np.unique([pair["conversation"] for pair in pairs], return_inverse=True)
    report: dict[str, Any] = {"pairs": len(pairs), "conversations": int(groups_E.max()) + 1}
    for name, divisors_E2 in (
        ("token_mean_accuracy", lengths_E2),
        ("log_probability_accuracy", np.ones_like(lengths_E2)),
    ):
        before_E, after_E = (
            accuracies(np.array([pair[when] for pair in pairs]) / divisors_E2)
            for when in ("before", "after")
        )
        report[name] = {
            "before": float(before_E.mean()),
            "after": float(after_E.mean()),
            "difference": float((after_E - before_E).mean()),
            "interval": interval(after_E - before_E, groups_E),
        }
    return report


def accuracies(scores_E2: np.ndarray) -> np.ndarray:
    return (1 + np.sign(scores_E2[:, 0] - scores_E2[:, 1])) / 2


def interval(values_E: np.ndarray, groups_E: np.ndarray) -> list[float]:
    """Return a 95% bootstrap interval of the mean, of draws of whole groups."""
    sums_G, sizes_G = np.bincount(groups_E, values_E), np.bincount(groups_E)
    drawn_DG = np.random.default_rng(0).integers(0, len(sums_G), (10_000, len(sums_G)))
    means_D = sums_G[drawn_DG].sum(axis=1) / sizes_G[drawn_DG].sum(axis=1)
    return np.quantile(means_D, [0.025, 0.975]).tolist()


if __name__ == "__main__":
    main()
