"""The quickstart's choices: steps and model for a text, prompts from it, what a failure says."""

import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt import quickstart
from jaxgpt.command_line import parse_options
from jaxgpt.config import load_config
from jaxgpt.errors import UsageError
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.quickstart.quickstart import Quickstart, choose_prompts, fit_to_text
from jaxgpt.runs.quickstart.shown_commands import StepFailedError, _failure
from jaxgpt.serving import options as serving_options
from jaxgpt.train import TrainOptions
from tests.tiny import REPOSITORY

CONFIG = REPOSITORY / "configs" / "quickstart.py"


def fitted(num_tokens: int, num_steps: int | None = None) -> TrainConfig:
    """The config that the training command of the tour comes to."""
    default = TrainOptions(config=str(CONFIG), settings=load_config(CONFIG, TrainConfig))
    command = Quickstart(inputs=("x",), run_dir=Path("r")).train_command(
        [*fit_to_text(num_tokens, num_steps), "--evaluation.prompts", *choose_prompts([b"a b"])]
    )
    return parse_options(TrainOptions, command[2:], prog="train", default=default).settings


@pytest.mark.parametrize("num_tokens", [500, 30_000, 100_000, 400_000, 3_000_000])
def test_a_small_text_is_not_read_over_and_over_and_its_best_step_is_kept(num_tokens: int) -> None:
    config, default = fitted(num_tokens), load_config(CONFIG, TrainConfig)
    num_steps = config.schedule.num_steps
    tokens_per_step = config.batch.global_batch_size * config.batch.sequence_length
    assert num_steps <= default.schedule.num_steps
    assert num_steps * tokens_per_step <= 4 * num_tokens or num_steps == 20
    if num_tokens > 1_000_000:
        assert config.schedule == default.schedule
        assert config.model == default.model
    every, save = config.evaluation.every_steps, max(1, num_steps // 10)
    assert every is not None
    assert every % save == 0, "each evaluated step is saved, so that the best can be taken"
    assert config.evaluation.prompts == ("a b",)


def test_the_steps_asked_for_are_taken() -> None:
    assert fitted(30_000, 7).schedule.num_steps == 7
    assert fitted(3_000_000, 1000).schedule.num_steps == 1000
    assert fitted(3_000_000, 1000).evaluation.every_steps == 100
    # Of a text that is read once, the last step is the best.
    assert fitted(3_000_000, 120).evaluation.every_steps == 60


@pytest.mark.parametrize(
    ("inputs", "expected"), [((), ("runs/a b-answers", "latest")), (("x",), ("runs/a b", "best"))]
)
def test_it_ends_with_the_command_that_serves_its_last_model(
    inputs: tuple[str, ...], expected: tuple[str, str]
) -> None:
    quickstart = Quickstart(inputs=inputs, run_dir=Path("runs/a b"))
    module, name, *options = quickstart.serve_command(["--step", "best"])
    assert (module, name) == ("-m", "jaxgpt.serve")
    served, _ = serving_options.parse(options)
    assert (served.checkpoint, served.step) == expected


@pytest.mark.parametrize("number", ["0", "-5"])
def test_no_number_of_steps_is_taken_for_another(number: str) -> None:
    with pytest.raises(UsageError, match=f"--num-steps {number} must be at least 1"):
        quickstart.main([f"--num-steps={number}"])


@given(st.lists(st.text(), max_size=5))
def test_prompts_are_beginnings_that_a_command_line_takes(texts: list[str]) -> None:
    encoded = [text.encode(errors="ignore") for text in texts]
    prompts = choose_prompts(encoded)
    assert 1 <= len(prompts) <= 3
    for prompt in prompts:
        assert not prompt.startswith("-")
        assert prompt.isprintable()
        assert prompt == prompt.strip()
        assert len(prompt) <= 40
        assert prompt or len(prompts) == 1


def test_prompts_end_between_words_where_there_are_spaces() -> None:
    text = "---\n\n# The history of everything that ever was, in one volume\n"
    assert choose_prompts([text.encode()]) == ["# The history of everything that ever"]
    assert choose_prompts(["東京".encode() * 40]) == ["東京" * 20]
    assert choose_prompts([]) == [""]


def test_a_killed_command_is_not_said_to_have_spoken() -> None:
    killed = _failure("2. Train", -signal.SIGKILL, "")
    assert isinstance(killed, StepFailedError)
    assert "was killed by SIGKILL, perhaps by the system because memory ran out" in str(killed)
    assert "above" not in str(killed)
    assert killed.exit_code == 1
    failed = _failure("1. Text to tokens", 79, "; for other text choose another --run-dir")
    assert "exit code 79; its error is above" in str(failed)
    assert str(failed).endswith("choose another --run-dir")
    assert failed.exit_code == 79
