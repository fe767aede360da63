"""What a run has come to: what happened in it, where its time went, whether two are alike."""

import collections
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from jaxgpt.training.metrics import read_records
from tests.soak.supervised import Outcome
from tests.tiny import REPOSITORY, environment, run_verb

# What `jaxgpt supervise` itself takes to start, and processes to end, is in no account.
_STARTING_SECONDS = 2.0


def events(run_dir: Path, *names: str) -> list[dict]:
    """Return the events of a run of these names, or all."""
    found = read_records(run_dir / "events.jsonl")
    return [event for event in found if not names or event["event"] in names]


def describe(outcome: Outcome) -> None:
    """Print how a run went."""
    run_dir = outcome.run_dir
    restarts = " and ".join(map(str, outcome.restarts))
    print(f"{run_dir.name}: {restarts} restarts, {outcome.seconds:.0f} s", flush=True)
    names = collections.Counter(event["event"] for event in events(run_dir))
    print(f"events that were not undone: {dict(names)}")
    aside = sorted(path.name for path in (run_dir / "checkpoints").glob("damaged-*"))
    print(f"set aside: {', '.join(aside) or 'nothing'}")
    seconds = json.loads((run_dir / "goodput.json").read_text())["seconds"]
    total = sum(seconds.values())
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if value >= 0.05)
    print(f"time: {parts}; {total:.1f} s in all; goodput {seconds['step'] / total:.1%}")


def is_accounted(outcome: Outcome) -> bool:
    """Whether a run's account is the time by the clock, but for 1% and how long commands start."""
    account = json.loads((outcome.run_dir / "goodput.json").read_text())["seconds"]
    missing = outcome.seconds - sum(account.values())
    return abs(missing) <= max(_STARTING_SECONDS, 0.01 * outcome.seconds)


def are_alike(calm: Path, calm_step: int, stormy: Path, stormy_step: int) -> bool:
    """Whether the parameters of two checkpoints are equal to the bit; prints both losses."""
    files = []
    for run_dir, step in ((calm, calm_step), (stormy, stormy_step)):
        out = run_dir.with_name(f"{run_dir.name}-{step}.npz")
        cache = run_dir.parent / "cache"
        subprocess.run(
            [sys.executable, "-c", _DUMP, str(run_dir), str(step), str(out)],
            cwd=REPOSITORY, env=environment(cache), check=True,
        )  # fmt: skip
        files.append(np.load(out))
        arguments = ["--checkpoint", str(run_dir), "--step", str(step), "--json"]
        result = run_verb("eval", *arguments, cache=cache)
        print(f"{run_dir.name}, step {step}: loss {json.loads(result.stdout)['loss']:.6f}")
    one, other = files
    different = [name for name in one.files if one[name].tobytes() != other[name].tobytes()]
    print(f"{len(one.files)} parameter arrays, {len(different)} different", flush=True)
    return not different and one.files == other.files


_DUMP = """
import sys
import jax, numpy as np
from jaxgpt.runs.run import open_run
from jaxgpt.parallel.mesh import single_device_mesh
run = open_run(sys.argv[1])
params = run.restore_params(int(sys.argv[2]), single_device_mesh())
leaves = jax.tree_util.tree_flatten_with_path(params)[0]
np.savez(sys.argv[3], **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
"""
