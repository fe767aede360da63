"""The account of a build: merging parts equals counting at once, and it closes or says so."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.stats import counts as tally_module
from jaxgpt.corpus.stats.counts import (
    OTHER_SOURCES,
    DocumentCounts,
    SourceCounts,
    make_sample,
    named_sources,
)

EVENTS = st.lists(
    st.tuples(
        st.sampled_from("pqr"),
        st.sampled_from([None, "empty", "malformed_json"]),
        st.dictionaries(st.sampled_from(["nul", "not_nfc"]), st.integers(1, 3)),
    ),
    max_size=30,
)


def count(events):
    tally = DocumentCounts()
    for number, (source, reason, repairs) in enumerate(events):
        document = Document(id=str(number), text="t", location="l", source=source, license="MIT")
        tally.count_read(document)
        num_bytes = 1 + len(repairs)
        tally.count_text(source, num_bytes)
        tally.count_repaired(repairs)
        if reason is not None:
            sample = make_sample("l", "", "t")
            tally.count_dropped(source, "read", reason, num_bytes, sample, is_bad=reason != "empty")
    return tally


@given(EVENTS, st.integers(0, 30))
@settings(max_examples=150, deadline=None)
def test_merged_parts_equal_the_whole_by_way_of_json(events, cut):
    whole = count(events)
    whole.check()
    merged = DocumentCounts()
    for part in (events[:cut], events[cut:]):
        merged.merge(DocumentCounts.from_json(json.loads(json.dumps(count(part).to_json()))))
    assert merged == whole
    assert whole.num_read == len(events) == whole.num_kept + whole.dropped.total()
    assert sum(source.read_bytes for source in whole.sources.values()) == whole.read_bytes
    for by in ("dropped", "dropped_at"):
        counts = (getattr(source, by).total() for source in whole.sources.values())
        assert sum(counts) == whole.dropped.total()
    dropped_bytes = sum(source.dropped_bytes.total() for source in whole.sources.values())
    assert dropped_bytes == whole.dropped_bytes.total()


def test_bytes_that_vanish_are_noticed():
    tally = count([("p", None, {})] * 5)
    tally.count_edited("p", "lines", 2)
    tally.count_edited("p", "lines", 1)
    tally.check()
    assert (tally.read_bytes, tally.kept_bytes) == (5, 2)
    tally.edited_bytes["lines"] += 1
    with pytest.raises(AssertionError, match="5 bytes were read"):
        tally.check()


def test_what_the_encoder_kept_must_be_what_was_left():
    tally = count([("p", None, {}), ("p", "empty", {}), ("q", None, {})])
    encoded = {"p": SourceCounts(kept=1, num_bytes=1), "q": SourceCounts(kept=1, num_bytes=1)}
    tally.merge_later_stage(DocumentCounts(sources=encoded))
    tally.check_kept()
    tally.sources["p"].kept += 1
    with pytest.raises(AssertionError, match="p: the account"):
        tally.check_kept()
    tally.sources["p"].kept -= 1
    tally.check_kept()
    tally.sources["q"].edited_bytes["lines"] += 1
    with pytest.raises(AssertionError, match="q: the account"):
        tally.check_kept()


def test_less_than_nothing_is_refused_although_the_sums_are_right():
    tally = count([("p", None, {})] * 2)
    encoded = {"p": SourceCounts(kept=2, num_bytes=2, num_tokens=-1)}
    tally.merge_later_stage(DocumentCounts(sources=encoded))
    with pytest.raises(AssertionError, match="p: the account has negative counts"):
        tally.check_kept()


def test_an_account_that_does_not_close_is_refused():
    tally = count([("p", None, {}), ("p", "empty", {})])
    tally.dropped["empty"] += 1
    with pytest.raises(AssertionError, match="2 records"):
        tally.check()


def test_few_samples_are_kept_however_many_are_dropped():
    tally = count([("p", "empty", {})] * 50)
    assert len(tally.samples["empty"]) == 5


SOURCES = st.lists(st.sampled_from("pqrstu"), max_size=20)


def counts_of(tally):
    return {name: source.read for name, source in tally.sources.items()}


def test_the_largest_sources_keep_their_name_and_none_is_lost(monkeypatch):
    monkeypatch.setattr(tally_module, "MAX_SOURCES", 2)
    tally = count([("p", None, {})] * 3 + [("q", None, {})] * 2 + [("r", None, {})] * 4)
    folded = tally.folded(named_sources(counts_of(tally)))
    assert counts_of(folded) == {"r": 4, OTHER_SOURCES: 5}


@given(SOURCES, st.lists(SOURCES, max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_source_has_all_its_documents_by_name_or_none(first, added):
    """However much is added, and whether it is little of a large source or much of a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally_module, "MAX_SOURCES", 3)
        stored = DocumentCounts()
        for part in (first, *added):
            counted = count([(source, None, {}) for source in part])
            stored.merge_added(counted.folded(named_sources(counts_of(counted), stored)))
            assert len(stored.sources) <= 3
        every = [source for part in (first, *added) for source in part]
        named = counts_of(stored)
        others = named.pop(OTHER_SOURCES, 0)
        assert named == {name: every.count(name) for name in named}
        assert others == len(every) - sum(named.values())
        if not others:
            assert set(every) == set(named)
