"""Training runs that are compared by the loss they end with: started as a user would, kept by name.

Each is a process of `jaxgpt.train`. What has ended is not done again, and what was interrupted goes
on from its last checkpoint, so that a comparison of many hours can be stopped at any time.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxgpt.config import replace, to_dict, to_json
from jaxgpt.data.loader import WeightedDataset
from jaxgpt.errors import DivergedError, JaxgptError, MismatchError
from jaxgpt.names.type_tags import with_current_tags
from jaxgpt.runs.config import TrainConfig
from jaxgpt.storage.durable import write_atomically
from jaxgpt.training.metrics import read_records


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A run to be made.

    Attributes:
        name: of its files; one name is one run.
        config: its own, with seed, rate and number of steps.
    """

    name: str
    config: TrainConfig

    @property
    def num_tokens(self) -> int:
        """Targets that it is trained on."""
        batch = self.config.batch
        return self.config.schedule.num_steps * batch.global_batch_size * batch.sequence_length


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Result of a run.

    Attributes:
        loss: nats per token over the whole validation split, after the last step; infinity if the
            run diverged.
        curve: training losses, [tokens, nats per token] each.
    """

    name: str
    loss: float
    num_tokens: int
    num_validation_tokens: int
    curve: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Makes runs and keeps their results.

    Attributes:
        folder: of all runs of a comparison.
        data: dataset folder that all are trained and measured on.
        at_a_time: runs side by side, each with its share of the processors. A small model
            keeps one thread busier than two.
    """

    folder: Path
    data: Path
    at_a_time: int = 1

    def make_all(self, trials: Sequence[Trial]) -> list[TrialResult]:
        """Make what has not been made yet; return the results in the order of `trials`."""
        with ThreadPoolExecutor(self.at_a_time) as pool:
            return list(pool.map(self.make, trials))

    def make(self, trial: Trial) -> TrialResult:
        """Make a run, or read what it came to.

        Raises:
            MismatchError: another run has this name.
            JaxgptError: the run failed otherwise than by diverging.
        """
        config = self._complete(trial.config)
        path = self.folder / "outcomes" / f"{trial.name}.json"
        if path.exists():
            kept = json.loads(path.read_text("utf-8"))
            if with_current_tags(kept["config"]) != to_dict(config):
                raise MismatchError(
                    f"{path} holds a run of another config than that of {trial.name}; choose "
                    "another folder"
                )
            return TrialResult(**kept["outcome"])
        result = self._train(trial, config)
        record = {"config": to_dict(config), "outcome": asdict(result)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(record).encode())
        print(f"{trial.name}: {result.loss:.4f}", file=sys.stderr, flush=True)
        return result

    def _complete(self, config: TrainConfig) -> TrainConfig:
        """Complete the config: evaluate once, at the end, on the whole validation split."""
        steps = config.schedule.num_steps
        return replace(
            config,
            data=replace(config.data, datasets=(WeightedDataset(path=str(self.data)),)),
            evaluation=replace(config.evaluation, every_steps=steps, max_tokens=None, prompts=()),
            checkpoint=replace(config.checkpoint, every_steps=max(1, steps // 5)),
            logging=replace(config.logging, every_steps=1, tensorboard=False),
        )

    def _train(self, trial: Trial, config: TrainConfig) -> TrialResult:
        run_dir = self.folder / "runs" / trial.name
        configs = self.folder / "configs"
        configs.mkdir(parents=True, exist_ok=True)
        (configs / f"{trial.name}.json").write_text(to_json(config), "utf-8")
        with (configs / f"{trial.name}.log").open("wb") as log:
            code = subprocess.run(
                [
                    *(sys.executable, "-m", "jaxgpt.train"),
                    *("--config", str(configs / f"{trial.name}.json"), "--run-dir", str(run_dir)),
                ],
                env=os.environ | self._share_of_processors(),
                stdout=log,
                stderr=log,
            ).returncode
        if code not in (0, DivergedError.exit_code):
            raise JaxgptError(f"{trial.name} ended with {code}; see {log.name}")
        records = read_records(run_dir / "metrics.jsonl")
        tokens = trial.num_tokens // config.schedule.num_steps
        final = _final_evaluation(records, config.schedule.num_steps) if code == 0 else {}
        return TrialResult(
            name=trial.name,
            loss=final.get("loss", math.inf),
            num_tokens=trial.num_tokens,
            num_validation_tokens=int(final.get("tokens", 0)),
            curve=[
                [record["step"] * tokens, record["loss"]] for record in records if "loss" in record
            ],
        )

    def _share_of_processors(self) -> dict[str, str]:
        # XLA's own name for the number of threads of a CPU client.
        return {"NPROC": str(max(1, len(os.sched_getaffinity(0)) // self.at_a_time))}


def _final_evaluation(records: Sequence[dict[str, Any]], num_steps: int) -> dict[str, float]:
    return next(
        record["eval"] for record in records if "eval" in record and record["step"] == num_steps
    )
