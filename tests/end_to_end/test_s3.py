"""Runs at s3:// URLs, by s3fs and an imitation of Amazon's store; skipped without both.

pip install 's3fs' 'moto[server]'
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.checkpoints.remote.verification import verify_remote_run
from jaxgpt.config import load_config, replace
from jaxgpt.errors import UsageError
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.pretrain import train_run
from jaxgpt.runs.remote import local_folder
from jaxgpt.runs.run import open_run
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.storage import writer_lease
from jaxgpt.storage.remote_folder import RemoteFolder
from tests.faults import Faults
from tests.tiny import make_dataset, write_config
from tests.two_hosts import free_port

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a new bucket."""
    import boto3

    port = free_port()
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


def test_objects_are_written_whole_read_listed_deleted_and_created_once(
    bucket: str, tmp_path: Path
) -> None:
    folder = RemoteFolder(f"{bucket}/objects")
    content = np.random.default_rng(0).bytes(12_000_000)  # In several parts.
    (tmp_path / "file").write_bytes(content)
    folder.upload(tmp_path / "file", "deep/file")
    folder.write("a", b"one")
    folder.write("a", b"two!")
    assert folder.list() == {"a": 4, "deep/file": len(content)}
    assert folder.read_by("deep/file", b"".join) == content
    folder.download("deep/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert (folder.create("lock", b"first"), folder.create("lock", b"second")) == (True, False)
    assert folder.read("lock") == b"first"
    folder.delete(["not there", "a", "deep/file", "lock"])
    assert folder.list() == {}
    with pytest.raises(FileNotFoundError):
        folder.read("a")
    with pytest.raises(UsageError, match="bucket does not exist; create it first"):
        RemoteFolder("s3://nowhere/run").create("lock", b"")


def test_a_run_moved_to_empty_machines_ends_as_a_calm_one(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXGPT_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setattr(writer_lease, "SETTLE_SECONDS", 0.1)
    path = write_config(tmp_path / "c.py", [(make_dataset(tmp_path / "data"), 1)], 12, 3)
    config = load_config(path, TrainConfig)
    config = replace(
        config,
        batch=replace(config.batch, num_micro_batches=1),
        runtime=RuntimeConfig(compile_cache=str(tmp_path / "cache")),
    )
    Faults({5: "error", 9: "error"}, tmp_path / "done").install(monkeypatch.setattr)
    run_dir, url = local_folder(f"{bucket}/runs/a")
    for is_last in (False, False, True):
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        if is_last:
            train_run(config, run_dir, "auto", False, url=url)
            break
        with pytest.raises(OSError, match="input/output error"):
            train_run(config, run_dir, "auto", False, url=url)
    assert verify_remote_run(f"{bucket}/runs/a").steps == {9: True, 12: True}
    train_run(config, tmp_path / "calm", "auto", False)
    one, other = (
        open_run(run).restore_params(12, single_device_mesh()) for run in (url, tmp_path / "calm")
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
