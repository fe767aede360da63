"""Whoever does the work and whoever is killed meanwhile, the dataset is the same, byte for byte."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NO_FIGURES = "plots._has_matplotlib = lambda: False"
# Cuts even a small corpus into several parts and partitions; both are planned by the parent.
DRIVER = """
import sys
sys.path.insert(0, {tools!r})
import build_dataset
from jaxgpt.command_line import run_verb
from jaxgpt.corpus.stages import read as reading
from jaxgpt.corpus.dedup.near import pipeline as removing
from jaxgpt.reports import plots
reading.PART_BYTES, reading.PARTITION_BYTES, removing._RANGE_KEYS = 40_000, 30_000, 4_000
{no_figures}
if __name__ == "__main__":
    run_verb(build_dataset.main)
"""
ARGUMENTS = [
    *("--input", "in", "--tokenizer.vocab-size", "400", "--split.val-fraction", "0.1"),
    *("--filters.profile", "web-any", "--filters.gopher-quality.min-words", "20"),
    *("--privacy.email-replacement", "email@example.com"),
    *("--decontamination.files", "benchmark.jsonl"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus with something for every stage to do."""
    tmp_path = tmp_path_factory.mktemp("executors")
    chooser = random.Random(0)
    words = ["".join(chooser.choices("abcdefghilmnorstu", k=6)) for _ in range(4000)]

    def text(num_words):
        return " ".join(chooser.choices(words, k=num_words))

    benchmark = [text(30) for _ in range(5)]
    with open(tmp_path / "benchmark.jsonl", "w") as file:
        file.writelines(json.dumps({"question": item}) + "\n" for item in benchmark)
    (tmp_path / "in").mkdir()
    for number in range(8):
        with open(tmp_path / "in" / f"{number}.jsonl", "w") as file:
            for line in range(40):
                content = text(chooser.randint(10, 120))
                if line % 10 == 0:
                    content += " " + benchmark[number % 5]
                if line % 10 == 1:
                    content += " write to some.body@mail.org today"
                file.write(json.dumps({"id": f"{number}-{line}", "text": content}) + "\n")
                if line % 5 == 0:
                    # One word of many is another one.
                    edited = content.split(" ")
                    edited[len(edited) // 2] = chooser.choice(words)
                    file.write(json.dumps({"text": " ".join(edited)}) + "\n")
            file.write(json.dumps({"text": "the same everywhere " * 20}) + "\n")
    return tmp_path


@pytest.fixture(scope="module")
def driver(folder, repository):
    path = folder / "driver.py"
    path.write_text(DRIVER.format(tools=str(repository / "tools"), no_figures=NO_FIGURES))
    return path


@pytest.fixture(scope="module")
def expected(driver):
    """The dataset that one process makes of it, undisturbed."""
    finish(start(driver, "whole/out", "serial", 1))
    return everything(driver.parent / "whole/out")


def start(driver, output, kind, workers, **options):
    """The builder as a process of its own session, in the folder of its driver."""
    command = [sys.executable, str(driver), *ARGUMENTS, "--output", output]
    return subprocess.Popen(
        [*command, "--executor.kind", kind, "--executor.workers", str(workers)],
        cwd=driver.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def everything(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def children(pid):
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(child) for child in listed.split()]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def check_all_stages_had_work(folder):
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    for reason in ("exact_duplicate", "near_duplicate", "benchmark_overlap"):
        assert counts["dropped"][reason] > 5
    assert any(reason.startswith("gopher") for reason in counts["dropped"])
    edits = json.loads((folder / "manifest.json").read_text())["edits"]
    assert edits["privacy"]["documents"] > 5


EXECUTORS = [("processes", 1), ("processes", 4), ("ray", 2)]


def test_the_same_bytes_whoever_does_the_work(driver):
    """The figures of the report, too; the other tests do without."""
    drawing = driver.with_name("drawing.py")
    drawing.write_text(driver.read_text().replace(NO_FIGURES, ""))
    finish(start(drawing, "serial/out", "serial", 1))
    expected = everything(driver.parent / "serial/out")
    check_all_stages_had_work(driver.parent / "serial/out")
    for kind, workers in EXECUTORS:
        if kind == "ray":
            pytest.importorskip("ray", reason="Ray is an extra: pip install -e '.[ray]'")
        name = f"{kind}{workers}/out"
        finish(start(drawing, name, kind, workers))
        assert everything(driver.parent / name) == expected, name


def test_random_kills_of_the_builder_or_a_worker_change_nothing(driver, expected):
    num_kills = 6
    started = time.monotonic()
    finish(start(driver, "undisturbed/out", "processes", 2))
    seconds = time.monotonic() - started
    chooser = random.Random(num_kills)
    trial = num_killed = 0
    while num_killed < num_kills:
        trial += 1
        assert trial < 5 * num_kills, "hardly anything was alive to be killed"
        process = start(driver, f"killed{trial}/out", "processes", 2)
        time.sleep(chooser.uniform(0.15, 0.95) * seconds)
        workers = children(process.pid)
        # The resource tracker of multiprocessing is a child as well.
        victim = process.pid if num_killed % 2 or not workers else chooser.choice(workers)
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
        num_killed += 1
        if victim == process.pid:
            process.communicate(timeout=60)
            deadline = time.monotonic() + 20
            while any(map(is_running, workers)) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not any(map(is_running, workers)), "workers outlived the builder"
            finish(start(driver, f"killed{trial}/out", "processes", 2))
        else:
            finish(process)
        assert everything(driver.parent / f"killed{trial}/out") == expected, (trial, victim)


# One task of a stage is done and another half done when its process dies: what it wrote is there,
# and not yet under its name. Workers read this, too: it is their main module.
DIE_IN_EVERY_STAGE = """
import functools, os, signal
from pathlib import Path
from jaxgpt.corpus import finalize as finishing
from jaxgpt.corpus import build as pipeline
from jaxgpt.corpus.execution import tasks as stages

PARENT = os.getpid() if __name__ == "__main__" else os.getppid()
DIED = Path({died!r})
DIED.mkdir(exist_ok=True)

def die(stage):
    if (os.getpid() == PARENT) != {kill_workers}:
        try:
            (DIED / stage).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

def dying(function, stage_of):
    @functools.wraps(function)
    def call(*arguments, **named):
        result = function(*arguments, **named)
        if stage := stage_of(*arguments):
            die(stage)
        return result
    return call

carry_out = stages.carry_out

@functools.wraps(carry_out)
def carry_out_and_die(stage, kernel, task, advance):
    is_second = task.name == "00001" or stage.name in {single}
    doomed = dying(kernel, lambda *arguments: stage.name if is_second else "")
    return carry_out(stage, doomed, task, advance)

stages.carry_out = carry_out_and_die
pipeline.write_shards = dying(pipeline.write_shards, lambda *arguments: "write_shards")
finishing.write_reports = dying(finishing.write_reports, lambda *arguments: "write_reports")
"""
# Starts over and over what it forks, until that is not killed.
FORK = """
while __name__ == "__main__":
    child = os.fork()
    if child == 0:
        PARENT = os.getpid()
        break
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        os._exit(os.waitstatus_to_exitcode(status))
"""
SINGLE = {"connect_documents", "write_tokenizer", "verify_group"}
SHARED = {
    *("read_part", "deduplicate_partition", "filter_documents", "sign_partition", "join_keys"),
    *("collect_members", "settle_partition", "edit_documents", "measure_partition"),
    "encode_partition",
}


@pytest.mark.parametrize(
    ("kind", "victims"),
    [
        ("serial", {*SHARED, *SINGLE, "write_shards", "write_reports"}),
        ("processes", SHARED),
    ],
    ids=["the builder", "a worker"],
)
def test_killed_within_every_stage_and_continued_the_dataset_is_the_same(
    driver, expected, kind, victims
):
    died = driver.parent / f"died-{kind}"
    dying = DIE_IN_EVERY_STAGE.format(
        kill_workers=kind == "processes", single=SINGLE, died=str(died)
    )
    fork = FORK if kind == "serial" else ""
    head, tail = driver.read_text().split("if __name__")
    deadly = driver.with_name(f"deadly_{kind}.py")
    deadly.write_text(f"{head}{dying}{fork}if __name__{tail}")
    finish(start(deadly, f"killed-{kind}/out", kind, 2))
    assert {path.name for path in died.iterdir()} == victims
    assert everything(driver.parent / f"killed-{kind}/out") == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_to_all_processes_stops_in_good_order(driver, expected, number, code):
    """As Ctrl-C does, which reaches the workers too."""
    output = f"stopped-{code}/out"
    process = start(driver, output, "processes", 2)
    deadline = time.monotonic() + 60
    while len(children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    finish(start(driver, output, "processes", 2))
    assert everything(driver.parent / output) == expected


# Bytes a file may have; each stage writes larger files than some stage before it.
LIMITS = (1_000, 8_000, 14_000, 30_000, 45_000, 70_000, 100_000, 200_000, 240_000)


@pytest.mark.parametrize(
    ("kind", "limits"),
    [("serial", LIMITS), ("processes", LIMITS[::2])],
    ids=["serial", "processes"],
)
def test_a_disk_that_is_full_in_any_stage_leaves_what_was_done(driver, expected, kind, limits):
    output, stages = f"full-{kind}/out", set()
    for limit in limits:

        def small_files(limit=limit):
            # No file may grow beyond this: writes fail in the middle, as on a full disk.
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = start(driver, output, kind, 2, preexec_fn=small_files)
        _, errors = process.communicate(timeout=120)
        if process.returncode:
            assert process.returncode == 1, errors
            (error,) = [line for line in errors.splitlines() if line.startswith("error: ")]
            assert "make room" in error
            assert "Traceback" not in errors
            stages.add(len([line for line in errors.splitlines() if ": 100% of" in line]))
            assert not (driver.parent / output / "manifest.json").exists()
            assert not list((driver.parent / output).rglob("*.tmp"))
    assert len(stages) >= 3, "a disk that is full in one stage only proves little"
    finish(start(driver, output, kind, 2))
    assert everything(driver.parent / output) == expected
