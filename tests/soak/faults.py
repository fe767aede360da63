"""Soak: a run through 30 random faults ends, bit for bit, where a calm run ends.

    python -m tests.soak.faults [--seed N] [--num-faults N] [--folder DIR] [--soak first|second]

First soak, under `jaxgpt supervise`: kills at a step and at any moment, SIGTERM, hangs of the data,
failing reads, flipped bits in the newest checkpoint, a full disk. Its final parameters are compared
with those of a calm run. Second soak: NaN batches, NaN gradients, losses 50 times as large, and
kills between; compared with a calm run whose data never had those batches. Some minutes; exits with
1 if anything differs.
"""

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxgpt.training.metrics import read_records
from tests.tiny import REPOSITORY, environment, make_dataset, run_verb

NUM_STEPS, SAVE_EVERY = 200, 5
INTERRUPTIONS = ("kill", "kill_soon", "term", "hang", "error", "rot", "disk")
BAD_BATCHES = ("nan", "nan_gradient", "spike")
_CONFIG = """
from jaxgpt.checkpoints.manager import CheckpointConfig
from jaxgpt.data.loader import BatchConfig, DataConfig, WeightedDataset
from jaxgpt.experiment import EvaluationConfig, TrainConfig
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers import Dropout
from jaxgpt.training.metrics import LoggingConfig
from jaxgpt.training.optimizer import AdamW
from jaxgpt.training.recovery import SkipSpikes
from jaxgpt.training.schedule import Cosine
from jaxgpt.training.watchdog import WatchdogConfig

config = TrainConfig(
    model=GptConfig(num_layers=2, d_model=48, dropout=Dropout(residual={dropout})),
    data=DataConfig(datasets=(WeightedDataset(path={data!r}),)),
    batch=BatchConfig(sequence_length=32, global_batch_size=8),
    schedule=Cosine(num_steps={num_steps}, peak_learning_rate=3e-3, warmup_share=0.1),
    optimizer=AdamW(),
    recovery=SkipSpikes(window=32, min_steps=16),
    evaluation=EvaluationConfig(every_steps=40, max_tokens=4000),
    checkpoint=CheckpointConfig(every_steps={save_every}, keep_latest=3, keep_best=0),
    logging=LoggingConfig(every_steps=1, tensorboard=False, progress_seconds=60.0),
    watchdog=WatchdogConfig(least_seconds=10.0),
)
"""


