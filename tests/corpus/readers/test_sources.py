"""Which files are input: all that were named, each once, in one order, and nothing else."""

import errno
import os
import random
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.corpus.documents.document import escape_name
from jaxgpt.corpus.readers.file_kinds import kind_of
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from jaxgpt.errors import ConfigError, JaxgptError, UsageError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder `in` with files of many kinds; the current directory is its parent."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.md", "sub/c.py", "sub/deep/d.jsonl.gz", "sub/e.parquet", "x.bin"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"text of " + name.encode())
    return tmp_path


def names(*arguments, excluded="out"):
    return [file.name for file in find_inputs(arguments, Path(excluded)).files]


def skipped(*arguments, excluded="out"):
    return find_inputs(arguments, Path(excluded)).skipped


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", ("text", "")),
        ("A.TXT", ("text", "")),
        ("a.rst.xz", ("text", ".xz")),
        ("a.html", ("text", "")),
        ("a.py.bz2", ("text", ".bz2")),
        ("a.jsonl.zst", ("jsonl", ".zst")),
        ("c4-train.00000.json.gz", ("json", ".gz")),
        ("a.parquet", ("parquet", "")),
        ("a.pdf", (None, "")),
        ("folder.txt/README", (None, "")),
    ],
)
def test_suffixes_say_what_a_file_is(name, expected):
    assert kind_of(name) == expected


def test_a_folder_is_searched_in_bytewise_order(tree):
    assert names("in") == [
        "in/a.md",
        "in/b.txt",
        "in/sub/c.py",
        "in/sub/deep/d.jsonl.gz",
        "in/sub/e.parquet",
    ]
    assert skipped("in") == {"unknown_kind": 1}


def test_the_order_of_arguments_does_not_matter(tree):
    arguments = ["in/sub", "in/b.txt", "in/a.md"]
    expected = find_inputs(arguments, Path("out")).files
    for seed in range(5):
        random.Random(seed).shuffle(arguments)
        assert find_inputs(arguments, Path("out")).files == expected


def test_a_file_named_twice_or_linked_is_read_once(tree):
    os.link("in/b.txt", "in/sub/z.txt")
    assert names("in", "in/b.txt", "./in/") == names("in")
    assert "in/sub/z.txt" not in names("in")
    assert skipped("in", "in/b.txt")["same_file"] == 2


def test_links_pipes_and_hidden_files_in_folders_are_passed_over(tree):
    expected = names("in")
    (tree / "elsewhere").mkdir()
    (tree / "elsewhere" / "secret.txt").write_text("not named by the user", "utf-8")
    os.symlink(tree / "elsewhere", "in/link")
    os.symlink(tree / "elsewhere" / "secret.txt", "in/link.txt")
    os.mkfifo("in/pipe.txt")
    os.makedirs("in/.git")
    Path("in/.git/a.txt").write_text("hidden", "utf-8")
    Path("in/.b.txt").write_text("hidden", "utf-8")
    assert names("in") == expected
    assert skipped("in") == {
        "hidden": 2,
        "not_a_regular_file": 1,
        "symbolic_link": 2,
        "unknown_kind": 1,
    }


def test_a_link_that_the_user_names_is_followed(tree):
    os.symlink("in/b.txt", "named.txt")
    os.symlink("in", "folder")
    assert names("named.txt") == ["named.txt"]
    assert names("folder/sub") == ["folder/sub/c.py", *names("folder/sub")[1:]]


def test_the_output_folder_is_no_input(tree):
    os.makedirs("in/out/train")
    Path("in/out/report.md").write_text("a report", "utf-8")
    assert names("in", excluded="in/out") == [n for n in names("in") if "/out/" not in n]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*/sub/*"], ["in/a.md", "in/b.txt"]),
        (["/sub/*"], ["in/a.md", "in/b.txt"]),
        (["*.txt", "*.py"], ["in/a.md", "in/sub/deep/d.jsonl.gz", "in/sub/e.parquet"]),
        (["sub/*", "in/*"], None),
    ],
)
def test_files_of_folders_can_be_excluded_by_pattern(tree, patterns, left):
    inputs = find_inputs(["in"], Path("out"), patterns)
    assert [file.name for file in inputs.files] == (left or names("in"))
    # What the user names is read all the same.
    named = find_inputs(["in/b.txt", "in/sub/c.py"], Path("out"), patterns)
    assert len(named.files) == 2


@pytest.mark.parametrize("pattern", ["in/**/*.py", "in/s*/c.py", "in/sub/[c].py"])
def test_globs(tree, pattern):
    assert names(pattern) == ["in/sub/c.py"]


