"""Soak: a run through 30 random faults ends, bit for bit, where a calm run ends.

    python -m tests.soak.faults [--seed N] [--num-faults N] [--folder DIR] [--soak first|second]

First soak, on two hosts, each under `jaxgpt supervise`: kills at a step, at any moment, and of the
other host; SIGTERM, hangs of the data, failing reads, a stopped host, flipped bits in the newest
checkpoint, a full disk; each at a host chosen at random. Its final parameters are compared with
those of a calm run of two hosts. Second soak, on one: NaN batches, NaN gradients, losses 50 times
as large, and kills between; compared with a calm run whose data never had those batches. Some
minutes; exits with 1 if anything differs.
"""

import argparse
import collections
import random
import sys
import tempfile
from pathlib import Path

from tests.soak.outcomes import are_alike, describe, events, is_accounted
from tests.soak.supervised import run_to_the_end
from tests.tiny import make_dataset

NUM_STEPS, SAVE_EVERY = 200, 5
INTERRUPTIONS = (
    "kill", "kill_soon", "term", "hang", "error", "rot", "disk", "peer", "stop"
)  # fmt: skip
BAD_BATCHES = ("nan", "nan_gradient", "spike")
_CONFIG = """
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.data.loader import BatchConfig, DataConfig, WeightedDataset
from jaxgpt.runs.config import EvaluationConfig, TrainConfig
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.projection import Dropout
from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.training.metrics import LoggingConfig
from jaxgpt.training.optimizer import AdamW
from jaxgpt.training.recovery import SkipSpikes
from jaxgpt.training.schedule import Cosine
from jaxgpt.training.watchdog import WatchdogConfig

config = TrainConfig(
    model=GptConfig(num_layers=2, d_model=48, dropout=Dropout(residual={dropout})),
    data=DataConfig(datasets=(WeightedDataset(path={data!r}),)),
    batch=BatchConfig(sequence_length=32, global_batch_size=8),
    mesh=MeshConfig(data=1, fsdp=-1),
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
    plans: tuple[dict[int, str], dict[int, str]] = ({}, {})
    for place, kind in zip(places, kinds, strict=True):
        rng.choice(plans)[place] = kind
    config = _write_config(folder / "dropout.py", data, dropout=0.1)
    describe(calm := run_to_the_end(config, folder / "calm", ({}, {})))
    stormy = run_to_the_end(config, folder / "stormy", plans)
    for host, plan in enumerate(plans):
        print(f"faults at host {host}: {dict(collections.Counter(plan.values()))}")
    describe(stormy)
    accounted = is_accounted(stormy)
    print(f"the account is the time by the clock: {accounted}")
    return are_alike(calm.run_dir, NUM_STEPS, stormy.run_dir, NUM_STEPS) and accounted


def _bad_batches(folder: Path, data: Path, rng: random.Random, num_faults: int) -> bool:
    bad = sorted(rng.sample(range(20, NUM_STEPS - 1), num_faults))
    faults = {place: BAD_BATCHES[number % len(BAD_BATCHES)] for number, place in enumerate(bad)}
    good = [place for place in range(20, NUM_STEPS - 1) if place not in faults]
    kills = dict.fromkeys(rng.sample(good, 3), "kill")
    updates = NUM_STEPS - num_faults
    # Without dropout: its masks follow the step, and the calm run counts fewer of them.
    stormy_config = _write_config(folder / "bad.py", data, dropout=0.0)
    calm_config = _write_config(folder / "without.py", data, dropout=0.0, save_every=updates)
    calm = run_to_the_end(calm_config, folder / "calm-without", leave_out=bad)
    stormy = run_to_the_end(stormy_config, folder / "stormy-bad", (faults | kills,))
    print(f"bad batches: {dict(collections.Counter(faults.values()))}, and 3 kills")
    describe(stormy)
    skips = _compare_skips(calm.run_dir, stormy.run_dir, bad)
    return skips and are_alike(calm.run_dir, updates, stormy.run_dir, NUM_STEPS)


def _compare_skips(calm: Path, stormy: Path, bad: list[int]) -> bool:
    """Whether every bad batch was skipped, and else only what the calm run has skipped as well."""
    good = [index for index in range(NUM_STEPS) if index not in bad]
    calm_skips = [event["batch"] for event in events(calm, "skip")]
    also = {good[index] for index in calm_skips if index < len(good)}
    skipped = {event["batch"] for event in events(stormy, "skip")}
    print(f"skipped: all bad batches: {set(bad) <= skipped}; others: {sorted(skipped - set(bad))}")
    return skipped == set(bad) | also


def _write_config(path: Path, data: Path, dropout: float, save_every: int = SAVE_EVERY) -> Path:
    path.write_text(
        _CONFIG.format(data=str(data), dropout=dropout, num_steps=NUM_STEPS, save_every=save_every)
    )
    return path


if __name__ == "__main__":
    sys.exit(main())
