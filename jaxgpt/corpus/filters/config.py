"""`FiltersConfig`: the rule sets to apply, in FineWeb's order, with all their thresholds."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from jaxgpt.command_line import find_option
from jaxgpt.config import configclass
from jaxgpt.corpus.filters.c4 import C4Config
from jaxgpt.corpus.filters.code import CodeConfig
from jaxgpt.corpus.filters.fineweb import FineWebConfig
from jaxgpt.corpus.filters.gopher_quality import GopherQualityConfig
from jaxgpt.corpus.filters.gopher_repetition import GopherRepetitionConfig
from jaxgpt.corpus.filters.language import LanguageConfig
from jaxgpt.corpus.filters.urls import UrlConfig
from jaxgpt.corpus.text.batch import Step

Profile = Literal["none", "web-en", "web-any", "code"]
SECTIONS = ("url", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb", "code")
# The default of a section that is not given: what the profile says. None means switched off.
_FROM_PROFILE: Any = object()

_PROFILES: dict[str, dict[str, Any]] = {
    "none": {},
    # FineWeb (arXiv:2406.17557).
    "web-en": {
        "url": UrlConfig(),
        "language": LanguageConfig(languages=("en",)),
        "gopher_repetition": GopherRepetitionConfig(),
        "gopher_quality": GopherQualityConfig(),
        "c4": C4Config(),
        "fineweb": FineWebConfig(),
    },
    # What FineWeb 2 (arXiv:2506.20920) keeps for every language, and no threshold that it fits
    # to each.
    "web-any": {
        "url": UrlConfig(),
        "gopher_repetition": GopherRepetitionConfig(
            max_duplicate_paragraph_share=None,
            max_duplicate_paragraph_character_share=None,
            max_duplicate_line_character_share=None,
        ),
        "gopher_quality": GopherQualityConfig(max_mean_word_length=None, min_stop_words=None),
        "fineweb": FineWebConfig(
            min_punctuated_line_share=None,
            max_short_line_share=None,
            max_duplicate_line_character_share=0.1,
        ),
    },
    "code": {"url": UrlConfig(), "code": CodeConfig()},
}


@configclass
class FiltersConfig:
    """Quality rules for documents. A section that is None is switched off."""

    profile: Profile = "none"
    """Default of the sections that are not given. none: no rules; web-en: FineWeb's rules for
    English pages; web-any: rules that suit any language; code: rules for program files."""
    url: UrlConfig | None = _FROM_PROFILE
    """Filter by URL."""
    language: LanguageConfig | None = _FROM_PROFILE
    """Filter by language."""
    gopher_repetition: GopherRepetitionConfig | None = _FROM_PROFILE
    """Gopher's rules on repetition."""
    gopher_quality: GopherQualityConfig | None = _FROM_PROFILE
    """Gopher's rules on quality."""
    c4: C4Config | None = _FROM_PROFILE
    """C4's rules, which also take out lines."""
    fineweb: FineWebConfig | None = _FROM_PROFILE
    """FineWeb's additional rules."""
    code: CodeConfig | None = _FROM_PROFILE
    """Rules for program files."""

    def __post_init__(self) -> None:
        for name in SECTIONS:
            if getattr(self, name) is _FROM_PROFILE:
                object.__setattr__(self, name, _PROFILES[self.profile].get(name))

    @property
    def files_read(self) -> tuple[str, ...]:
        """Return the files that the filters depend on, in addition to this config."""
        gates = (gate for gate in (self.url, self.language) if gate is not None)
        return tuple(path for gate in gates for path in gate.files_read)

    def build(self) -> tuple[Step, ...]:
        """Return the steps, in order."""
        sections = (getattr(self, name) for name in SECTIONS)
        return tuple(section.build() for section in sections if section is not None)


def with_profile(name: Profile) -> FiltersConfig:
    """Return a profile with every section and threshold that it sets."""
    return FiltersConfig(profile=name)


def with_profile_option(filters: FiltersConfig, argv: Sequence[str]) -> FiltersConfig:
    """Return the filters that `--filters.profile NAME` in `argv` asks for, before the rest is
    parsed. A profile sets sections, and the options that exist depend on the sections. Another
    profile than the config's replaces all of its sections; the same one, or none, changes nothing.
    An unknown name is left to the parser, which refuses it.
    """
    name = find_option(argv, "--filters.profile")
    if name == filters.profile or name not in get_args(Profile):
        return filters
    return with_profile(name)  # type: ignore[arg-type]
