"""Every option that an error, a log line, a help text or a page of the docs names is one."""

import ast
import contextlib
import dataclasses
import io
import re
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from jaxgpt.chat import ChatOptions
from jaxgpt.cli import VERBS, main
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.generate import GenerateOptions
from jaxgpt.names.variants import find_variants, load_variant
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.tuning.continue_config import ContinueRunConfig
from jaxgpt.runs.tuning.finetune_config import FinetuneRunConfig
from jaxgpt.serving.options import ServeOptions
from jaxgpt.tools.benchmark import MEASURES
from tests.tiny import REPOSITORY

OPTION = re.compile(r"(?<![\w-])--[a-z](?:[\w.:-]*\w)?")
COMMAND = re.compile(
    r"(?:python -m jaxgpt\.|python tools/|(?<![\w./`-])jaxgpt )([\w-]+)(?:\.py)?\b"
)
# The sections of each verb, whose variants' options appear in a help only once they are chosen.
SECTIONS = {
    "train": (TrainConfig,),
    "plan": (TrainConfig,),
    "finetune": (FinetuneRunConfig, ContinueRunConfig),
    "build-dataset": (DatasetConfig,),
    "append-dataset": (DatasetConfig,),
    "generate": (GenerateOptions,),
    "chat": (ChatOptions,),
    "serve": (ServeOptions,),
}
# Options of git, ray, sbatch, docker, zstd, lm_eval, llama.cpp, transformers, XLA; properties of
# style sheets.
FOREIGN = {
    "--show-toplevel",
    "--porcelain",
    "--untracked-files",
    "--others",
    "--long",
    "--exclude-standard",
    "--address",
    "--block",
    "--head",
    "--port",
    "--nodes",
    "--ntasks",
    "--ntasks-per-node",
    "--cpus-per-task",
    "--gpus-per-node",
    "--time",
    "--exclude",
    "--check",
    "--gpus",
    "--model_args",
    "--lora",
    "--include_path",
    "--batch_size",
    "--apply_chat_template",
    "--columns",
    "--continuous-batching",
}
# A command of another program in a text, with its options.
FOREIGN_COMMAND = re.compile(r"`zstd(?: --?[\w=-]+)+`")
PLACEHOLDERS = {"--name", "--x", "--section.field"}
STYLE_SHEETS = {"jaxgpt/reports/page.py", "jaxgpt/reports/plots.py"}
PAGES = [*sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "README.md"]


def _help(*argv: str) -> set[str]:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([*argv, "--help"])
    return set(re.findall(r"^(?:│| ) +(?:-h, )?(--[a-z][\w.-]*)", shown.getvalue(), re.MULTILINE))


def _options_below(cls: type, prefix: str, depth: int = 4) -> Iterator[str]:
    """Options of a section with any variants."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        option = f"{prefix}{field.name.replace('_', '-')}"
        yield option
        annotation = hints[field.name]
        for kind in typing.get_args(annotation) or (annotation,):
            if depth and dataclasses.is_dataclass(kind):
                for name in find_variants(typing.cast(type, kind)):
                    variant = load_variant(typing.cast(type, kind), name)
                    yield from _options_below(variant, f"{option}.", depth - 1)


@cache
def options_of(verb: str) -> frozenset[str]:
    """All options that a verb may have."""
    found = _help(verb)
    if verb == "benchmark":
        found |= set().union(*(_help(verb, measure) for measure in MEASURES))
    for section in SECTIONS.get(verb, ()):
        found |= {f"--{name}" for name in _options_below(section, "")}
    return frozenset(found | {"--help", "--version"})


@cache
def all_options() -> frozenset[str]:
    """Options of any verb, and of the scripts in tests/soak that the docs name."""
    scripts = set()
    for path in (REPOSITORY / "tests" / "soak").glob("*.py"):
        text = path.read_text()
        scripts |= set(re.findall(r'"(--[a-z][\w-]*)"', text))
        scripts |= {
            f"--{name.replace('_', '-')}" for name in re.findall(r"^    (\w+): ", text, re.M)
        }
    return frozenset(scripts).union(*(options_of(verb) for verb in VERBS))


def _named(text: str) -> set[str]:
    own = OPTION.findall(FOREIGN_COMMAND.sub("", text))
    return {name for name in own if not name.startswith("--xla")} - FOREIGN - PLACEHOLDERS


def _strings(path: Path) -> str:
    nodes = ast.walk(ast.parse(path.read_text()))
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return "\n".join(value for value in constants if isinstance(value, str))


def _is_option(name: str) -> bool:
    known = all_options()
    # Also a section as a whole: `--hosts.*`.
    return name in known or any(option.startswith(f"{name}.") for option in known)


@pytest.mark.parametrize("folder", ["jaxgpt", "configs"])
def test_an_option_named_in_the_code_is_one(folder: str) -> None:
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        if path.relative_to(REPOSITORY).as_posix() not in STYLE_SHEETS:
            wrong = [name for name in _named(_strings(path)) if not _is_option(name)]
            assert not wrong, f"{path.relative_to(REPOSITORY)} names {wrong}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_option_named_on_a_page_is_one(page: Path) -> None:
    wrong = [name for name in _named(page.read_text()) if not _is_option(name)]
    assert not wrong, f"{page.name} names {wrong}"


def test_what_is_no_option_is_found() -> None:
    named = _named(
        "use (--model.layers:pipelined), `--optimizer.momentum 0.9`, --no-such, or --hosts.*; "
        "`zstd --long=31` needs `--short 3`"
    )
    assert named == {
        "--model.layers:pipelined", "--optimizer.momentum", "--no-such", "--hosts", "--short"
    }  # fmt: skip
    assert {name for name in named if _is_option(name)} == {"--optimizer.momentum", "--hosts"}


def test_a_command_has_only_options_of_its_verb() -> None:
    code = [
        path for folder in ("jaxgpt", "configs") for path in (REPOSITORY / folder).rglob("*.py")
    ]
    texts = {path: _strings(path) for path in sorted(code)} | {
        page: page.read_text() for page in PAGES
    }
    num_commands = 0
    for path, text in texts.items():
        for line in text.replace("\\\n", " ").split("\n"):
            starts = list(COMMAND.finditer(line))
            ends = [match.start() for match in starts[1:]] + [len(line)]
            for match, end in zip(starts, ends, strict=False):
                verb = match.group(1).replace("_", "-")
                if verb not in VERBS:
                    continue
                num_commands += 1
                # Up to the end of a quotation: what follows is prose.
                command = re.split(r"[`|#]", line[match.start() : end])[0]
                wrong = _named(command) - options_of(verb)
                assert not wrong, f"{path.relative_to(REPOSITORY)}: {command}: {sorted(wrong)}"
    assert num_commands > 50
