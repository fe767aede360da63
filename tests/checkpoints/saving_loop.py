"""A program that saves step after step until it is killed; see test_kill.py."""

import sys

import jax.numpy as jnp

from jaxgpt.checkpoints.manager import CheckpointConfig, Checkpoints

SIZE = 300_000


def main(directory: str) -> None:
    checkpoints = Checkpoints(directory, CheckpointConfig(keep_latest=2))
    step = checkpoints.latest() or 0
    print("ready", flush=True)
    while True:
        step += 1
        state = {"m": jnp.full((SIZE,), step, jnp.int32), "step": jnp.int32(step)}
        checkpoints.save(step, {"w": jnp.full((SIZE,), step, jnp.float32)}, state, {"step": step})


if __name__ == "__main__":
    main(sys.argv[1])
