"""Checkpoints: what is saved comes back, on any devices; only whole steps count."""

import json
import resource
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.integrity import hash_files, list_files, write_manifest
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.checkpoints.orbax_adapter import OrbaxFiles
from jaxgpt.errors import (
    ConfigError,
    JaxgptError,
    MismatchError,
    NoCheckpointError,
    UsageError,
)

EVERYTHING = CheckpointConfig(keep_latest=100)


def mesh_of(num_devices):
    return jax.make_mesh(
        (num_devices,), ("data",), devices=jax.devices()[:num_devices], axis_types=(AxisType.Auto,)
    )


def sharded(num_devices, *axes):
    return NamedSharding(mesh_of(num_devices), PartitionSpec(*axes))


def like(tree, sharding=None):
    """The abstract tree that restores `tree`, placed by `sharding`, or as it is placed now."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding or leaf.sharding
        ),
        tree,
    )


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def params_and_state():
    """Parameters of several types, and a state as optax and the training loop make it."""
    params = {
        "block": {
            "kernel": jax.random.normal(jax.random.key(0), (3, 16, 8)),
            "bias": jnp.linspace(0, 1, 8, dtype=jnp.bfloat16),
        },
        "empty": jnp.zeros((0, 4)),
    }
    mask = {"block": {"kernel": True, "bias": False}, "empty": True}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.adamw(1e-3, mu_dtype=jnp.bfloat16), mask),
        optax.trace(0.9),
    )
    state = {
        "opt_state": optimizer.init(params),
        "rng": jax.random.key(7),
        "old_rng": jax.random.key_data(jax.random.key(8)),
        "other_rng": jax.random.split(jax.random.key(9, impl="rbg"), 3),
        "step": jnp.int32(5),
        "nothing": None,
    }
    return params, state


@pytest.fixture
def open_checkpoints(tmp_path):
    """Open checkpoints in one directory; all are closed at the end."""
    opened = []

    def open_them(config=EVERYTHING, **kwargs):
        opened.append(Checkpoints(tmp_path / "checkpoints", config, **kwargs))
        return opened[-1]

    yield open_them
    for checkpoints in opened:
        checkpoints.close()


def save_numbers(checkpoints, steps, losses=None):
    for step in steps:
        metadata = {} if losses is None else {"eval_loss": losses[step]}
        array = jnp.full((4,), step)
        checkpoints.save(step, {"w": array}, {"s": array}, metadata)
    checkpoints.wait()


def rewrite(folder, **fields):
    """Change fields of a step's metadata.json as a version that writes them would have."""
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    write_manifest(folder, hash_files(folder, list_files(folder)))


def number_at(checkpoints, step):
    spec = jax.ShapeDtypeStruct((4,), jnp.int32)
    return int(checkpoints.restore_params(step, {"w": spec})["w"][0])


# What is saved comes back


def test_everything_comes_back_as_it_was(open_checkpoints):
    params, state = params_and_state()
    writer = open_checkpoints()
    writer.save(5, params, state, {"eval_loss": 1.5, "seconds": 3})
    writer.wait()
    checkpoints = open_checkpoints(read_only=True)
    restored, restored_state, metadata = checkpoints.restore(5, like(params), like(state))
    assert_same(restored, params)
    assert_same(restored_state, state)
    assert metadata == {"eval_loss": 1.5, "seconds": 3}


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 1), (1, 8), (8, 4), (2, 8)])
def test_the_same_files_restore_on_other_device_counts(open_checkpoints, saved_on, restored_on):
    values = jnp.arange(64.0).reshape(16, 4)
    before = {"w": jax.device_put(values, sharded(saved_on, "data"))}
    checkpoints = open_checkpoints()
    checkpoints.save(1, before, {"m": before["w"] + 1}, {})
    checkpoints.wait()
    target = sharded(restored_on, None, "data") if restored_on < 8 else sharded(8, "data")
    params, state, _ = checkpoints.restore(1, like(before, target), {"m": like(values, target)})
    assert params["w"].sharding == state["m"].sharding == target
    assert len(params["w"].addressable_shards) == restored_on
    np.testing.assert_array_equal(params["w"], values)
    np.testing.assert_array_equal(state["m"], values + 1)


def test_parameters_come_without_the_rest(open_checkpoints):
    params, state = params_and_state()
    checkpoints = open_checkpoints()
    checkpoints.save(1, params, state, {})
    checkpoints.wait()
    for path in (checkpoints.directory / "1" / "training_state" / "d").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    assert_same(checkpoints.restore_params(1, like(params)), params)


