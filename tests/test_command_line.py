"""Options: typed overrides of nested sections, did-you-mean, one-line errors, exit codes."""

import errno
import logging
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import tyro

from jaxgpt import train
from jaxgpt.command_line import KERNEL_LOGGER, find_option, parse_options, run_verb
from jaxgpt.config import configclass
from jaxgpt.errors import BadInputError, ConfigError, UsageError
from jaxgpt.model.attention import kernels
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.feed_forward import Gelu


@configclass
class Settings:
    """A config with a nested section that holds variants."""

    model: GptConfig = GptConfig(feed_forward=Gelu())
    seed: int = 0
    """Of everything."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a verb."""

    config: str
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(kw_only=True)


def _parse(*argv: str) -> Options:
    default = Options(config="x", settings=Settings())
    return parse_options(Options, argv, prog="verb", default=default)


def test_nested_values_of_variants_are_overridden_with_types() -> None:
    options = _parse(
        "--seed", "3", "--model.position.max-wavelength", "7", "--model.feed-forward.hidden", "32"
    )
    assert options.settings.seed == 3
    assert options.settings.model.position.max_wavelength == 7.0
    assert options.settings.model.feed_forward == Gelu(hidden=32)


def test_values_that_depend_on_each_other_are_checked_together() -> None:
    options = _parse("--model.d-model", "130", "--model.attention.num-heads", "13")
    assert options.settings.model.d_model == 130
    with pytest.raises(ConfigError, match="130 and 12"):
        _parse("--model.d-model", "130")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--sed", "1"), "did you mean --seed?"),
        (("--model.num-layer", "1"), "did you mean --model.num-layers?"),
        (("--seed", "one"), "'one'"),
        (("--model.compute-dtype", "fp8"), "('float32', 'bfloat16')"),
        (("--seed",), "missing value"),
    ],
)
def test_a_wrong_option_is_one_line(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as error:
        _parse(*argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_find_option_takes_the_last() -> None:
    assert find_option(["--config", "a", "--x", "--config=b"], "--config") == "b"
    assert find_option(["--configuration", "a"], "--config") is None
    assert find_option(["--run-dir"], "--run-dir") is None


@pytest.mark.parametrize("argv", [("--run_dir", "a_b=c"), ("--run_dir=a_b=c",)])
def test_find_option_takes_names_as_the_parser_does(argv: tuple[str, ...]) -> None:
    assert find_option(["--run-dir", "x", *argv], "--run-dir") == "a_b=c"


@pytest.mark.parametrize(
    ("error", "code"), [(BadInputError("no text"), 82), (RuntimeError("boom"), 1)]
)
def test_errors_end_with_their_exit_code_and_no_traceback(capsys, error, code) -> None:
    def main(argv) -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run_verb(main, [])
    assert stop.value.code == code
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "some/file")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            _os_error(errno.ENOSPC),
            "the disk is full: cannot write some/file: No space left on device; make",
        ),
        (_os_error(errno.EDQUOT), "the disk is full"),
        (
            _os_error(errno.EMFILE),
            "too many files are open: cannot open some/file: .* no file is damaged",
        ),
        (MemoryError(), "memory ran out: MemoryError; .*--batch.num-micro-batches"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "memory ran out: RESOURCE_EXHAUSTED"),
    ],
)
def test_what_the_machine_lacks_is_said_in_words(capsys, error, said) -> None:
    def main(argv) -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run_verb(main, [])
    assert stop.value.code == 1
    assert re.fullmatch(f"error: {said}.*run the same command again\n", capsys.readouterr().err)


def test_jaxgpt_lists_its_verbs_and_refuses_others() -> None:
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from jaxgpt.cli import main; main()", *argv],
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert "train" in run("--help").stdout
    wrong = run("trian")
    assert wrong.returncode == 2
    assert "did you mean 'train'" in wrong.stderr


def test_only_training_shows_the_choice_of_the_attention_kernel() -> None:
    assert kernels.logger.name == KERNEL_LOGGER
    with pytest.raises(SystemExit):
        run_verb(lambda argv: sys.exit(0), [])
    assert not kernels.logger.isEnabledFor(logging.INFO)
    with pytest.raises(UsageError):
        train.main([])
    assert kernels.logger.isEnabledFor(logging.INFO)
