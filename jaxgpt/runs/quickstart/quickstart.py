"""The quickstart: text to dataset to model to report, by the ordinary commands, each shown first.

Each step is a process of its own, run exactly as printed, so that what is shown is what is done.
"""

import itertools
import json
import shlex
import sysconfig
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import UsageError
from jaxgpt.evaluation.held_out import read_documents
from jaxgpt.evaluation.ngram_baseline import WittenBellModel
from jaxgpt.names.packages import install_advice
from jaxgpt.runs.quickstart.quickstart_answers import answers_folder, teach_answers
from jaxgpt.runs.quickstart.shown_commands import CLONE, run_shown
from jaxgpt.runs.report.records import write_baseline
from jaxgpt.runs.report.report import write_run_report
from jaxgpt.storage.durable import write_json
from jaxgpt.training.metrics import read_evaluations
from jaxgpt.training.overfitting import find_rise

_TOOL = "tools/build_dataset.py"
_SAMPLE_TOKENS = 120
_PROMPT_CHARACTERS = 40
_PYTHON_PROMPTS = ["def read(self", "class Error(", "    for line in"]
_HINT = "; for other text or other settings choose another --run-dir"

# The quickstart's steps, and what is right for less text (see `fit_to_text`).
_NUM_STEPS = 400
_TOKENS_PER_STEP = 4096
_MAX_EPOCHS = 4
_FEWEST_STEPS = 20
_SMALL_TEXT_TOKENS = 50_000
_SMALL_MODEL = (
    "--model.num-layers", "2", "--model.d-model", "96", "--model.attention.num-heads", "2",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Inputs and outputs of the quickstart.

    Attributes:
        inputs: files and folders of text; empty for the Python standard library.
        run_dir: folder of the run; its dataset lies in `data` below it.
        num_steps: training steps; None: as many as are right for the text.
    """

    inputs: tuple[str, ...]
    run_dir: Path
    num_steps: int | None = None

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

    def train_command(self, options: Sequence[str]) -> list[str]:
        return [
            "-m", "jaxgpt.train", "--config", "configs/quickstart.py", "--data", str(self.data),
            "--run-dir", str(self.run_dir), *options,
        ]  # fmt: skip

    @property
    def taught(self) -> Path:
        """Return the run folder of the last model: the one that answers, where one is taught."""
        return self.run_dir if self.inputs else answers_folder(self.run_dir)

    def serve_command(self, step: Sequence[str]) -> list[str]:
        chosen = step if self.inputs else ()
        return ["-m", "jaxgpt.serve", "--checkpoint", str(self.taught), *chosen]

    def eval_command(self, step: Sequence[str]) -> list[str]:
        return ["-m", "jaxgpt.eval", "--checkpoint", str(self.run_dir), *step, "--json"]

    def generate_command(self, prompts: Sequence[str], step: Sequence[str]) -> list[str]:
        return [
            "-m", "jaxgpt.generate", "--checkpoint", str(self.run_dir), *step, "--prompt", *prompts,
            "--max-new-tokens", str(_SAMPLE_TOKENS), "--temperature", "0.7", "--json",
        ]  # fmt: skip


def run_quickstart(quickstart: Quickstart) -> dict[str, Any]:
    """Run all steps and return the content of `quickstart.json`.

    Raises:
        UsageError: configs and tools do not lie next to the package, or an input does not exist.
        StepFailedError: a command failed; its error is above.
    """
    start = time.monotonic()
    if not (CLONE / "tools" / "build_dataset.py").is_file():
        raise UsageError(
            f"no tools/ next to the package in {CLONE}; the quickstart runs from a clone: "
            f"{install_advice()}"
        )
    run_shown("1. Text to tokens", quickstart.build_command(), _HINT)
    opened = TokenDataset.open(quickstart.data)
    options = fit_to_text(opened.splits["train"].num_tokens, quickstart.num_steps)
    prompts = _PYTHON_PROMPTS
    if quickstart.inputs:
        prompts = choose_prompts(read_documents(opened.splits["val"], opened.load_tokenizer()))
        options += ["--evaluation.prompts", *prompts[:2]]
    run_shown("2. Train", quickstart.train_command(options), _HINT)
    rise = find_rise(read_evaluations(quickstart.run_dir))
    step = ["--step", "best"] if rise else []
    evaluation = json.loads(
        run_shown("3. Evaluate on held-out text", quickstart.eval_command(step))
    )
    print(
        f"step {evaluation['step']}: {evaluation['bits_per_byte']:.4f} bits per byte, loss "
        f"{evaluation['loss']:.4f} over {evaluation['tokens']:,} held-out tokens"
    )
    written = run_shown("4. Let it write", quickstart.generate_command(prompts, step))
    samples = json.loads(written)["samples"]
    for sample in samples:
        print(f"\n--- {sample['prompt']!r} continued:\n{sample['prompt']}{sample['text']}")
    baseline = measure_baseline(quickstart.data)
    write_baseline(quickstart.run_dir, opened.fingerprint, baseline)
    report = write_run_report(quickstart.run_dir, {"evaluation": evaluation, "samples": samples})
    if rise:
        print(f"\n{rise.describe()}")
    job = {}
    if not quickstart.inputs:
        job = teach_answers(quickstart.run_dir, step, quickstart.num_steps)
    seconds = time.monotonic() - start
    result = {
        "bits_per_byte": evaluation["bits_per_byte"],
        "ngram_bits_per_byte": baseline,
        "seconds": round(seconds, 1),
        **job,
    }
    write_json(quickstart.run_dir / "quickstart.json", result)
    print(
        f"\nbits per byte on held-out text: {evaluation['bits_per_byte']:.4f}; "
        f"an n-gram model of bytes: {baseline:.4f}\nreport: {report}\n{seconds:.0f} s in all\n\n"
        "use it, by a page at http://127.0.0.1:8000 and OpenAI's API:\n$ pip install -e '.[serve]' "
        f"&& {shlex.join(['python', *quickstart.serve_command(step)])}"
    )
    return result


def fit_to_text(num_tokens: int, num_steps: int | None = None) -> list[str]:
    """Return options of the training command that fit its steps and model to a text.

    A small text, read as often as the quickstart's steps would, is learned by heart: from about
    the fourth reading on the held-out loss rises. A smaller model is then as good, and quicker.

    Args:
        num_tokens: of the training split.
        num_steps: steps that were asked for; None: at most the quickstart's.
    """
    right = max(_FEWEST_STEPS, _MAX_EPOCHS * num_tokens // _TOKENS_PER_STEP)
    num_steps = num_steps or min(_NUM_STEPS, right)
    options = [*_SMALL_MODEL] if num_tokens < _SMALL_TEXT_TOKENS else []
    if num_steps != _NUM_STEPS:
        # A text that is read again is evaluated at every save, so that the best can be taken.
        is_read_again = num_steps * _TOKENS_PER_STEP > num_tokens
        every = max(1, num_steps // 10) * (1 if is_read_again else 5)
        options += ["--schedule.num-steps", str(num_steps), "--evaluation.every-steps", str(every)]
    return options


def choose_prompts(texts: Iterable[bytes], number: int = 3) -> list[str]:
    """Return the beginnings of the first lines of some texts, cut between words."""
    prompts = filter(None, (_beginning(text.decode(errors="ignore")) for text in texts))
    return list(itertools.islice(prompts, number)) or [""]


def _beginning(text: str) -> str:
    """Return the first words of a text, "" if it has none."""
    line = next((line for line in text.splitlines() if any(map(str.isalnum, line))), "")
    # No option of a command begins like this, and no control character reaches the terminal.
    line = "".join(filter(str.isprintable, line)).strip().lstrip("-").strip()
    if len(line) <= _PROMPT_CHARACTERS:
        return line
    words = line[: _PROMPT_CHARACTERS + 1].rpartition(" ")[0].rstrip()
    return words or line[:_PROMPT_CHARACTERS]


def measure_baseline(dataset: Path) -> float:
    """Return the bits per byte of a Witten-Bell byte model of the dataset's training split."""
    opened = TokenDataset.open(dataset)
    tokenizer = opened.load_tokenizer()
    model = WittenBellModel().fit(read_documents(opened.splits["train"], tokenizer))
    return model.bits_per_byte(read_documents(opened.splits["val"], tokenizer))
