"""Profiles: every threshold spelled, every one of them an option, JSON both ways."""

import dataclasses
import pickle

import pytest

from jaxgpt.command_line import parse_options
from jaxgpt.config import from_json, replace, to_dict, to_json
from jaxgpt.corpus.filters.c4 import C4Config
from jaxgpt.corpus.filters.config import (
    SECTIONS,
    FiltersConfig,
    with_profile,
    with_profile_option,
)
from jaxgpt.corpus.filters.gopher_quality import GopherQualityConfig
from jaxgpt.corpus.text.batch import TextBatch
from jaxgpt.errors import UsageError

PROFILES = ("none", "web-en", "web-any", "code")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """As tools/build_dataset.py has them."""

    filters: FiltersConfig = dataclasses.field(kw_only=True)


def parse(*argv: str, filters: FiltersConfig | None = None) -> FiltersConfig:
    filters = with_profile_option(filters or FiltersConfig(), argv)
    return parse_options(Options, argv, prog="test", default=Options(filters=filters)).filters


@pytest.mark.parametrize("name", PROFILES)
def test_json_gives_back_an_equal_config_with_every_threshold(name):
    config = with_profile(name)
    assert config == FiltersConfig(profile=name)
    assert from_json(to_json(config), FiltersConfig) == config
    data = to_dict(config)
    for section in SECTIONS:
        value = getattr(config, section)
        fields = set() if value is None else {field.name for field in dataclasses.fields(value)}
        assert set(data[section] or {}) - {"type"} == fields
    assert pickle.loads(pickle.dumps(config.build())) == config.build()


def test_sections_of_each_profile_in_order():
    def names(filters: FiltersConfig) -> list[str]:
        return [type(step).__name__ for step in filters.build()]

    assert names(FiltersConfig()) == []
    assert names(with_profile("web-en")) == [
        "Urls",
        "Language",
        "GopherRepetition",
        "GopherQuality",
        "C4",
        "FineWeb",
    ]
    assert names(with_profile("web-any")) == [
        "Urls",
        "GopherRepetition",
        "GopherQuality",
        "FineWeb",
    ]
    assert names(with_profile("code")) == ["Urls", "Code"]


def test_a_section_that_is_given_wins_and_none_stays_off():
    quality = GopherQualityConfig(min_words=7)
    config = FiltersConfig(profile="web-en", gopher_quality=quality, c4=None)
    assert (config.gopher_quality, config.c4) == (quality, None)
    assert config.fineweb == with_profile("web-en").fineweb
    assert from_json(to_json(config), FiltersConfig) == config
    assert replace(config, c4=C4Config()).gopher_quality == quality
    assert [type(step).__name__ for step in FiltersConfig(c4=C4Config()).build()] == ["C4"]


def test_options_of_a_profile_that_the_command_line_asks_for():
    config = parse("--filters.profile", "web-en", "--filters.gopher-quality.min-words", "30")
    quality = GopherQualityConfig(min_words=30)
    assert config == FiltersConfig(profile="web-en", gopher_quality=quality)
    assert parse("--filters.profile=code").code is not None
    off = parse("--filters.profile", "web-en", "--filters.gopher-quality.min-words", "None")
    assert off.gopher_quality == GopherQualityConfig(min_words=None)
    share = parse("--filters.profile", "web-en", "--filters.fineweb.max-short-line-share", "0.5")
    assert share.fineweb is not None
    assert share.fineweb.max_short_line_share == 0.5


def test_a_profile_on_the_command_line_replaces_another_and_keeps_its_own():
    own = FiltersConfig(profile="web-en", gopher_quality=GopherQualityConfig(min_words=7))
    assert parse(filters=own) == own
    assert parse("--filters.profile", "web-en", filters=own) == own
    assert parse("--filters.profile", "code", filters=own) == with_profile("code")
    assert parse("--filters.profile", "none", filters=own) == FiltersConfig()


def test_an_unknown_profile_is_refused_by_name():
    with pytest.raises(UsageError) as error:
        parse("--filters.profile", "web")
    for word in ("'web'", "web-en", "web-any", "code", "none"):
        assert word in str(error.value)


def test_all_steps_take_an_empty_batch_and_empty_documents():
    for name in PROFILES:
        for step in with_profile(name).build():
            assert list(step(TextBatch(texts=[], urls=[])).reasons) == []
            judged = step(TextBatch(texts=["", " \n"], urls=["", ""]))
            assert len(judged.reasons) == 2


def test_a_selected_batch_says_what_a_new_one_would():
    texts = ["One text here.", "二つ目", "a third text\nof two lines", ""]
    batch = TextBatch(texts=texts, urls=["a", "b", "c", "d"])
    assert (batch.words, batch.lines, batch.is_spaced_D, batch.letters_DS) is not None
    for rows in ([], [2], [3, 0], [0, 1, 2, 3]):
        chosen = batch.select(rows)
        new = TextBatch(texts=[texts[row] for row in rows], urls=chosen.urls)
        assert {"words", "lines", "letters_DS", "is_spaced_D"} <= vars(chosen).keys()
        assert chosen.lines == new.lines
        assert chosen.letters_DS.tolist() == new.letters_DS.tolist()
        assert chosen.is_spaced_D.tolist() == new.is_spaced_D.tolist()
        for name in ("hashes_W", "lengths_W", "offsets_D1"):
            assert getattr(chosen.words, name).tolist() == getattr(new.words, name).tolist()