def main() -> int:
    """Run both soaks and print what happened."""
    parser = argparse.ArgumentParser(description="30 random faults in one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-faults", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--soak", choices=("first", "second"), default=None, help="both if omitted")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="jaxgpt-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    if not data.exists():
        make_dataset(data, num_documents=400)
    print(f"folder {folder}, seed {options.seed}", flush=True)
    soaks = {"first": _interruptions, "second": _bad_batches}
    same = [
        soak(folder, data, random.Random(options.seed), options.num_faults)
        for name, soak in soaks.items()
        if options.soak in (None, name)
    ]
    return 0 if all(same) else 1


def _interruptions(folder: Path, data: Path, rng: random.Random, num_faults: int) -> bool:
    places = rng.sample(range(SAVE_EVERY + 1, NUM_STEPS - 1), num_faults)
    kinds = [INTERRUPTIONS[number % len(INTERRUPTIONS)] for number in range(num_faults)]
    rng.shuffle(kinds)
    faults = dict(zip(places, kinds, strict=True))
    config = _write_config(folder / "dropout.py", data, dropout=0.1)
    calm, stormy = folder / "calm", folder / "stormy"
    _train(config, calm, {}, [])
    _train(config, stormy, faults, [])
    print(f"faults: {dict(collections.Counter(kinds))}")
    _describe(stormy)
    return _compare(calm, NUM_STEPS, stormy, NUM_STEPS)


def _bad_batches(folder: Path, data: Path, rng: random.Random, num_faults: int) -> bool:
    bad = sorted(rng.sample(range(20, NUM_STEPS - 1), num_faults))
    faults = {place: BAD_BATCHES[number % len(BAD_BATCHES)] for number, place in enumerate(bad)}
    good = [place for place in range(20, NUM_STEPS - 1) if place not in faults]
    kills = dict.fromkeys(rng.sample(good, 3), "kill")
    updates = NUM_STEPS - num_faults
    # Without dropout: its masks follow the step, and the calm run counts fewer of them.
    stormy_config = _write_config(folder / "bad.py", data, dropout=0.0)
    calm_config = _write_config(folder / "without.py", data, dropout=0.0, save_every=updates)
    calm, stormy = folder / "calm-without", folder / "stormy-bad"
    _train(calm_config, calm, {}, bad)
    _train(stormy_config, stormy, faults | kills, [])
    print(f"bad batches: {dict(collections.Counter(faults.values()))}, and 3 kills")
    _describe(stormy)
    return _compare_skips(calm, stormy, bad) and _compare(calm, updates, stormy, NUM_STEPS)


def _compare_skips(calm: Path, stormy: Path, bad: list[int]) -> bool:
    """Whether every bad batch was skipped, and else only what the calm run has skipped as well."""
    good = [index for index in range(NUM_STEPS) if index not in bad]
    calm_skips = [event["batch"] for event in _events(calm) if event["event"] == "skip"]
    also = {good[index] for index in calm_skips if index < len(good)}
    skipped = {event["batch"] for event in _events(stormy) if event["event"] == "skip"}
    print(f"skipped: all bad batches: {set(bad) <= skipped}; others: {sorted(skipped - set(bad))}")
    return skipped == set(bad) | also


def _write_config(path: Path, data: Path, dropout: float, save_every: int = SAVE_EVERY) -> Path:
    path.write_text(
        _CONFIG.format(data=str(data), dropout=dropout, num_steps=NUM_STEPS, save_every=save_every)
    )
    return path


def _train(config: Path, run_dir: Path, faults: dict[int, str], leave_out: list[int]) -> None:
    plan = run_dir.with_name(f"{run_dir.name}-faults.json")
    plan.write_text(json.dumps({"faults": faults, "leave_out": leave_out}))
    log = run_dir.with_name(f"{run_dir.name}.log")
    began = time.monotonic()
    with open(log, "w") as file:
        code = subprocess.run(
            [
                sys.executable, "-m", "jaxgpt.supervise", "--run-dir", str(run_dir),
                "--first-wait-seconds", "0.1", "--also", "1", "--max-restarts", "8", "--",
                sys.executable, str(Path(__file__).with_name("faulty_run.py")),
                "--config", str(config), "--run-dir", str(run_dir), "--faults", str(plan),
            ],
            cwd=REPOSITORY,
            env={
                **environment(run_dir.parent / "cache"),
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
            },
            stderr=file,
        ).returncode  # fmt: skip
    seconds = time.monotonic() - began
    restarts = log.read_text().count("; again in")
    print(f"{run_dir.name}: exit code {code}, {restarts} restarts, {seconds:.0f} s", flush=True)
    if code != 0:
        raise SystemExit(f"{run_dir.name} did not finish; see {log}")


def _events(run_dir: Path) -> list[dict]:
    return read_records(run_dir / "events.jsonl")


def _describe(run_dir: Path) -> None:
    names = collections.Counter(event["event"] for event in _events(run_dir))
    print(f"events that were not undone: {dict(names)}")
    aside = sorted(path.name for path in (run_dir / "checkpoints").glob("damaged-*"))
    print(f"set aside: {', '.join(aside) or 'nothing'}")
    seconds = json.loads((run_dir / "goodput.json").read_text())["seconds"]
    total = sum(seconds.values())
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if value >= 0.05)
    print(f"time: {parts}; {total:.1f} s in all; goodput {seconds['step'] / total:.1%}")


def _compare(calm: Path, calm_step: int, stormy: Path, stormy_step: int) -> bool:
    """Whether the parameters of two checkpoints are equal to the bit; prints both losses."""
    files = []
    for run_dir, step in ((calm, calm_step), (stormy, stormy_step)):
        out = run_dir.with_name(f"{run_dir.name}-{step}.npz")
        subprocess.run(
            [sys.executable, "-c", _DUMP, str(run_dir), str(step), str(out)],
            cwd=REPOSITORY, env=environment(run_dir.parent / "cache"), check=True,
        )  # fmt: skip
        files.append(np.load(out))
        result = run_verb(
            "eval", "--checkpoint", str(run_dir), "--step", str(step), "--json",
            cache=run_dir.parent / "cache",
        )  # fmt: skip
        print(f"{run_dir.name}, step {step}: loss {json.loads(result.stdout)['loss']:.6f}")
    one, other = files
    different = [name for name in one.files if one[name].tobytes() != other[name].tobytes()]
    print(f"{len(one.files)} parameter arrays, {len(different)} different", flush=True)
    return not different and one.files == other.files


_DUMP = """
import sys
import jax, numpy as np
from jaxgpt.experiment import open_run
from jaxgpt.parallel.mesh import single_device_mesh
run = open_run(sys.argv[1])
params = run.restore_params(int(sys.argv[2]), single_device_mesh())
leaves = jax.tree_util.tree_flatten_with_path(params)[0]
np.savez(sys.argv[3], **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
"""


if __name__ == "__main__":
    sys.exit(main())
