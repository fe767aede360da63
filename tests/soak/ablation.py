"""What each element of the modern recipe is worth: the recipe without it, the same tokens, by seed.

    python -m tests.soak.ablation --data data/small --folder SPEED --rate 6e-3 --share 0.25

Elements come in the order in which they are expected to matter, so that a run cut short has the
first. AdamW in Muon's place gets a peak rate of its own, the best of three. Writes
FOLDER/ablation.json after each element. Runs that have ended are not made again.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

from jaxgpt.benchmarks.recipes.race import Recipe, mean_loss, tune
from jaxgpt.benchmarks.recipes.runs import Runs, TrialResult
from jaxgpt.config import load_config, replace
from jaxgpt.model.layers.feed_forward import Gelu
from jaxgpt.model.layers.positions import Learned
from jaxgpt.model.layers.projection import Initialization
from jaxgpt.runs.config import TrainConfig
from jaxgpt.training.optimizer import AdamW
from jaxgpt.training.schedule import Cosine

Change = Callable[[TrainConfig], TrainConfig]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--modern", default="configs/small_modern.py")
    parser.add_argument("--rate", type=float, required=True, help="the modern recipe's best")
    parser.add_argument("--share", type=float, default=1.0, help="of the config's steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--at-a-time", type=int, default=1)
    options = parser.parse_args()
    runs = Runs(folder=options.folder, data=options.data, at_a_time=options.at_a_time)
    config = load_config(options.modern, TrainConfig)
    name = Path(options.modern).stem
    whole = _by_seed(runs, Recipe(name=name, config=config), options.rate, options)
    table = {"all of it": _row(options.rate, whole, whole)}
    for element, change in ELEMENTS.items():
        recipe = Recipe(name=f"{name}-{element.replace(' ', '-')}", config=change(config))
        rate = options.rate
        if element == "AdamW for Muon":
            rate = tune(runs.make_all, recipe, [rate / 2, rate], options.share, 3).best
        table[element] = _row(rate, _by_seed(runs, recipe, rate, options), whole)
        text = json.dumps(table, indent=1)
        (options.folder / "ablation.json").write_text(text)
        print(element, table[element], flush=True)


def _by_seed(
    runs: Runs, recipe: Recipe, rate: float, options: argparse.Namespace
) -> list[TrialResult]:
    return runs.make_all([recipe.trial(rate, options.share, seed) for seed in options.seeds])


def _row(rate: float, without: list[TrialResult], whole: list[TrialResult]) -> dict[str, object]:
    """Losses, and how much is lost: mean and standard deviation over seeds, each beside its own."""
    lost = [one.loss - other.loss for one, other in zip(without, whole, strict=True)]
    return {
        "rate": rate,
        "losses": [result.loss for result in without],
        "mean": mean_loss(without),
        "lost": statistics.fmean(lost),
        "lost_spread": statistics.stdev(lost) if len(lost) > 1 else 0.0,
    }


def _model(config: TrainConfig, **changes) -> TrainConfig:
    return replace(config, model=replace(config.model, **changes))


def _head(config: TrainConfig, **changes) -> TrainConfig:
    return _model(config, head=replace(config.model.head, **changes))


def _cosine(config: TrainConfig) -> TrainConfig:
    schedule = config.schedule
    return replace(
        config,
        schedule=Cosine(
            num_steps=schedule.num_steps,
            peak_learning_rate=schedule.peak_learning_rate,
            warmup_share=0.05,
            final_share=0.1,
        ),
    )


def _first_weights(config: TrainConfig) -> TrainConfig:
    return _model(_head(config, zero_init=False), initialization=Initialization())


ELEMENTS: dict[str, Change] = {
    "AdamW for Muon": lambda config: replace(config, optimizer=AdamW()),
    "queries and keys as they are": lambda config: _model(
        config, attention=replace(config.model.attention, qk_norm=None)
    ),
    "a tied head": lambda config: _head(config, tied=True, zero_init=False),
    "a cosine to a tenth": _cosine,
    "GELU": lambda config: _model(config, feed_forward=Gelu()),
    "outputs not from zero": _first_weights,
    "logits not capped": lambda config: _head(config, soft_cap=None),
    "learned positions": lambda config: _model(
        config, position=Learned(max_length=config.batch.sequence_length)
    ),
}

if __name__ == "__main__":
    main()
