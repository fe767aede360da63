"""Variants by name on the command line: any of them, with its own options, checked as a whole."""

from dataclasses import dataclass, field, fields
from typing import Annotated

import pytest
import tyro

from jaxgpt.command_line import parse_options
from jaxgpt.config import load_config, to_dict
from jaxgpt.errors import ConfigError, UsageError
from jaxgpt.model.heads import ClassificationHead
from jaxgpt.model.layers.norms import LayerNorm, RmsNorm, Sandwich
from jaxgpt.model.layers.positions import Learned
from jaxgpt.model.remat import FullRemat
from jaxgpt.names.variants import choose_variants, describe_variants, find_variants, load_variant
from jaxgpt.runs.config import TrainConfig
from jaxgpt.training.averaging import ExponentialAverage
from jaxgpt.training.optimizer import AdamW, Muon, Optimizer
from jaxgpt.training.schedule import WarmupStableDecay
from tests.tiny import REPOSITORY

BASE = load_config(REPOSITORY / "configs/base.py", TrainConfig)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a verb."""

    data: str | None = None
    settings: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(kw_only=True)


def _parse(*argv: str) -> TrainConfig:
    return parse_options(Options, argv, "verb", default=Options(settings=BASE)).settings


def test_a_variant_and_its_fields_are_chosen_in_one_command_line() -> None:
    found = _parse(
        "--optimizer", "Muon", "--optimizer.momentum", "0.9", "--model.remat=FullRemat",
        "--model.norm", "Sandwich", "--model.norm.norm", "LayerNorm", "--model.norm.norm.eps", "1",
        "--model.attention.qk_norm", "RmsNorm", "--seed", "3",
    )  # fmt: skip
    assert found.optimizer == Muon(momentum=0.9)
    assert found.model.remat == FullRemat()
    assert found.model.norm == Sandwich(norm=LayerNorm(eps=1.0))
    assert found.model.attention.qk_norm == RmsNorm()
    assert found.seed == 3
    assert to_dict(_parse("--seed", "3")) == to_dict(BASE) | {"seed": 3}


def test_what_both_variants_have_from_their_base_class_is_kept() -> None:
    found = _parse("--schedule", "WarmupStableDecay", "--schedule.decay-share", "0.3")
    assert found.schedule == WarmupStableDecay(
        num_steps=19_073, peak_learning_rate=6e-4, warmup_share=0.0375, decay_share=0.3
    )
    averaged = _parse("--optimizer.averaging", "ExponentialAverage", "--optimizer", "Muon")
    assert averaged.optimizer == Muon(averaging=ExponentialAverage())
    assert _parse("--optimizer", "AdamW", "--optimizer.b2", "0.9").optimizer == AdamW(b2=0.9)


def test_fields_are_checked_together_once_all_options_are_read() -> None:
    found = _parse("--model.position", "Learned", "--model.position.max-length", "5")
    assert found.model.position == Learned(max_length=5)
    with pytest.raises(UsageError, match=r"--model\.head\.num-classes"):
        _parse("--model.head", "ClassificationHead")
    found = _parse("--model.head", "ClassificationHead", "--model.head.num-classes", "3")
    assert found.model.head == ClassificationHead(num_classes=3)
    with pytest.raises(ConfigError, match="max_length"):
        _parse("--model.position", "Learned", "--model.position.max-length", "0")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--optimizer", "Moun"), "did you mean 'Muon'? (there are AdamW, Muon)"),
        (("--model.remat",), "needs the name of a variant: FullRemat, NoRemat, SaveDots"),
        (("--optimizer.momentum", "0.9"), "it belongs to --optimizer Muon"),
        (("--optimzer", "Muon"), "did you mean --optimizer?"),
        (("--model.d-modle", "3"), "did you mean --model.d-model?"),
        (("--model.attention.qk-norm", "Norm"), "LayerNorm, RmsNorm, Sandwich, None"),
    ],
)
def test_a_wrong_choice_is_one_line_that_names_the_right_ones(argv, message: str) -> None:
    with pytest.raises(UsageError) as error:
        _parse(*argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_verbs_own_option_hides_a_section_of_its_name() -> None:
    options = Options(settings=BASE)
    assert choose_variants(options, ["--data", "folder"]) == (options, ["--data", "folder"])


def test_every_listed_variant_can_be_chosen() -> None:
    listed = [line.split() for line in describe_variants(Options(settings=BASE))[1:]]
    assert {line[0] for line in listed} > {"--model.remat", "--optimizer", "--model.feed-forward"}
    for option, *words in listed:
        names = [word.strip("(),;") for word in words if word[0].isupper() and word != "NAME"]
        required = {"ClassificationHead", "TokenClassificationHead"}  # have a required field
        names = [name for name in names if name not in required]
        assert names, option
        for name in names:
            chosen = _parse(option, name)
            for part in option.removeprefix("--").split("."):
                chosen = getattr(chosen, part.replace("-", "_"))
            assert name == ("None" if chosen is None else type(chosen).__name__)


def test_help_ends_with_the_choices(capsys) -> None:
    with pytest.raises(SystemExit):
        _parse("--help")
    assert "--optimizer NAME (default: AdamW; others: Muon)" in capsys.readouterr().out


def test_variants_are_found_without_importing_their_files() -> None:
    assert find_variants(Optimizer).keys() == {"AdamW", "Muon"}
    assert load_variant(Optimizer, "Muon") is Muon
    assert find_variants(Muon).keys() == {"Muon"}
    assert {each.name for each in fields(Muon)} > {each.name for each in fields(Optimizer)}