def test_parameters_may_be_cast_to_another_float_and_to_host_arrays(open_checkpoints):
    checkpoints = open_checkpoints()
    checkpoints.save(1, {"w": jnp.linspace(0, 1, 5)}, {}, {})
    checkpoints.wait()
    device = SingleDeviceSharding(jax.devices()[3])
    cast = jax.ShapeDtypeStruct((5,), jnp.bfloat16, sharding=device)
    restored = checkpoints.restore_params(1, {"w": cast})["w"]
    assert restored.dtype == jnp.bfloat16
    assert restored.sharding == device
    host = checkpoints.restore_params(1, {"w": jax.ShapeDtypeStruct((5,), jnp.float32)})["w"]
    assert isinstance(host, np.ndarray)
    np.testing.assert_array_equal(host, jnp.linspace(0, 1, 5))


@pytest.mark.parametrize("sharding", [SingleDeviceSharding(jax.devices()[0]), sharded(8, "data")])
def test_arrays_may_be_donated_and_overwritten_right_after_save(open_checkpoints, sharding):
    checkpoints = open_checkpoints()
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x - 1e6, tree), donate_argnums=0)
    size = 1 << 20
    for step in range(4):
        params = {"w": jax.device_put(jnp.full((size,), float(step)), sharding)}
        host = np.full((size,), step)
        checkpoints.save(step, params, {"host": host}, {})
        host[:] = -1
        for _ in range(3):
            params = overwrite(params)
    checkpoints.wait()
    spec = jax.ShapeDtypeStruct((size,), jnp.float32)
    state_spec = {"host": jax.ShapeDtypeStruct((size,), np.int64)}
    for step in range(4):
        params, state, _ = checkpoints.restore(step, {"w": spec}, state_spec)
        assert (params["w"] == step).all()
        assert (state["host"] == step).all()


# Which steps there are


def test_policy_decides_what_stays_and_the_best_is_found_again(open_checkpoints):
    config = CheckpointConfig(keep_latest=2, keep_every_steps=40, keep_best=1)
    checkpoints = open_checkpoints(config)
    losses = {10: 3.0, 20: 1.0, 30: 2.0, 40: 2.5, 50: float("nan"), 60: 4.0, 70: 1.5}
    save_numbers(checkpoints, losses, losses)
    assert checkpoints.steps() == [20, 40, 60, 70]
    assert (checkpoints.latest(), checkpoints.best()) == (70, 20)
    again = open_checkpoints(config)
    save_numbers(again, [80], {80: 9.0})
    assert again.steps() == [20, 40, 70, 80]
    assert [again.resolve(name) for name in ("latest", "best", "40", 40)] == [80, 20, 40, 40]


def test_the_best_step_is_one_that_was_measured_as_the_newest(open_checkpoints, caplog):
    config = CheckpointConfig(keep_latest=1, keep_best=1)
    checkpoints = open_checkpoints(config)
    for step, loss, data in ((10, 1.0, "words"), (20, 3.0, "digits"), (30, 3.5, "digits")):
        metadata = {"eval_loss": loss, "eval_settings": {"data": data}}
        checkpoints.save(step, {"w": jnp.full((4,), step)}, {}, metadata)
        checkpoints.wait()
        assert checkpoints.best() == min(step, 20)
        assert checkpoints.resolve("best") == min(step, 20)
    assert checkpoints.steps() == [20, 30], "a best step of other text is not kept as the best"


def test_steps_that_are_not_compared_are_named(open_checkpoints, caplog):
    checkpoints = open_checkpoints()
    for step, data in ((10, "words"), (20, "digits")):
        metadata = {"eval_loss": float(step), "eval_settings": {"data": data}}
        checkpoints.save(step, {"w": jnp.full((4,), step)}, {}, metadata)
        checkpoints.wait()
    assert checkpoints.resolve("best") == 20
    assert "steps 10 are not compared" in caplog.text
    assert "data: 'words' then, 'digits' now" in caplog.text


def test_a_device_that_is_too_small_makes_no_step_unreadable(open_checkpoints, monkeypatch):
    checkpoints = open_checkpoints()
    save_numbers(checkpoints, [3])

    def read(*args):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 16 bytes.")

    monkeypatch.setattr(OrbaxFiles, "read", read)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        number_at(checkpoints, 3)


def test_a_step_that_is_saved_already_is_left_alone(open_checkpoints):
    checkpoints = open_checkpoints()
    save_numbers(checkpoints, [3], {3: 1.0})
    checkpoints.save(3, {"w": jnp.zeros(4, jnp.int32)}, {}, {"eval_loss": 2.0})
    checkpoints.wait()
    assert number_at(checkpoints, 3) == 3
    assert checkpoints.read_metadata(3) == {"eval_loss": 1.0}


