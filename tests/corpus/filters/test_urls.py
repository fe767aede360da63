"""The URL gate: one spelling of hosts, subdomains with their domain, words of an address."""

import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.corpus.filters.urls import UrlConfig, host_of
from jaxgpt.corpus.text.batch import TextBatch
from jaxgpt.errors import ConfigError, UsageError


@pytest.fixture
def config(tmp_path):
    domains, words = tmp_path / "domains.txt", tmp_path / "words.txt"
    domains.write_text("# spam\n\nExample.COM\nhttps://www.bad.org/page\nbücher.example\n", "utf-8")
    words.write_text("Casino\n  poker \n", "utf-8")
    return UrlConfig(domain_blocklist=str(domains), word_blocklist=str(words))


def judge(config: UrlConfig, *urls: str) -> list[str | None]:
    return list(config.build()(TextBatch(texts=["text"] * len(urls), urls=urls)).reasons)


def test_domains_and_their_subdomains_are_blocked_in_any_spelling(config):
    blocked = (
        "example.com",
        "http://EXAMPLE.com:8080/a?b#c",
        "//a.b.example.com.",
        "ftp://user:secret@example.com",
        "https://www.bad.org",
        "https://xn--bcher-kva.example/",
        "https://shop.BÜCHER.example?x=1",
    )
    assert judge(config, *blocked) == ["url_blocked_domain"] * len(blocked)


def test_others_pass(config):
    others = (
        "",
        "https://notexample.com",
        "https://example.com.net",
        "https://bad.org",
        "https://site.net/example.com",
        "https://site.net/?u=//example.com",
        "https://pokerface.net",
        "not a url",
        "http://[",
    )
    assert judge(config, *others) == [None] * len(others)


def test_words_are_whole_and_may_be_escaped(config):
    urls = ("https://site.net/best-CASINO_tips", "https://site.net/%70oker", "https://poker.net")
    assert judge(config, *urls) == ["url_blocked_words"] * 3
    two = UrlConfig(word_blocklist=config.word_blocklist, min_blocked_words=2)
    assert judge(two, "https://poker.net/poker", "https://poker.net/casino") == [
        None,
        "url_blocked_words",
    ]


def test_the_step_travels_to_another_process_with_its_lists(config):
    step = pickle.loads(pickle.dumps(config.build()))
    batch = TextBatch(texts=["x"], urls=["https://a.example.com"])
    assert step(batch).reasons == ["url_blocked_domain"]
    assert config.files_read == (config.domain_blocklist, config.word_blocklist)
    assert UrlConfig().files_read == ()


def test_a_list_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"--filters\.url\.domain-blocklist no/such\.txt"):
        UrlConfig(domain_blocklist="no/such.txt").build()
    with pytest.raises(ConfigError, match="at least 1"):
        UrlConfig(min_blocked_words=0)


LABEL = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)


@given(st.lists(LABEL, min_size=2, max_size=4), st.sampled_from(["", "http://", "HTTPS://u@"]))
def test_what_surrounds_a_host_does_not_matter(labels, before):
    host = ".".join(labels)
    for after in ("", "/", ":80", ".", "/path?query", "#x", "?y=//other.org/@"):
        assert host_of(before + host + after) == host.lower()
