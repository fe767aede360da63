"""Small shards become full ones: the sequence of tokens stays, whatever happens on the way."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.config import ShardsConfig
from jaxgpt.corpus.dataset import versions
from jaxgpt.corpus.merge import merge_shards
from jaxgpt.corpus.takedown.takedown import Takedown, take_down
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import MismatchError
from jaxgpt.tools.merge_shards import main
from tests.corpus.building import CONFIG, everything, stored_texts, write_lines
from tests.corpus.test_append import append, check_account

SHARDS = ShardsConfig(max_tokens=2000)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A dataset of a build and three small appends; one document is longer than a shard."""
    folder = tmp_path_factory.mktemp("grown")
    config = replace(CONFIG, shards=SHARDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for part in range(4):
            texts = [" ".join(f"w{part}x{n}x{at}" for at in range(30)) for n in range(5)]
            if part == 2:
                texts.append(" ".join(f"long{at}" for at in range(700)))
            lines = ({"id": f"d{part}-{n}", "text": text} for n, text in enumerate(texts))
            write_lines(f"{part}.jsonl", *lines)
            if part:
                append(f"{part}.jsonl", shards=SHARDS)
            else:
                build_dataset(["0.jsonl"], Path("out"), config)
    return folder


@pytest.fixture(autouse=True)
def here(grown, tmp_path, monkeypatch):
    """Every test has its own copy, as `out` in an empty folder."""
    shutil.copytree(grown / "out", tmp_path / "out")
    monkeypatch.chdir(tmp_path)


def sequence(split):
    """The tokens of a split, and where its documents begin."""
    stored = TokenDataset.open("out").splits[split]
    tokens = stored.read(0, stored.num_tokens)
    return tokens, stored.document_starts(0, stored.num_tokens)


def num_shards(split="train"):
    return len(TokenDataset.open("out").splits[split].shards)


def test_merged_shards_hold_the_same_sequence_and_are_full():
    before = {split: sequence(split) for split in ("train", "val")}
    index = Path("out/train/documents.parquet").read_bytes()
    many, fingerprint = num_shards(), TokenDataset.open("out").fingerprint
    manifest = merge_shards(Path("out"))
    assert num_shards() < many - 1
    for split, (tokens, starts) in before.items():
        np.testing.assert_array_equal(sequence(split)[0], tokens)
        np.testing.assert_array_equal(sequence(split)[1], starts)
        sizes = [shard["num_tokens"] for shard in manifest["splits"][split]["shards"]]
        assert max(sizes) <= 2000
        assert not any(2 * a < 2000 and 2 * b < 2000 for a, b in itertools.pairwise(sizes))
    TokenDataset.open("out").verify()
    assert Path("out/train/documents.parquet").read_bytes() == index
    check_account("out")
    entry = manifest["history"][-1]
    assert (entry["operation"], entry["fingerprint_before"]) == ("merge", fingerprint)
    assert entry["num_shards_before"]["train"] == many
    assert entry["num_shards"]["train"] == num_shards()
    named = {shard["path"] for split in manifest["splits"].values() for shard in split["shards"]}
    lying = {str(path.relative_to("out")) for path in Path("out").rglob("shard-*.bin")}
    assert lying == named


def test_merging_again_changes_nothing():
    merge_shards(Path("out"))
    before = everything("out")
    merge_shards(Path("out"))
    assert everything("out") == before


@pytest.mark.parametrize("where", ["sync_tree", "sync_folder", "_remove_unnamed_shards"])
def test_interrupted_anywhere_it_is_old_or_new_and_goes_on(monkeypatch, where):
    before = stored_texts("out")
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) > (where == "_remove_unnamed_shards"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(versions, where, fail)
        with pytest.raises(KeyboardInterrupt):
            merge_shards(Path("out"))
    assert stored_texts("out") == before
    merge_shards(Path("out"))
    assert stored_texts("out") == before
    TokenDataset.open("out").verify()
    assert not list(Path("out").glob(".next*"))


def test_appends_and_takedowns_go_on_after_a_merge():
    merge_shards(Path("out"))
    used = set(Path("out").rglob("shard-*.bin"))
    write_lines("more.jsonl", *({"id": f"m{n}", "text": f"more text {n * 77}"} for n in range(9)))
    append("more.jsonl", shards=SHARDS)
    assert used < set(Path("out").rglob("shard-*.bin"))
    take_down(Path("out"), Takedown(ids=("d1-1", "m3")))
    check_account("out")
    merge_shards(Path("out"))
    check_account("out")
    TokenDataset.open("out").verify()


def test_the_tool_says_how_many_shards_there_are(capsys):
    main(["--dataset", "out", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["num_shards"]["train"] == num_shards()
    main(["--dataset", "out"])
    assert f"train: {num_shards()} shards" in capsys.readouterr().out


def test_a_dataset_without_an_account_is_refused():
    Path("out/account.json").unlink()
    with pytest.raises(MismatchError, match=r"has no account\.json"):
        merge_shards(Path("out"))