def test_names_of_steps_are_resolved_or_refused(open_checkpoints):
    checkpoints = open_checkpoints()
    assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == ([], None, None)
    for name in ("latest", "best", "5"):
        with pytest.raises(NoCheckpointError, match="no complete checkpoint"):
            checkpoints.resolve(name)
    save_numbers(checkpoints, [3, 12])
    with pytest.raises(UsageError, match=r"no checkpoint of step 5 .* there are 3, 12"):
        checkpoints.resolve("5")
    with pytest.raises(UsageError, match="no checkpoint of step newest"):
        checkpoints.resolve("newest")
    with pytest.raises(NoCheckpointError, match="evaluation"):
        checkpoints.resolve("best")
    with pytest.raises(NoCheckpointError, match="step 7"):
        checkpoints.read_metadata(7)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def without_metadata(folder):
    (folder / "metadata.json").unlink()


def cut_metadata(folder):
    text = (folder / "metadata.json").read_text()
    (folder / "metadata.json").write_text(text[: len(text) // 2])


def without_item(folder):
    shutil.rmtree(folder / "params")


def without_manifest(folder):
    (folder / "training_state" / "manifest.ocdbt").unlink()


@pytest.mark.parametrize(
    "damage", [empty, without_metadata, cut_metadata, without_item, without_manifest]
)
def test_a_step_that_is_not_whole_is_none_and_makes_room(open_checkpoints, damage):
    checkpoints = open_checkpoints()
    save_numbers(checkpoints, [1, 2])
    damage(checkpoints.directory / "2")
    reader = open_checkpoints(read_only=True)
    assert (reader.steps(), reader.latest()) == ([1], 1)
    assert (reader.directory / "2").exists()
    writer = open_checkpoints()
    assert (writer.directory / "damaged-2").exists()
    save_numbers(writer, [2])
    assert (writer.latest(), number_at(writer, 2)) == (2, 2)


def test_leftovers_of_killed_work_are_cleared_by_the_next_writer_only(open_checkpoints):
    checkpoints = open_checkpoints()
    save_numbers(checkpoints, [1, 2])
    for name in (".saving-3", ".saving-4.orbax-checkpoint-tmp", ".deleting-1"):
        (checkpoints.directory / name / "params").mkdir(parents=True)
    (checkpoints.directory / "notes").mkdir()
    (checkpoints.directory / "007").mkdir()
    reader = open_checkpoints(read_only=True)
    assert reader.steps() == [1, 2]
    assert (reader.directory / ".saving-3").exists()
    writer = open_checkpoints()
    assert sorted(path.name for path in writer.directory.iterdir()) == ["007", "1", "2", "notes"]


def test_a_step_counts_only_when_it_has_its_name(open_checkpoints, monkeypatch):
    checkpoints, gate = open_checkpoints(), threading.Event()
    commit = step_folders.commit
    monkeypatch.setattr(
        step_folders, "commit", lambda *arguments: (gate.wait(20), commit(*arguments))
    )
    checkpoints.save(1, {"w": jnp.zeros(4)}, {}, {})
    assert checkpoints.latest() is None
    gate.set()
    checkpoints.wait()
    assert checkpoints.latest() == 1


# What goes wrong


def test_a_tree_that_does_not_fit_is_refused_with_both_sides_named(open_checkpoints):
    checkpoints = open_checkpoints()
    saved = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4, jnp.int32), "kernel": jnp.zeros(1)}
    checkpoints.save(1, saved, {"m": jnp.zeros(2)}, {})
    checkpoints.wait()
    spec = jax.ShapeDtypeStruct
    wanted = {
        "a": spec((2, 4), jnp.float32),
        "b": spec((4,), jnp.float32),
        "kernels": spec((1,), jnp.float32),
    }
    with pytest.raises(MismatchError) as refusal:
        checkpoints.restore_params(1, wanted)
    for part in (
        "missing in the checkpoint: kernels; did you mean 'kernel'?",
        "in the checkpoint only: kernel",
        "a is [2, 3] there and [2, 4] here",
        "b is int32 there and float32 here",
    ):
        assert part in str(refusal.value)
    with pytest.raises(MismatchError, match="m is float32 there and bfloat16 here"):
        checkpoints.restore(1, like(saved), {"m": spec((2,), jnp.bfloat16)})
    with pytest.raises(MismatchError, match="missing in the checkpoint: x"):
        checkpoints.restore(1, like(saved), {"m": spec((2,), jnp.float32), "x": wanted["a"]})


