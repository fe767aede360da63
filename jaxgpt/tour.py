"""The quickstart: text to dataset to model to report, by the ordinary commands, each shown first.

Each step is a process of its own, run exactly as printed, so that what is shown is what is done.
"""

import json
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt.durable import write_json
from jaxgpt.errors import JaxgptError, UsageError
from jaxgpt.evaluation.held_out import read_documents
from jaxgpt.evaluation.ngram import WittenBellModel
from jaxgpt.packages import install_advice
from jaxgpt.reporting.run_report import write_run_report
from jaxgpt.shards import TokenDataset
from jaxgpt.stopping import StopSignal

_CLONE = Path(__file__).resolve().parents[1]
_TOOL = "tools/build_dataset.py"
_SAMPLE_TOKENS = 120


class StepFailedError(JaxgptError):
    """A command of the tour failed; the exit code is the command's."""


@dataclass(frozen=True, kw_only=True)
class Tour:
    """Where the tour reads and writes.

    Attributes:
        inputs: files and folders of text; empty for the Python standard library.
        run_dir: folder of the run; its dataset lies in `data` below it.
        train_arguments: more options of the training command.
    """

    inputs: tuple[str, ...]
    run_dir: Path
    train_arguments: tuple[str, ...] = ()

    @property
    def data(self) -> Path:
        return self.run_dir / "data"

    def build_command(self) -> list[str]:
        if self.inputs:
            inputs, config = list(self.inputs), "configs/quickstart_own_text.py"
        else:
            inputs = [sysconfig.get_paths()["stdlib"]]
            config = "configs/quickstart_dataset.py"
        return [
            _TOOL, "--input", *inputs, "--output", str(self.data),
            "--config", config,
        ]  # fmt: skip

    def train_command(self) -> list[str]:
        return [
            "-m", "jaxgpt.train", "--config", "configs/quickstart.py", "--data", str(self.data),
            "--run-dir", str(self.run_dir), *self.train_arguments,
        ]  # fmt: skip

    def eval_command(self) -> list[str]:
        return ["-m", "jaxgpt.eval", "--checkpoint", str(self.run_dir), "--json"]

    def generate_command(self, prompts: Sequence[str]) -> list[str]:
        return [
            "-m", "jaxgpt.generate", "--checkpoint", str(self.run_dir), "--prompt", *prompts,
            "--max-new-tokens", str(_SAMPLE_TOKENS), "--temperature", "0.7", "--json",
        ]  # fmt: skip


def run_tour(tour: Tour) -> dict[str, Any]:
    """Take the whole way and return what `quickstart.json` holds.

    Raises:
        UsageError: configs and tools do not lie beside the package, or an input does not exist.
        StepFailedError: a command failed; it has said why.
    """
    start = time.monotonic()
    if not (_CLONE / "tools" / "build_dataset.py").is_file():
        raise UsageError(
            f"no tools/ beside the package in {_CLONE}; the quickstart runs from a clone: "
            f"{install_advice()}"
        )
    _run("1. Text to tokens", tour.build_command())
    _run("2. Train", tour.train_command())
    evaluation = json.loads(_run("3. Evaluate on held-out text", tour.eval_command()))
    samples = json.loads(_run("4. Let it write", tour.generate_command(_prompts(tour))))["samples"]
    for sample in samples:
        print(f"\n--- {sample['prompt']!r} continued:\n{sample['prompt']}{sample['text']}")
    baseline = measure_baseline(tour.data)
    seconds = time.monotonic() - start
    result = {
        "bits_per_byte": evaluation["bits_per_byte"],
        "ngram_bits_per_byte": baseline,
        "seconds": round(seconds, 1),
    }
    write_json(tour.run_dir / "quickstart.json", result)
    report = write_run_report(
        tour.run_dir, {"evaluation": evaluation, "baseline": baseline, "samples": samples}
    )
    print(
        f"\nbits per byte on held-out text: {evaluation['bits_per_byte']:.4f}; "
        f"an n-gram model of bytes: {baseline:.4f}\nreport: {report}\n{seconds:.0f} s in all"
    )
    return result


def measure_baseline(dataset: Path) -> float:
    """Bits per byte of a Witten-Bell byte model fitted on the dataset's own training split."""
    opened = TokenDataset.open(dataset)
    tokenizer = opened.load_tokenizer()
    model = WittenBellModel().fit(read_documents(opened.splits["train"], tokenizer))
    return model.bits_per_byte(read_documents(opened.splits["val"], tokenizer))


def _prompts(tour: Tour) -> list[str]:
    """Openings to continue: Python for Python, else the first words of held-out documents."""
    if not tour.inputs:
        return ["def read(self", "class Error(", "    for line in"]
    opened = TokenDataset.open(tour.data)
    texts = read_documents(opened.splits["val"], opened.load_tokenizer())
    return [text[:40].decode(errors="ignore") for text, _ in zip(texts, range(3), strict=False)]


def _run(title: str, arguments: Sequence[str]) -> str:
    """Show a command, run it with this Python, and return its standard output."""
    print(f"\n== {title}\n$ {shlex.join(['python', *arguments])}", flush=True)
    begin = time.monotonic()
    with StopSignal() as stop:
        # Ctrl-C reaches the command by itself, SIGTERM is passed on; the command saves and ends.
        process = subprocess.Popen(
            [sys.executable, *_located(arguments)], stdout=subprocess.PIPE, encoding="utf-8"
        )
        output = _wait(process, stop)
    if "--json" not in arguments:
        print(output, end="")
    if process.returncode != 0:
        error = StepFailedError(
            f"the step {title!r} ended with exit code {process.returncode}; it says why above. "
            "Run the quickstart again to go on from there"
        )
        error.exit_code = process.returncode if process.returncode > 0 else 1
        raise error
    print(f"({time.monotonic() - begin:.0f} s)", flush=True)
    return output


def _wait(process: subprocess.Popen[str], stop: StopSignal) -> str:
    """Wait for a command to end and return what it printed."""
    passed_on = False
    while True:
        try:
            return process.communicate(timeout=0.2)[0]
        except subprocess.TimeoutExpired:
            if stop.received == signal.SIGTERM and not passed_on:
                process.send_signal(signal.SIGTERM)
                passed_on = True


def _located(arguments: Sequence[str]) -> list[str]:
    """The same command from any working directory: tools and configs lie beside the package."""
    located = list(arguments)
    places = [0] if located[0] == _TOOL else []
    places += [located.index("--config") + 1] if "--config" in located else []
    for place in places:
        located[place] = str(_CLONE / located[place])
    return located
