"""How many tokens a modern recipe needs to reach what a classic one reaches, on any dataset.

    python -m tests.soak.learning_speed --data data/small --folder SPEED

Tunes the peak rate of both (seed 0, the same number of rates), trains the classic with three seeds,
then the modern with its schedule pressed into fewer tokens until it is no better; prints the share
of tokens at which both end with the same validation loss, and writes it with all losses to
FOLDER/learning_speed.json and as a figure to FOLDER/learning_speed.svg.
Runs that have ended are not made again: the same command goes on.
"""

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxgpt.benchmarks.recipes.race import Recipe, mean_loss, race, share_at, tune
from jaxgpt.benchmarks.recipes.runs import Runs
from jaxgpt.config import load_config
from jaxgpt.reports.plots import Line, line_chart, running_mean
from jaxgpt.runs.config import TrainConfig

LADDER = (0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.32, 0.4, 0.5, 0.6, 0.75, 1.0)
# Steps whose losses are averaged for the figure.
_WINDOW = 40
RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--classic", default="configs/small_classic.py")
    parser.add_argument("--modern", default="configs/small_modern.py")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--first-share", type=float, choices=LADDER, default=0.6)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--at-a-time", type=int, default=1)
    options = parser.parse_args()
    runs = Runs(folder=options.folder, data=options.data, at_a_time=options.at_a_time)
    figures = compare(runs, options)
    text = json.dumps(figures, indent=1)
    (options.folder / "learning_speed.json").write_text(text)
    (options.folder / "learning_speed.svg").write_text(draw(options.folder, figures))
    print(text)


def compare(runs: Runs, options: argparse.Namespace) -> dict[str, Any]:
    """Make all runs; return the figures."""
    classic, modern = (
        Recipe(name=Path(path).stem, config=load_config(path, TrainConfig))
        for path in (options.classic, options.modern)
    )
    # The modern recipe is tuned at the length at which it is first held against the classic.
    classic_tuning = tune(runs.make_all, classic, options.rates, 1.0)
    modern_tuning = tune(runs.make_all, modern, options.rates, options.first_share)
    reached = runs.make_all(
        [classic.trial(classic_tuning.best, 1.0, seed) for seed in options.seeds]
    )
    target = mean_loss(reached)
    shares = race(
        runs.make_all, modern, modern_tuning.best, target, LADDER, options.first_share,
        options.seeds,
    )  # fmt: skip
    by_seed = [
        share_at({share: those[place].loss for share, those in shares.items()}, reached[place].loss)
        for place in range(len(options.seeds))
    ]
    return {
        "share": share_at({share: mean_loss(those) for share, those in shares.items()}, target),
        "share_by_seed": by_seed,
        "target": target,
        "target_spread": statistics.stdev([run.loss for run in reached]) if len(reached) > 1 else 0,
        "classic": [asdict(run) | {"curve": None} for run in reached],
        "modern": {
            str(share): [asdict(run) | {"curve": None} for run in those]
            for share, those in shares.items()
        },
        "tuning": {
            recipe.name: {f"{rate:g}": loss for rate, loss in sorted(tuning.losses.items())}
            for recipe, tuning in ((classic, classic_tuning), (modern, modern_tuning))
        },
    }


def draw(folder: Path, figures: dict[str, Any]) -> str:
    """SVG: training losses of seed 0, and the validation loss that each schedule ends with."""
    lines = []
    longest = figures["modern"][max(figures["modern"], key=float)]
    for label, run in (("classic", figures["classic"][0]), ("modern", longest[0])):
        kept = json.loads((folder / "outcomes" / f"{run['name']}.json").read_text())
        tokens, losses = zip(*kept["outcome"]["curve"], strict=True)
        # A mean of fewer values, at both ends, would show their noise.
        mean = slice(_WINDOW // 2, -_WINDOW // 2)
        smooth = running_mean(losses, _WINDOW)
        lines.append(Line(name=f"{label}, while it trains", x=tokens[mean], y=smooth[mean]))
    ends = sorted(
        (runs[0]["num_tokens"], statistics.fmean(run["loss"] for run in runs))
        for runs in figures["modern"].values()
    )
    tokens, losses = zip(*ends, strict=True)
    lines.append(Line(name="modern, validation at the end", x=tokens, y=losses, marked=True))
    return line_chart(
        lines,
        x_label="tokens",
        y_label="nats per token",
        levels={"classic, validation at the end": figures["target"]},
        y_top=6.9,
    )


if __name__ == "__main__":
    main()
