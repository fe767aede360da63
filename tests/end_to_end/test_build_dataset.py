"""`tools/build_dataset.py` as users meet it: exit codes, one-line errors, and any interruption."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from jaxgpt.data.shards import TokenDataset
from tests.forked import run_forked

# Cuts even a small corpus into several parts and partitions, and can stop in the middle.
DRIVER = """
import os, signal, sys
sys.path.insert(0, {tools!r})
import build_dataset
from jaxgpt.command_line import run_verb
from jaxgpt.corpus.stages import encode as encoding
from jaxgpt.corpus.documents import document_files as parts
from jaxgpt.corpus.stages import read as reading
reading.PART_BYTES, reading.PARTITION_BYTES = 20_000, 15_000
{patch}
run_verb(build_dataset.main)
"""
COUNT = """
count = 0
def counted(function):
    def call(*arguments, **named):
        global count
        count += 1
        if count == {number}:
            {action}
        return function(*arguments, **named)
    return call
"""
# Every durable step is an fsync; documents and tokens are what is written between them.
AT_FSYNC = "os.fsync = counted(os.fsync)"
AT_DOCUMENT = "parts.DocumentWriter.write = counted(parts.DocumentWriter.write)"
AT_ENCODED = "encoding._Output.add = counted(encoding._Output.add)"
AT_SHARD = "encoding.ShardWriter.add = counted(encoding.ShardWriter.add)"
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
# Runs its arguments, and prints their peak memory in KiB last. A process between, because a process
# counts the memory of the one that starts it as its own until it has replaced it.
REPORT_PEAK_MEMORY = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
ARGUMENTS = ["--input", "in", "--tokenizer.vocab-size", "400", "--split.val-fraction", "0.1"]


@pytest.fixture
def folder(tmp_path):
    """A folder with some files in `in`."""
    chooser = random.Random(0)
    words = ["".join(chooser.choices("abcdefgh", k=5)) for _ in range(300)]
    (tmp_path / "in").mkdir()
    for number in range(6):
        with open(tmp_path / "in" / f"{number}.jsonl", "w") as file:
            for line in range(40):
                text = " ".join(chooser.choices(words, k=chooser.randint(5, 90)))
                file.write(json.dumps({"id": f"{number}-{line}", "text": text}) + "\n")
            file.write(json.dumps({"text": "the same everywhere"}) + "\n")
    return tmp_path


@pytest.fixture
def run(folder, repository):
    """run(*arguments, patch="") -> finished process; the tool, in `folder`."""
    driver = folder / "driver.py"

    def start(*arguments, patch=""):
        driver.write_text(DRIVER.format(tools=str(repository / "tools"), patch=patch))
        command = [str(driver), *arguments]
        if "--executor.kind" not in arguments:
            # What is patched must happen in this very process.
            command += ["--executor.kind", "serial"]
        return run_forked(command, folder, os.environ, timeout=120)

    return start


def everything(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def one_line(process, code):
    """The error of a process that must have failed with `code`."""
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    (error,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    return error


def test_the_tool_builds_a_dataset_and_says_so(folder, repository):
    tool = [sys.executable, str(repository / "tools" / "build_dataset.py"), *ARGUMENTS]
    done = subprocess.run(
        [*tool, "--output", "out", "--executor.kind", "serial", "--filters.profile", "none"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"246 read \(.*\), 241 kept \(", done.stdout)
    assert "encoding: 100%" in done.stderr
    dataset = TokenDataset.open(folder / "out")
    assert dataset.verify() > 0
    assert dataset.manifest["tokenizer"]["vocab_size"] == 400
    again = subprocess.run(
        [*tool, "--output", "out", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert again.returncode == 0
    result = json.loads(again.stdout)
    assert result["fingerprint"] == dataset.fingerprint
    assert result["counts"] == {"read": 246, "kept": 241, "dropped": {"exact_duplicate": 5}}


FEW_POINTS = [(AT_FSYNC, 9), (AT_ENCODED, 120), (AT_FSYNC, -1)]
MANY_POINTS = [
    (AT_FSYNC, 1),
    (AT_DOCUMENT, 100),
    (AT_FSYNC, 17),
    (AT_FSYNC, 33),
    (AT_SHARD, 1),
    (AT_SHARD, 230),
    (AT_FSYNC, -4),
    (AT_FSYNC, -2),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "points", [FEW_POINTS, pytest.param(MANY_POINTS, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_killed_anywhere_and_continued_the_dataset_is_the_same(run, folder, points):
    counting = COUNT.format(number=-1, action="pass") + AT_FSYNC
    counting += "\nimport atexit; atexit.register(lambda: print('fsyncs', count))"
    undisturbed = run(*ARGUMENTS, "--output", "whole/out", patch=counting)
    assert undisturbed.returncode == 0, undisturbed.stderr
    num_fsyncs = int(undisturbed.stdout.split()[-1])
    assert num_fsyncs > 40
    for trial, (where, number) in enumerate(points):
        number = number if number > 0 else num_fsyncs + 1 + number
        patch = COUNT.format(number=number, action=KILL) + where
        output = f"killed{trial}/out"
        killed = run(*ARGUMENTS, "--output", output, patch=patch)
        assert killed.returncode == -signal.SIGKILL, (where, number, killed.stderr)
        if trial % 3 == 1:
            # Killed a second time, further on.
            run(
                *ARGUMENTS, "--output", output, patch=COUNT.format(number=4, action=KILL) + AT_FSYNC
            )
        continued = run(*ARGUMENTS, "--output", output)
        assert continued.returncode == 0, continued.stderr
        assert everything(folder / output) == everything(folder / "whole/out"), (where, number)


def test_a_continued_build_does_not_start_over(run):
    patch = COUNT.format(number=100, action=KILL) + AT_ENCODED
    assert run(*ARGUMENTS, "--output", "out", patch=patch).returncode == -signal.SIGKILL
    patch = COUNT.format(number=1, action="raise AssertionError('read again')") + AT_DOCUMENT
    continued = run(*ARGUMENTS, "--output", "out", patch=patch)
    assert continued.returncode == 0, continued.stderr
    assert "parts were already done" in continued.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)], ids=["int", "term"]
)
def test_a_signal_stops_in_good_order_and_the_work_goes_on_later(run, folder, number, code):
    patch = COUNT.format(number=60, action=f"os.kill(os.getpid(), {int(number)})") + AT_ENCODED
    error = one_line(run(*ARGUMENTS, "--output", "1/out", patch=patch), code)
    assert "run the same command again" in error
    assert not (folder / "1/out/manifest.json").exists()
    assert run(*ARGUMENTS, "--output", "1/out").returncode == 0
    assert run(*ARGUMENTS, "--output", "2/out").returncode == 0
    assert everything(folder / "1/out") == everything(folder / "2/out")


@pytest.mark.slow
def test_a_disk_that_fills_up_is_said_and_nothing_is_lost(run, folder):
    # No file may grow beyond this: writes fail in the middle, as on a full disk.
    small_files = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))"
    failed = run(*ARGUMENTS, "--output", "1/out", patch=small_files)
    assert "make room" in one_line(failed, 1)
    assert not (folder / "1/out/manifest.json").exists()
    assert not list((folder / "1/out").rglob("*.tmp"))
    assert run(*ARGUMENTS, "--output", "1/out").returncode == 0
    assert run(*ARGUMENTS, "--output", "2/out").returncode == 0
    assert everything(folder / "1/out") == everything(folder / "2/out")


def test_a_second_builder_is_refused_with_the_first_ones_process_id(run, folder, repository):
    patch = "import time\n" + COUNT.format(number=1, action="time.sleep(60)") + AT_DOCUMENT
    code = DRIVER.format(tools=str(repository / "tools"), patch=patch)
    first = subprocess.Popen(
        [sys.executable, "-c", code, *ARGUMENTS, "--output", "out"],
        cwd=folder,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while not (folder / "out" / ".work").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        error = one_line(run(*ARGUMENTS, "--output", "out"), 2)
        assert str(first.pid) in error
    finally:
        first.kill()
        first.communicate()


WRONG = [
    (["--input", "nowhere.txt", "--output", "out"], 2, ["nowhere.txt"]),
    (["--output", "out"], 2, ["--input"]),
    (["--input", "in"], 2, ["--output"]),
    (["--input", "in", "--output", "in/0.jsonl"], 2, ["in/0.jsonl"]),
    ([*ARGUMENTS, "--output", "out", "--executor.kind", "spark"], 2, ["'ray'", "'serial'"]),
    ([*ARGUMENTS, "--output", "out", "--executor.workers", "0"], 78, ["workers", "0"]),
    ([*ARGUMENTS, "--output", "out", "--executor.address", "auto"], 78, ["address", "'ray'"]),
    ([*ARGUMENTS, "--output", "out", "--filters.profile", "web"], 2, ["'web'", "'web-en'"]),
    ([*ARGUMENTS, "--output", "out", "--tokenizer.vocab", "9"], 2, ["--tokenizer.vocab-size"]),
    ([*ARGUMENTS, "--output", "out", "--tokenizer.path", "gone"], 2, ["gone"]),
    ([*ARGUMENTS, "--output", "out", "--split.val-fraction", "2"], 78, ["val_fraction", "2"]),
    ([*ARGUMENTS, "--output", "out", "--tokenizer.vocab-size", "7"], 78, ["vocab_size", "7"]),
    ([*ARGUMENTS, "--output", "out", "--config", "gone.py"], 2, ["gone.py"]),
    ([*ARGUMENTS, "--output", "out", "--sources.text-key", "body"], 82, ["no_text", "'body'"]),
]


@pytest.mark.parametrize(("arguments", "code", "named"), WRONG, ids=lambda value: None)
def test_mistakes_are_one_line_and_have_their_exit_code(run, folder, arguments, code, named):
    error = one_line(run(*arguments), code)
    for name in named:
        assert name in error
    assert not (folder / "out" / "manifest.json").exists()


def test_other_settings_are_refused_with_both_named(run):
    assert run(*ARGUMENTS, "--output", "out").returncode == 0
    error = one_line(run(*ARGUMENTS, "--output", "out", "--tokenizer.vocab-size", "500"), 79)
    assert "400" in error
    assert "500" in error


def test_the_config_for_characters_cuts_at_an_exact_character(run, folder, repository):
    text = "To be, or not to be, that is the question:\n" * 500
    (folder / "input.txt").write_text(text)
    config = str(repository / "configs" / "dataset_char.py")
    done = run("--input", "input.txt", "--output", "out", "--config", config)
    assert done.returncode == 0, done.stderr
    splits = TokenDataset.open(folder / "out").splits
    cut = int(len(text) * 0.9)
    # BOS, one token a character, EOS.
    assert splits["train"].num_tokens == cut + 2
    assert splits["val"].num_tokens == len(text) - cut + 2


def test_help_lists_the_options_of_the_contract(run):
    shown = run("--help").stdout
    for option in (
        "--input",
        "--output",
        "--config",
        "--filters.profile",
        "--tokenizer.vocab-size",
        "--tokenizer.kind",
        "--tokenizer.path",
        "--executor.kind",
        "--seed",
        "--json",
        "--sources.text-key",
        "--sources.max-record-bytes",
        "--sources.max-bad-share",
        "--split.val-fraction",
        "--repair.unicode-form",
        "--shards.max-tokens",
        "--filters.profile",
        "--near-duplicates.threshold",
        "--decontamination.files",
        "--privacy.email-replacement",
        "--executor.workers",
    ):
        assert option in shown


@pytest.mark.slow
def test_the_real_corpus_in_bounded_memory(shared_data, tmp_path, repository):
    """263 MB with books of 3 MB each, within 1 GiB."""
    command = [
        sys.executable,
        "-c",
        REPORT_PEAK_MEMORY,
        sys.executable,
        str(repository / "tools" / "build_dataset.py"),
        "--input",
        str(shared_data / "corpus"),
        "--output",
        str(tmp_path / "out"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert counts["read"] == 9887 == counts["kept"] + sum(counts["dropped"].values())
    assert counts["dropped"]["exact_duplicate"] == 17
    # The manuals of five versions of PowerShell alone repeat some 1,700 pages.
    assert 2000 < counts["dropped"]["near_duplicate"] < 2600
    assert int(done.stderr.splitlines()[-1]) < 2**20, "KiB"
    assert TokenDataset.open(tmp_path / "out").verify() > 9 * 10**7


@pytest.mark.slow
def test_a_line_of_a_gigabyte_in_bounded_memory(tmp_path, repository):
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.write(b'{"text": "a first document"}\n{"text": "')
        # A hole: it reads as zeros and takes no room.
        file.seek(1 << 30, 1)
        file.write(b'"}\n{"text": "one more after it"}\n')
    tool = [sys.executable, str(repository / "tools" / "build_dataset.py")]
    command = [sys.executable, "-c", REPORT_PEAK_MEMORY, *tool, "--input", "a.jsonl"]
    command += [
        "--output",
        "out",
        "--tokenizer.kind",
        "char",
        "--tokenizer.vocab-size",
        "300",
        "--json",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert counts == {"read": 3, "kept": 2, "dropped": {"record_too_long": 1}}
    assert int(done.stderr.splitlines()[-1]) < 400 << 10, "KiB"
