"""The filter that docs/filters.md writes as an example works, and its tables hold the defaults."""

import re
import sys
import types

import pytest

from jaxgpt.corpus.filters.config import with_profile
from jaxgpt.corpus.text.batch import TextBatch
from tests.tiny import REPOSITORY

PAGE = (REPOSITORY / "docs" / "filters.md").read_text()


def test_the_example_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    module = types.ModuleType("links")
    monkeypatch.setitem(sys.modules, "links", module)
    exec(code, vars(module))
    links = "http://a.org https://b.org http://c.org"
    batch = TextBatch(texts=["No link here.", links, f"{links}\nand more"], urls=[""] * 3)
    assert module.LinksConfig().build()(batch).reasons == [None, "too_many_links", None]
    assert module.LinksConfig(max_links_per_line=None).build()(batch).reasons == [None] * 3


def test_the_page_names_every_reason_that_the_profiles_can_give() -> None:
    source = "".join(
        path.read_text() for path in (REPOSITORY / "jaxgpt/corpus/filters").glob("*.py")
    )
    reasons = set(re.findall(r'"((?:url|gopher|c4|fineweb|code)_[a-z_]+)"', source))
    reasons -= {"gopher_repetition", "gopher_quality"}  # sections
    assert len(reasons) >= 25
    missing = {
        reason
        for reason in reasons
        if reason not in PAGE and not re.fullmatch(r"gopher_duplicate_\w+_characters", reason)
    }
    assert not missing


def test_the_page_names_every_section() -> None:
    for profile in ("web-en", "web-any", "code"):
        for step in with_profile(profile).build():
            assert sys.modules[type(step).__module__].__name__.rpartition(".")[2] in PAGE