def test_a_glob_may_find_folders(tree):
    assert names("in/s*") == names("in/sub")


@pytest.mark.parametrize("argument", ["nowhere.txt", "nothing/*.txt", "memory://nowhere/x.txt"])
def test_what_does_not_exist_is_named(tree, argument):
    with pytest.raises(UsageError, match=r"nowhere|nothing"):
        names("in", argument)


def test_no_input_at_all():
    with pytest.raises(UsageError, match="--input"):
        names()


def test_a_named_file_of_unknown_suffix_is_read_if_it_is_text(tree):
    Path("enwik8").write_text("plain text", "utf-8")
    assert find_inputs(["enwik8"], Path("out")).files[0].kind == "text"
    Path("archive.tar").write_bytes(b"name\0\0\0\0")
    with pytest.raises(UsageError, match=r"archive\.tar.*\.jsonl"):
        names("archive.tar")


def test_a_pipe_or_a_broken_link_that_is_named_is_refused(tree):
    os.mkfifo("pipe.txt")
    os.symlink("gone", "broken.txt")
    with pytest.raises(UsageError, match=r"pipe\.txt"):
        names("pipe.txt")
    with pytest.raises(UsageError, match=r"broken\.txt"):
        names("broken.txt")
    with pytest.raises(UsageError, match="/dev/zero is neither a regular file"):
        names("/dev/zero")


def test_a_path_that_goes_up_and_down_is_the_file_it_leads_to(tree):
    assert names("in/sub/../b.txt", "in/b.txt") == ["in/b.txt"]


def test_urls(tmp_path):
    memory = fsspec.filesystem("memory")
    for name in ("b.txt", "a.jsonl", "c.pdf"):
        memory.pipe(f"/corpus/{name}", b"text of " + name.encode())
    try:
        inputs = find_inputs(["memory://corpus"], tmp_path)
        assert [file.name for file in inputs.files] == [
            "memory:///corpus/a.jsonl",
            "memory:///corpus/b.txt",
        ]
        assert inputs.skipped == {"unknown_kind": 1}
        assert names("memory://corpus/*.txt") == ["memory:///corpus/b.txt"]
        with inputs.files[1].open() as file:
            assert file.read() == b"text of b.txt"
    finally:
        memory.rm("/corpus", recursive=True)


def test_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nope://x"):
        find_inputs(["nope://x/y.txt"], tmp_path)


def test_documents_of_a_folder_are_of_its_first_level(tree):
    sources = {file.name: file.source for file in find_inputs(["in"], Path("out")).files}
    assert sources["in/b.txt"] == "in"
    assert sources["in/sub/deep/d.jsonl.gz"] == "in/sub"


def test_names_that_are_not_utf8_are_shown_as_valid_text_and_stay_apart(tree):
    stored = [
        b"caf\xe9.txt",
        b"caf\xe8.txt",
        rb"caf\xe9.txt",
        rb"caf\x5cxe9.txt",
        b"a\\xe\\\xff.txt",
    ]
    os.mkdir("odd")
    for name in stored:
        with open(b"odd/" + name, "wb") as file:
            file.write(b"text of " + name)
    files = find_inputs(["odd"], Path("out")).files
    assert r"odd/caf\xe8.txt" in [file.name for file in files]
    assert len({file.name.encode() for file in files}) == len(stored)
    contents = set()
    for file in files:
        with file.open() as opened:
            contents.add(opened.read())
    assert contents == {b"text of " + name for name in stored}


