"""An append and a takedown that are killed at any moment: old or new, and on to the same bytes."""

import json
import random
import shutil
import signal
import subprocess
import sys

import pytest

from jaxgpt.data.shards import TokenDataset

# Kills itself at an fsync or a rename: every step that lasts is one of the two.
DRIVER = """
import os, signal, sys
sys.path.insert(0, {tools!r})
from jaxgpt.tools import append_dataset, takedown
from jaxgpt.command_line import run_verb
from jaxgpt.corpus.stages import read as reading
reading.PART_BYTES, reading.PARTITION_BYTES = 8_000, 6_000
count = 0
def counted(function):
    def call(*arguments, **named):
        global count
        count += 1
        if count == {number}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call
os.fsync, os.replace = counted(os.fsync), counted(os.replace)
run_verb({verb}.main)
print(count, file=sys.stderr)
"""
APPEND = ["--dataset", "out", "--input", "new.jsonl", "--executor.kind", "serial"]
TAKEDOWN = ["--dataset", "out", "--id", "a1", "a7", "a20"]


@pytest.fixture(scope="module")
def built(tmp_path_factory, repository):
    """A folder with a dataset `out`, and `new.jsonl`."""
    folder = tmp_path_factory.mktemp("growing")
    chooser = random.Random(0)
    for name in ("a", "new"):
        with open(folder / f"{name}.jsonl", "w") as file:
            for line in range(120):
                text = " ".join(f"w{chooser.randint(0, 400)}" for _ in range(40))
                file.write(json.dumps({"id": f"{name}{line}", "text": text}) + "\n")
    command = [sys.executable, str(repository / "tools" / "build_dataset.py"), "--input", "a.jsonl"]
    command += ["--output", "out", "--tokenizer.kind", "char", "--executor.kind", "serial"]
    command += ["--split.val-fraction", "0.1", "--shards.max-tokens", "4000"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    return folder


def everything(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "arguments"), [("append_dataset", APPEND), ("takedown", TAKEDOWN)]
)
def test_killed_anywhere_it_is_old_or_new_and_goes_on(built, tmp_path, repository, verb, arguments):
    def run(folder, number):
        code = DRIVER.format(tools=str(repository), number=number, verb=verb)
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
        )

    shutil.copytree(built, tmp_path / "clean")
    clean = run(tmp_path / "clean", 0)
    assert clean.returncode == 0, clean.stderr
    num_steps = int(clean.stderr.splitlines()[-1])
    expected = everything(tmp_path / "clean" / "out")
    fingerprints = {
        TokenDataset.open(folder / "out").manifest["fingerprint"]
        for folder in (built, tmp_path / "clean")
    }
    assert len(fingerprints) == 2
    # The last steps are those in which one version replaces the other.
    steps = {*random.Random(1).sample(range(1, num_steps), 4), num_steps - 12, num_steps - 3}
    for step in sorted(steps):
        folder = tmp_path / str(step)
        shutil.copytree(built, folder)
        assert run(folder, step).returncode == -signal.SIGKILL
        dataset = TokenDataset.open(folder / "out")
        dataset.verify()
        assert dataset.manifest["fingerprint"] in fingerprints
        again = run(folder, 0)
        assert again.returncode == 0, again.stderr
        assert everything(folder / "out") == expected
