"""A program that saves step after step until it is killed, or kills itself; see test_kill.py."""

import os
import signal
import sys
from pathlib import Path

import jax.numpy as jnp

from jaxgpt.checkpoints import saver, step_folders
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints

SIZE = 300_000


def die(*arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def remove_half_and_die(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files[: len(files) // 2]:
        path.unlink()
    die()


def arrange_death(place: str, directory: Path) -> None:
    """Die in the save of the fourth step that is begun, at one place of it."""
    places = {
        "before the hashes": (saver, "hash_written", die),
        "before the manifest": (saver, "write_manifest", die),
        "before the rename": (step_folders, "commit", die),
        "in a deletion": (step_folders.shutil, "rmtree", remove_half_and_die),
    }
    module, name, death = places[place]
    original = getattr(module, name)

    def maybe_die(*arguments, **named):
        complete = [path for path in directory.iterdir() if path.name.isdigit()]
        if len(complete) > 1 and max(int(path.name) for path in complete) >= 3:
            death(*arguments)
        return original(*arguments, **named)

    setattr(module, name, maybe_die)


def main(directory: str, place: str = "") -> None:
    if place:
        arrange_death(place, Path(directory))
    checkpoints = Checkpoints(directory, CheckpointConfig(keep_latest=2))
    step = checkpoints.latest() or 0
    print("ready", flush=True)
    while True:
        step += 1
        state = {"m": jnp.full((SIZE,), step, jnp.int32), "step": jnp.int32(step)}
        checkpoints.save(step, {"w": jnp.full((SIZE,), step, jnp.float32)}, state, {"step": step})


if __name__ == "__main__":
    main(*sys.argv[1:])