@given(st.lists(st.binary(min_size=1, max_size=8), unique=True, max_size=6))
def test_different_names_are_different_when_escaped(given):
    names = [os.fsdecode(name) for name in given]
    escaped = [escape_name(name) for name in names]
    assert len({name.encode() for name in escaped}) == len(given)
    tricky = [*names, *escaped]
    assert len({escape_name(name) for name in tricky}) == len(set(tricky))


def test_a_quoted_pattern_reads_the_links_it_matches_as_the_hugging_face_cache_has_them(tree):
    os.makedirs("hub/blobs")
    os.makedirs("hub/snapshots/1")
    for number in range(2):
        Path(f"hub/blobs/{number:040x}").write_text(f"text {number}", "utf-8")
        os.symlink(f"../../blobs/{number:040x}", f"hub/snapshots/1/{number}.txt")
    os.symlink("../../blobs/gone", "hub/snapshots/1/gone.txt")
    assert names("hub/snapshots/*/*.txt") == ["hub/snapshots/1/0.txt", "hub/snapshots/1/1.txt"]
    assert skipped("hub/snapshots/*/*.txt") == {"broken_link": 1}
    assert names("hub/snapshots") == []


def test_what_is_passed_over_is_named_by_ending_with_an_example(tree, caplog):
    for name in ("b.zip", "a.zip", "paper.PDF", "Makefile"):
        Path("in", name).write_bytes(b"\0")
    os.symlink("b.txt", "in/link.txt")
    with caplog.at_level("INFO"):
        inputs = find_inputs(["in"], Path("out"))
    assert caplog.messages == [f"passed over: {line}" for line in inputs.passed_over]
    unknown, links = inputs.passed_over
    assert "2 .zip (in/a.zip), 1 .bin (in/x.bin), 1 .pdf (in/paper.PDF)" in unknown
    assert "no ending (in/Makefile)" in unknown
    assert unknown.startswith("5 of no known kind: ")
    assert links.startswith("1 behind symbolic links")
    assert "in/link.txt" in links


@pytest.mark.parametrize(
    "wrong", [{"max_bad_share": 1.5}, {"max_record_bytes": 0}, {"truncated_files": "maybe"}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SourcesConfig(**wrong)


@pytest.fixture
def failing_folder(tree, monkeypatch):
    """failing_folder(number): from now on listing `in/sub/deep` fails with this error."""

    def fail(number):
        scandir = os.scandir

        def refuse(path="."):
            if os.path.normpath(path) == "in/sub/deep":
                raise OSError(number, os.strerror(number), path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)

    return fail


@pytest.mark.parametrize("pattern", ["in", "in/**/*.gz", "in/*/deep/*", "in/**", "in/sub"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_a_folder_that_the_machine_cannot_list_is_named_and_nothing_is_read(
    failing_folder, pattern, number
):
    failing_folder(number)
    with pytest.raises(JaxgptError, match=f"in/sub/deep/?: {os.strerror(number)}") as caught:
        names(pattern)
    assert caught.value.exit_code == 1


def test_an_unlisted_folder_is_of_no_account_where_nothing_is_wanted_of_it(failing_folder):
    failing_folder(errno.EACCES)
    assert names("in/*.txt", "in/sub/*.py") == ["in/b.txt", "in/sub/c.py"]
    found = find_inputs(["in"], Path("out"), ["*/deep/*"])
    assert [file.name for file in found.files][-1] == "in/sub/e.parquet"
    assert found.skipped == {"excluded": 1, "unknown_kind": 1}


def test_a_folder_that_goes_away_is_counted(failing_folder):
    failing_folder(errno.ENOENT)
    assert skipped("in")["unreadable_folder"] == 1


def test_a_link_whose_file_cannot_be_reached_is_not_broken(tree, monkeypatch):
    os.symlink("b.txt", tree / "in" / "link.txt")
    status = os.stat

    def refuse(path, **keywords):
        if str(path).endswith("link.txt"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return status(path, **keywords)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(JaxgptError, match=r"in/link.txt: Permission denied"):
        names("in/l*.txt")