def test_a_failed_commit_is_raised_later_and_the_next_save_works(open_checkpoints, monkeypatch):
    checkpoints = open_checkpoints()
    save_numbers(checkpoints, [1])

    def no_space(directory, step):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(step_folders, "commit", no_space)
        checkpoints.save(2, {"w": jnp.zeros(4)}, {}, {})
        with pytest.raises(JaxgptError, match=r"step 2 .*No space left.* is step 1$"):
            checkpoints.wait()
        checkpoints.save(3, {"w": jnp.zeros(4)}, {}, {})
        assert checkpoints.save(4, {"w": jnp.zeros(4)}, {}, {})  # goes on after step 3 has failed
        with pytest.raises(JaxgptError, match=r"3 saves in a row .* not save step 4"):
            checkpoints.save(5, {"w": jnp.zeros(4)}, {}, {})
    checkpoints.wait()
    assert [path.name for path in checkpoints.directory.iterdir()] == ["1"]
    events = [(event.name, event.step) for event in checkpoints.take_events()]
    assert events == [("save_failed", step) for step in (2, 3, 4)]
    assert checkpoints.take_events() == []
    save_numbers(checkpoints, [2])
    assert checkpoints.steps() == [1, 2]


def test_a_write_that_fails_leaves_the_last_good_state(open_checkpoints):
    checkpoints = open_checkpoints()
    save_numbers(checkpoints, [1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = jax.random.normal(jax.random.key(0), (200_000,))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        checkpoints.save(2, {"w": noise}, {}, {})
        with pytest.raises(JaxgptError, match="could not save step 2"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (checkpoints.latest(), number_at(checkpoints, 1)) == (1, 1)
    checkpoints.save(2, {"w": noise}, {}, {})
    checkpoints.wait()
    assert checkpoints.latest() == 2


def test_closing_raises_what_the_last_save_raised(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, EVERYTHING)
    monkeypatch.setattr(step_folders, "commit", lambda *arguments: 1 / 0)
    checkpoints.save(1, {"w": jnp.zeros(4)}, {}, {})
    with pytest.raises(JaxgptError, match="ZeroDivisionError"):
        checkpoints.close()
    assert not [thread for thread in threading.enumerate() if "jaxgpt-checkpoint" in thread.name]


def test_missing_data_files_are_reported_with_the_other_steps(open_checkpoints):
    checkpoints = open_checkpoints()
    save_numbers(checkpoints, [1, 2])
    shutil.rmtree(checkpoints.directory / "2" / "params" / "d")
    shutil.rmtree(checkpoints.directory / "2" / "params" / "ocdbt.process_0")
    with pytest.raises(NoCheckpointError, match=r"step 2 is damaged: .*complete checkpoints: 1$"):
        number_at(checkpoints, 2)


def test_an_unwritable_directory_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write checkpoints to .* choose a writable"):
        Checkpoints(tmp_path / "file" / "checkpoints", EVERYTHING)


def test_read_only_makes_and_changes_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none", EVERYTHING, read_only=True)
    assert checkpoints.latest() is None
    with pytest.raises(ValueError, match="read-only"):
        checkpoints.save(1, {"w": jnp.zeros(4)}, {}, {})
    checkpoints.close()
    assert not (tmp_path / "none").exists()


def test_another_format_version_is_refused_by_name(open_checkpoints):
    checkpoints = open_checkpoints()
    save_numbers(checkpoints, [1])
    rewrite(checkpoints.directory / "1", version=99)
    assert open_checkpoints().latest() == 1  # not set aside as damaged
    with pytest.raises(MismatchError, match=r"checkpoint format 99; .* reads formats 1 and 2"):
        number_at(checkpoints, 1)


def test_names_that_would_collide_on_disk_are_refused(open_checkpoints):
    array = jnp.zeros(1)
    with pytest.raises(ValueError, match="same name"):
        open_checkpoints().save(1, {"a.b": array, "a": {"b": array}}, {}, {})


@pytest.mark.parametrize("fields", [{"every_steps": 0}, {"keep_latest": 0}, {"keep_best": -1}])
def test_impossible_policies_are_refused(fields):
    with pytest.raises(ConfigError, match="must be at least"):
        CheckpointConfig(**fields)


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_the_newest_interface_of_orbax_reads_the_files(open_checkpoints):
    from orbax.checkpoint import v1

    checkpoints = open_checkpoints()
    save_numbers(checkpoints, [1])
    loaded = v1.load_checkpointables(checkpoints.directory / "1")
    np.testing.assert_array_equal(loaded["params"]["w"], [1, 1, 1, 1])
