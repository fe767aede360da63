"""Damaged checkpoints: each is found by whoever reads it, and the run goes on from a whole one."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.checkpoints.manager import CheckpointConfig, Checkpoints
from jaxgpt.errors import NoCheckpointError

STEPS = (1, 2, 3)
SPEC = jax.ShapeDtypeStruct((64,), np.float32)


def values_at(step):
    return np.random.default_rng(step).normal(size=64).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of three steps, to be copied."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder, CheckpointConfig(keep_latest=9))
    for step in STEPS:
        array = jnp.asarray(values_at(step))
        checkpoints.save(step, {"w": array}, {"m": array + 1}, {"eval_loss": 10.0 - step})
    checkpoints.close()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


@pytest.fixture
def open_them(folder):
    opened = []

    def open_one(read_only):
        opened.append(Checkpoints(folder, CheckpointConfig(keep_latest=9), read_only=read_only))
        return opened[-1]

    yield open_one
    for checkpoints in opened:
        checkpoints.close()


def files_of(folder, step):
    return sorted(path for path in (folder / str(step)).rglob("*") if path.is_file())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def flip(path, bit=None):
    content = bytearray(path.read_bytes())
    bit = 4 * len(content) if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def read_all(checkpoints, step):
    params, state, _ = checkpoints.restore(step, {"w": SPEC}, {"m": SPEC})
    np.testing.assert_array_equal(params["w"], values_at(step))
    np.testing.assert_array_equal(state["m"], values_at(step) + 1)


DAMAGES = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_of_each_file_in_turn_is_found_by_restore(folder, open_them, kind):
    paths = files_of(folder, 3)
    assert len(paths) > 10
    checkpoints = open_them(read_only=True)
    for path in paths:
        before = path.read_bytes()
        DAMAGES[kind](path)
        assert before != (path.read_bytes() if path.exists() else None)
        with pytest.raises(NoCheckpointError, match=f"step 3 is damaged.*{path.name}"):
            checkpoints.restore(3, {"w": SPEC}, {"m": SPEC})
        path.write_bytes(before)
    read_all(checkpoints, 3)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_writer_quarantines_and_goes_on_from_the_newest_whole_step(folder, open_them, kind):
    for step in (2, 3):
        DAMAGES[kind](files_of(folder, step)[-1])
    checkpoints = open_them(read_only=False)
    assert checkpoints.latest_verified() == 1
    assert names(folder) == ["1", "damaged-2", "damaged-3"]
    assert (
        files_of(folder, 1)[-1].name
        in json.loads((folder / "damaged-3" / "damaged.json").read_text())["reason"]
    )
    read_all(checkpoints, 1)
    for step in (2, 3):
        assert checkpoints.save(
            step, {"w": jnp.asarray(values_at(step))}, {"m": jnp.asarray(values_at(step)) + 1}, {}
        )
    checkpoints.wait()
    assert checkpoints.latest_verified() == 3
    read_all(checkpoints, 3)
