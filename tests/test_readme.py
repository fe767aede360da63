"""Every command in the README and the docs runs, as printed, but for its size."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxgpt.runs.quickstart.quickstart import Quickstart
from tests.forked import run_forked
from tests.tiny import REPOSITORY
from tests.xla_flags import with_devices

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
ASSIGNMENT = re.compile(r"\w+=")
# Names that stand for something of the user's: a synopsis, not a command.
PLACEHOLDER = re.compile(r"\b(PATH|DIR|FILE|RUN|NAME|TEXT|VERB|N)\b|\.\.\.")
# What the commands read is a part of the docs and of the code. Without its `__init__.py` the folder
# hides no package.
TEXTS = ("docs/shards.md", "docs/training.md", "jaxgpt/config.py", "jaxgpt/tokenizer/*.py")
# Installing, testing and linting are what .ci/run does.
NOT_OURS = (
    "pip ",
    "pytest",
    "git ",
    "cd ",
    "source ",
    "ruff ",
    "pyright",
    "python -m venv",
    ".ci/",
)
# A training command is cut to a size that says whether it works; the quickstart writes samples.
SMALL_FINETUNING = [
    "--schedule.num-steps", "2", "--batch.global-batch-size", "8", "--batch.sequence-length", "64",
    "--evaluation.max-tokens", "200", "--evaluation.prompts",
]  # fmt: skip
SMALL = [
    "--batch.num-micro-batches", "1", "--model.num-layers", "1", "--model.d-model", "64",
    "--model.attention.num-heads", "2", "--model.attention.num-kv-heads", "2", *SMALL_FINETUNING,
]  # fmt: skip


# Packages of the extra `metrics` that the commands of a page need.
NEEDED = {
    "docs/jobs.md": ("num2words", "rouge_score", "sacrebleu", "sklearn"),
    "docs/export.md": ("gguf", "safetensors", "tokenizers"),
}


def _commands(page: Path) -> list[str]:
    """Lines of fenced blocks that a shell would run; a `$ ` before one marks real output."""
    found = []
    for kind, block in re.findall(r"^ *```([^\n]*)\n(.*?)^ *```", page.read_text(), re.M | re.S):
        if kind not in ("", "bash", "sh"):
            continue
        if re.search(r"^\$ ", block, re.M):
            continue
        for line in block.replace("\\\n", " ").split("\n"):
            command = " ".join(line.split("#")[0].split())
            starts = ("python ", "jaxgpt ", "XLA_FLAGS=", "tensorboard ")
            if command.startswith(starts) and not command.startswith(NOT_OURS):
                found.append(command)
    return found


COMMANDS = [
    (page.relative_to(REPOSITORY).as_posix(), command)
    for page in PAGES
    for command in _commands(page)
    if not PLACEHOLDER.search(command)
]


def _run(command: str, folder: Path) -> None:
    # What a page keeps outside of the clone starts empty, whatever an earlier run has left there.
    words = shlex.split(command.replace("/tmp/", f"{folder}/outside/"))
    variables = dict(word.split("=", 1) for word in itertools.takewhile(ASSIGNMENT.match, words))
    program, *arguments = words[len(variables) :]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    # A page that asks for several devices gets them, and what the tests compile with.
    environment["XLA_FLAGS"] = f"{with_devices(None)} {variables.get('XLA_FLAGS', '')}"
    if program == "python" and arguments[0] != "-c":
        result = run_forked(arguments, folder, environment, timeout=600, figures=True)
    else:
        if program == "jaxgpt":
            arguments = ["-c", "from jaxgpt.cli import main; main()", *arguments]
        result = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True,
            text=True, timeout=600,
        )  # fmt: skip
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"


def _cut(command: str) -> str:
    command = re.sub(r"(--(?:num-)?examples) \d{3,}", r"\1 100", command)
    if "jaxgpt.train" in command or command.startswith("jaxgpt train"):
        return f"{command} {' '.join(SMALL)}"
    if "jaxgpt.finetune" in command or command.startswith("jaxgpt finetune"):
        command = re.sub(r" --num-epochs \S+", "", command)
        return f"{command} {' '.join(SMALL_FINETUNING)}"
    if "jaxgpt.plan" in command:
        return f"{command} --model.num-layers 1"
    return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory that looks like a clone, with what a quickstart leaves, but small.

    The quickstart itself runs in `end_to_end/test_quickstart.py`.
    """
    folder = tmp_path_factory.mktemp("reader")
    for name in ("configs", "tools", "README.md"):
        (folder / name).symlink_to(REPOSITORY / name)
    for path in itertools.chain(*(REPOSITORY.glob(name) for name in TEXTS)):
        copy = folder / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    quickstart = Quickstart(inputs=("docs", "jaxgpt"), run_dir=Path("runs/quickstart"))
    for command in (quickstart.build_command(), quickstart.train_command(SMALL)):
        _run(shlex.join(["python", *command]), folder)
    (folder / "data").mkdir()
    shutil.copytree(folder / "runs" / "quickstart" / "data", folder / "data" / "corpus")
    return folder


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", sorted({page for page, _ in COMMANDS}))
def test_commands_run(page: str, folder: Path) -> None:
    for package in NEEDED.get(page, ()):
        pytest.importorskip(package, reason="needs: pip install -e '.[metrics,export]'")
    for name, command in COMMANDS:
        if name == page and "jaxgpt.quickstart" not in command:
            _run(_cut(command), folder)


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            if "://" in target:
                continue
            path = page.parent / target if target else page
            assert path.exists(), f"{page} links to {target}"
            if anchor:
                assert anchor in _anchors(path), f"{page} links to {target}#{anchor}"


