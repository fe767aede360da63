"""Count the updates of undisturbed runs that the default guard would skip.

    python -m jaxgpt.train ... --run-dir R --recovery NoSkipping --logging.every-steps 1
    python -m tests.soak.healthy_skips R ...

A run with `NoSkipping` does not depend on the guard: its losses and norms can be judged afterwards.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.training.metrics import read_records
from jaxgpt.training.recovery import SkipSpikes


def skipped_steps(values: np.ndarray, guard: SkipSpikes) -> list[int]:
    """Return the steps, from 1, that would be skipped; `values` is [steps, (loss, norm)]."""

    def judge(memory, step_and_value):
        step, value_2 = step_and_value
        _, memory, skips = guard.judge(memory, step, value_2[0], value_2[1])
        return memory, skips.now

    inputs = jnp.arange(len(values)), jnp.asarray(values, jnp.float32)
    _, skipped = jax.jit(lambda memory: jax.lax.scan(judge, memory, inputs))(guard.init())
    return [int(step) + 1 for step in np.flatnonzero(skipped)]


def main(run_dirs: list[str]) -> None:
    """Print one JSON object a run."""
    for run_dir in run_dirs:
        records = [r for r in read_records(Path(run_dir) / "metrics.jsonl") if "grad_norm" in r]
        values = np.array([(record["loss"], record["grad_norm"]) for record in records])
        skipped = skipped_steps(values, SkipSpikes())
        print(json.dumps({"run": run_dir, "steps": len(values), "skipped": skipped}))


if __name__ == "__main__":
    main(sys.argv[1:])
