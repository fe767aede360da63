"""What documents are like: every one is counted once, as kept or as dropped, by its own bins."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.config import replace
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.cleaning.privacy import PrivacyConfig
from jaxgpt.corpus.stages import measure as measuring
from jaxgpt.corpus.stages import read
from jaxgpt.corpus.stages.measure import compressed_share
from jaxgpt.corpus.stats.measures import FATES, MEASURES
from tests.corpus.building import CONFIG, make_corpus, write_lines


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


def num_counted(measures, measure):
    return {fate: sum(measures[measure][fate].values()) for fate in FATES}


def test_every_document_is_counted_once_in_each_measure():
    make_corpus("in")
    manifest = build_dataset(["in"], Path("out"), CONFIG)
    counts, measures = manifest["counts"], manifest["measures"]
    assert measures["num_documents"] == measures["num_measured"]
    no_documents = sum(counts["dropped"][reason] for reason in ("empty", "malformed_json"))
    for measure in ("length", "language"):
        found = num_counted(measures, measure)
        assert found["kept"] == counts["kept"]
        assert found["dropped"] == counts["read"] - counts["kept"] - no_documents > 0


@pytest.mark.parametrize("partition_bytes", [4_000, 1_000_000])
def test_of_a_larger_corpus_a_sample_is_measured(monkeypatch, partition_bytes):
    make_corpus("in")
    whole = build_dataset(["in"], Path("whole"), CONFIG)
    num_documents = whole["measures"]["num_documents"]
    monkeypatch.setattr(read, "PARTITION_BYTES", partition_bytes)
    monkeypatch.setattr(measuring, "_MAX_DOCUMENTS", num_documents // 2)
    measures = build_dataset(["in"], Path("out"), CONFIG)["measures"]
    assert measures["num_documents"] == num_documents
    # Copies of a document have one place, and are measured together.
    assert num_documents // 2 <= measures["num_measured"] < 0.7 * num_documents
    assert sum(num_counted(measures, "length").values()) == measures["num_measured"]
    num_kept = num_counted(measures, "length")["kept"]
    assert 0.25 < num_kept / whole["counts"]["kept"] < 1
    # What is measured is part of the whole, bin by bin.
    for measure in MEASURES:
        for fate in FATES:
            for name, number in measures[measure][fate].items():
                assert number <= whole["measures"][measure][fate][name]
    assert "A sample was measured" in Path("out/report.html").read_text("utf-8")


def test_bins_are_those_of_the_text():
    chooser = random.Random(0)
    noise = "".join(chooser.choices("0123456789abcdefghijklmnopqrstuvwxyz+/ABCDEFGHIJKLMN", k=1500))
    write_lines(
        "a.jsonl",
        {"text": "the cat sat on the mat and it was not there when we came to see it " * 20},
        {"text": "Это был не тот человек, который мог бы так сказать, и он это знал. " * 9},
        {"text": "她说她不会来的,因为她没有时间。我们等了很久,但是没有人来。"},
        {"text": noise},
        {"text": "17 + 4 = 21"},
        {"text": "17 + 4 = 21"},
    )
    measures = build_dataset(["a.jsonl"], Path("out"), CONFIG)["measures"]
    assert measures["language"] == {
        "kept": {"en": 1, "ru": 1, "zh": 1, "uncertain, Latin": 1, "no letters": 1},
        "dropped": {"no letters": 1},
    }
    assert measures["length"]["dropped"] == {str((11).bit_length()): 1}
    # Two texts are too short for their compression to mean anything.
    compression = measures["compression"]["kept"]
    assert sum(compression.values()) == 3
    low, *_, high = sorted(map(int, compression))
    assert low < 2 * 20 * 0.1
    assert high >= 20 * 0.7


def test_extremes_show_what_training_sees():
    texts = [f"write to some.body{n}@mail.org or {'again ' * 100}" for n in range(5)]
    write_lines("a.jsonl", *({"text": text} for text in texts))
    config = replace(
        CONFIG,
        privacy=PrivacyConfig(email_replacement="nobody@example.com"),
        near_duplicates=replace(CONFIG.near_duplicates, enabled=False),
    )
    build_dataset(["a.jsonl"], Path("out"), config)
    page = Path("out/report.html").read_text("utf-8")
    assert "compress best" in page
    assert "nobody@example.com" in page
    assert "mail.org" not in page


@given(st.text(max_size=400), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_repeating_a_text_never_makes_it_compress_worse(text, times):
    once, repeated = compressed_share(text * 8), compressed_share(text * 8 * times)
    if once is not None:
        assert repeated is not None
        assert repeated <= once
    assert once is None or once > 0