def test_every_page_is_linked_from_the_roadmap_or_the_readme() -> None:
    linked, to_read = set(), [REPOSITORY / "README.md"]
    while to_read:
        page = to_read.pop()
        if page in linked:
            continue
        linked.add(page)
        for target in re.findall(r"\]\(([^)#]+\.md)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                to_read.append((page.parent / target).resolve())
    assert set(PAGES) <= linked


def test_each_of_the_ten_stages_has_a_page_a_file_and_a_command() -> None:
    roadmap = (REPOSITORY / "docs" / "README.md").read_text()
    stages = re.findall(r"^### (\d+)\. .*?\n(.*?)(?=^##)", roadmap, re.M | re.S)
    assert [int(number) for number, _ in stages] == list(range(1, 11))
    for number, text in stages:
        assert re.search(r"\]\(\w+\.md\)", text), f"stage {number} names no page"
        assert re.search(r"`jaxgpt/[\w/]+\.py`", text), f"stage {number} names no file"
        assert re.search(r"^```\n(python|pytest|XLA_FLAGS=)", text, re.M), f"stage {number}: try"


# Files that a reader of a page is told to write.
YOUR_OWN = {"links.py", "maxout.py"}


def test_python_files_that_a_page_names_exist() -> None:
    """Tables name files from the folder in their heading on: `masks.py`, `layers/norms.py`."""
    folders = ("jaxgpt", "tests", "configs", "tools")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    endings = {
        "/".join(path.parts[-count:]) for path in files for count in range(1, len(path.parts))
    }
    for page in PAGES:
        names = set(re.findall(r"`([\w/-]+\.py)`", page.read_text())) - YOUR_OWN
        assert names <= endings, f"{page.name} names {names - endings}"


def test_files_that_the_docs_and_the_code_name_exist() -> None:
    for page in (*PAGES, *(REPOSITORY / "jaxgpt").rglob("*.py")):
        for name in re.findall(
            r"`((?:jaxgpt|tests|configs|tools|docs)/[\w/.-]+)`", page.read_text()
        ):
            assert (REPOSITORY / name.rstrip("/")).exists(), f"{page.name} names {name}"
