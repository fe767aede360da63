"""A race of recipes: rates tuned as far as need be, shares halved, equal losses found between."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.benchmarks.recipes.race import Recipe, mean_loss, race, share_at, tune
from jaxgpt.benchmarks.recipes.runs import Runs, Trial, TrialResult
from jaxgpt.config import load_config, replace, to_dict
from jaxgpt.errors import JaxgptError, MismatchError
from jaxgpt.runs.config import TrainConfig
from tests.tiny import CONFIG, REPOSITORY, make_dataset
from tests.xla_flags import with_devices

LADDER = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
RECIPE = Recipe(
    name="modern", config=load_config(REPOSITORY / "configs" / "small_modern.py", TrainConfig)
)
STEPS = RECIPE.config.schedule.num_steps


def _made_by(loss: Callable[[float, float, int], float], made: list[Trial]):
    """Runs whose loss is a function of (rate, share of the steps, seed)."""

    def make_all(trials):
        made.extend(trials)
        return [
            TrialResult(
                name=trial.name,
                loss=loss(
                    trial.config.schedule.peak_learning_rate,
                    trial.config.schedule.num_steps / STEPS,
                    trial.config.seed,
                ),
                num_tokens=trial.num_tokens,
                num_validation_tokens=1,
                curve=[],
            )
            for trial in trials
        ]

    return make_all


@given(st.floats(2e-4, 0.1))
def test_tuning_finds_the_best_rate_and_one_beside_it_on_each_side(best: float) -> None:
    made: list[Trial] = []
    make_all = _made_by(lambda rate, share, seed: abs(math.log(rate / best)), made)
    tuning = tune(make_all, RECIPE, [1e-3, 2e-3, 4e-3, 8e-3], 0.5, max_rates=12)
    assert tuning.inside
    assert abs(math.log2(tuning.best / best)) <= 0.5 + 1e-9
    assert len({trial.name for trial in made}) == len(made)
    assert all(trial.config.seed == 0 for trial in made)


def test_tuning_ends_at_its_budget() -> None:
    made: list[Trial] = []
    tuning = tune(_made_by(lambda rate, share, seed: -rate, made), RECIPE, [1e-3, 2e-3], 1.0, 5)
    assert len(made) == 5
    assert not tuning.inside
    assert tuning.best == pytest.approx(16e-3)


def test_a_run_that_diverged_is_never_the_best() -> None:
    made: list[Trial] = []
    make_all = _made_by(lambda rate, share, seed: math.inf if rate > 3e-3 else 5 - rate, made)
    assert tune(make_all, RECIPE, [1e-3, 2e-3, 4e-3], 1.0).best == 2e-3


@given(st.floats(0.11, 0.99), st.sampled_from(LADDER))
def test_a_race_encloses_the_share_at_which_the_target_is_reached(answer, first) -> None:
    made: list[Trial] = []
    make_all = _made_by(lambda rate, share, seed: 5 - math.log(share) + 0.01 * seed, made)
    target = 5 - math.log(answer) + 0.01
    found = race(make_all, RECIPE, 1e-3, target, LADDER, first, (0, 1, 2))
    means = {share: mean_loss(outcomes) for share, outcomes in found.items()}
    # Steps are whole numbers.
    assert share_at(means, target) == pytest.approx(answer, abs=2 / STEPS)
    assert len(made) == 3 * len(found) <= 3 * 4


def test_a_target_outside_of_the_ladder_is_said_to_be_nowhere() -> None:
    for level in (1.0, 9.0):
        make_all = _made_by(lambda rate, share, seed, level=level: level - share, [])
        found = race(make_all, RECIPE, 1e-3, 5.0, LADDER, 0.5, (0,))
        assert math.isnan(share_at({s: mean_loss(runs) for s, runs in found.items()}, 5.0))


def _tiny(folder: Path, seed: int) -> Trial:
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(datasets="()", num_steps=4, save_every=4))
    return Trial(name=f"tiny-{seed}", config=replace(load_config(path, TrainConfig), seed=seed))


@pytest.mark.slow
def test_runs_are_made_once_and_kept_under_their_name(tmp_path, monkeypatch) -> None:
    data = make_dataset(tmp_path / "data")
    runs = Runs(folder=tmp_path / "runs", data=data, at_a_time=2)
    # The tests' eight devices would be those of two processes.
    monkeypatch.setenv("XLA_FLAGS", with_devices(1))
    outcomes = runs.make_all([_tiny(tmp_path, seed) for seed in (0, 1)])
    assert outcomes[0].loss != outcomes[1].loss
    assert [len(outcome.curve) for outcome in outcomes] == [4, 4]
    assert outcomes[0].curve[-1][0] == outcomes[0].num_tokens == 4 * 8 * 16
    # Not by another process: there is none that could be started.
    monkeypatch.setattr("sys.executable", "/nonexistent")
    assert runs.make_all([_tiny(tmp_path, seed) for seed in (0, 1)]) == outcomes
    other = replace(_tiny(tmp_path, 5).config, seed=7)
    with pytest.raises(MismatchError, match="tiny-0"):
        runs.make(Trial(name="tiny-0", config=other))
    kept = json.loads((runs.folder / "outcomes" / "tiny-0.json").read_text())
    assert kept["outcome"]["loss"] == outcomes[0].loss


def test_an_outcome_that_an_older_version_kept_is_not_made_again(tmp_path) -> None:
    trial, runs = _tiny(tmp_path, 0), Runs(folder=tmp_path, data=tmp_path / "no-such-data")
    outcome = TrialResult(name="tiny-0", loss=1.0, num_tokens=2, num_validation_tokens=3, curve=[])
    config = to_dict(runs._complete(trial.config))
    config["model"]["type"] = "jaxgpt.model.gpt:GptConfig"
    path = tmp_path / "outcomes" / "tiny-0.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"config": config, "outcome": asdict(outcome)}))
    assert runs.make(trial) == outcome


def test_a_run_that_fails_says_where_its_words_are(tmp_path) -> None:
    runs = Runs(folder=tmp_path / "runs", data=tmp_path / "no-such-data")
    with pytest.raises(JaxgptError, match=r"tiny-0 ended with 2; see .*tiny-0\.log"):
        runs.make(_tiny(tmp_path, 0))
