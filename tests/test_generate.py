"""`python -m jaxgpt.generate`: what it prints, that a seed repeats it, and its errors."""

import errno
import json
import re
import sys
from pathlib import Path

import pytest

from jaxgpt import generate
from jaxgpt.command_line import run_verb
from jaxgpt.errors import JaxgptError
from jaxgpt.inference import DraftModel
from jaxgpt.inference.engine.forms.text_form import FormOptions
from jaxgpt.model.layers.positions import Learned
from jaxgpt.runs.decoding import DecodingOptions
from jaxgpt.runs.run import Run
from jaxgpt.tokenizer.tokenizer import Tokenizer
from tests.run_folder import make_run
from tests.tiny import make_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("generate")
    make_run(folder / "run", make_dataset(folder / "data"), {10: 3.0, 20: 4.0})
    return str(folder / "run")


def out(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    generate.main(argv)
    return capsys.readouterr().out


def samples(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, str]]:
    return json.loads(out(capsys, *argv, "--json"))["samples"]


def test_the_streamed_text_is_that_of_the_json(run: str, capsys) -> None:
    argv = ("--checkpoint", run, "--prompt", "the cat", "some", "--num-samples", "2")
    argv += ("--max-new-tokens", "9", "--temperature", "1.5")
    printed = out(capsys, *argv)
    found = samples(capsys, *argv)
    assert [sample["prompt"] for sample in found] == ["the cat", "the cat", "some", "some"]
    assert printed == "".join(
        f"--- {number} of 4 ---\n{sample['prompt']}{sample['text']}\n"
        for number, sample in enumerate(found, 1)
    )
    assert found[0]["text"] != found[1]["text"]
    without = out(capsys, *argv, "--echo", "False")
    assert without.splitlines()[1] == found[0]["text"].splitlines()[0]


def test_the_seed_decides_and_the_batch_does_not(run: str, capsys) -> None:
    argv = ("--checkpoint", run, "--max-new-tokens", "9", "--prompt", "the", "--temperature", "2")
    first = samples(capsys, *argv, "--seed", "3")
    assert samples(capsys, *argv, "--seed", "3") == first
    assert samples(capsys, *argv, "--seed", "4") != first
    assert samples(capsys, *argv, "--seed", "3", "--num-samples", "3")[0] == first[0]


@pytest.mark.slow
def test_speculation_changes_no_text(run: str, capsys) -> None:
    argv = ("--checkpoint", run, "--max-new-tokens", "12", "--prompt", "the cat the cat", "some")
    argv += ("--seed", "3", "--temperature", "0.8", "--stop", "zz")
    drafted = ("--speculation", "NgramLookup", "--speculation.shortest", "1")
    found = json.loads(out(capsys, *argv, *drafted, "--json"))
    assert found["samples"] == samples(capsys, *argv)
    counts = found["speculation"]
    assert 0 <= counts["accepted_tokens"] <= counts["drafted_tokens"]
    slid = (*argv, "--slide-window")
    assert samples(capsys, *slid, *drafted) == samples(capsys, *slid)
    twin = ("--speculation", "DraftModel", "--speculation.checkpoint", run)
    found = json.loads(out(capsys, *argv, *twin, "--json"))
    assert found["samples"] == samples(capsys, *argv)
    counts = found["speculation"]
    assert counts["accepted_tokens"] == counts["drafted_tokens"] > 0


def test_a_run_that_cannot_draft_is_refused_before_the_large_model_is_restored(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "restore_params", None)
    options = DecodingOptions(speculation=DraftModel(checkpoint=f"{run}-elsewhere"))
    with pytest.raises(JaxgptError, match="-elsewhere"):
        options.open(run, "latest")


def test_one_sample_streams_without_a_header_and_no_prompt_begins_a_document(
    run: str, capsys
) -> None:
    text = out(capsys, "--checkpoint", run, "--max-new-tokens", "5", "--temperature", "0")
    assert "---" not in text
    assert text.endswith("\n")
    (sample,) = samples(capsys, "--checkpoint", run, "--max-new-tokens", "5", "--temperature", "0")
    assert sample["prompt"] == ""
    assert sample["text"] + "\n" == text


def test_weights_and_cache_in_8_bits_are_chosen_by_name(run: str, capsys) -> None:
    argv = ("--checkpoint", run, "--max-new-tokens", "9", "--prompt", "the", "--temperature", "2")
    texts = [
        samples(capsys, *argv, *more)[0]["text"]
        for more in ((), ("--weights", "int8", "--cache", "int8"), ("--cache", "model"))
    ]
    assert texts[0] == texts[2]
    assert texts[1]


def test_devices_that_share_the_model_write_what_one_writes(run: str, capsys) -> None:
    # The one key and value head lies on both.
    argv = ("--checkpoint", run, "--max-new-tokens", "9", "--prompt", "the", "--temperature", "0")
    assert samples(capsys, *argv, "--mesh.tensor", "2") == samples(capsys, *argv)


def test_stop_strings_end_the_text_and_are_not_shown(run: str, capsys) -> None:
    argv = ("--checkpoint", run, "--prompt", "the", "--max-new-tokens", "40", "--top-k", "20")
    (free,) = samples(capsys, *argv)
    stop = free["text"][5:7]
    (stopped,) = samples(capsys, *argv, "--stop", "never seen", stop)
    assert stopped["text"] == free["text"][: free["text"].index(stop)]
    assert stopped["finish"] == "stop"
    assert samples(capsys, *argv, "--stop", "never seen", "--stop", stop) == [stopped]


def test_the_step_is_chosen_by_name_or_number(run: str, capsys) -> None:
    argv = ("--checkpoint", run, "--max-new-tokens", "3", "--json", "--step")
    for name, step in (("latest", 20), ("best", 10), ("20", 20)):
        assert json.loads(out(capsys, *argv, name))["step"] == step


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (("--temperature", "nan"), 78, "temperature = nan; allowed: finite"),
        (("--top-p", "0"), 78, "top_p = 0.0; allowed: above 0, up to 1"),
        (("--top-k", "-2"), 78, "top_k = -2; allowed: None (off) or at least 1"),
        (("--mesh.tensor", "9"), 78, "mesh.tensor=9 and mesh.expert=1 need 9 devices; there are 8"),
        (("--mesh.expert", "0"), 78, "expert must be at least 1, not 0"),
        (("--max-new-tokens", "0"), 2, "--max-new-tokens 0 must be at least 1"),
        (("--num-samples", "-1"), 2, "--num-samples -1 must be at least 1"),
        (("--seed", "-1"), 2, "--seed -1 must be from 0 to 2**64 - 1"),
        (("--stop", ""), 2, "--stop must not be empty"),
        (("--step", "15"), 2, "there are 10, 20"),
        (("--tempreature", "1"), 2, "did you mean --temperature?"),
        (("--prompt", "\udcff"), 82, "lone surrogate"),
        (("--regex", "a", "--json-schema", "x"), 2, "give one of them"),
    ],
)
def test_errors_are_one_line_with_the_right_code(
    run: str, capsys, argv: tuple[str, ...], code: int, message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_verb(generate.main, ["--checkpoint", run, *argv])
    printed = capsys.readouterr()
    assert stop.value.code == code
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


SCHEMA = {
    "type": "object",
    "properties": {"big": {"type": "boolean"}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["big", "kind"],
    "additionalProperties": False,
}


@pytest.fixture
def llguidance() -> None:
    pytest.importorskip("llguidance", reason="needs: pip install -e '.[serve]'")


@pytest.mark.usefixtures("llguidance")
def test_a_text_has_the_form_of_a_schema_or_an_expression(run: str, tmp_path: Path, capsys) -> None:
    file = tmp_path / "animal.json"
    file.write_text(json.dumps(SCHEMA))
    argv = ("--checkpoint", run, "--prompt", "the cat", "the ", "--temperature", "2")
    argv += ("--max-new-tokens", "60")
    found = samples(capsys, *argv, "--num-samples", "3", "--json-schema", str(file))
    texts = {sample["text"] for sample in found}
    assert {tuple(json.loads(text)) for text in texts} == {("big", "kind")}
    assert len(texts) > 1
    assert {sample["finish"] for sample in found} == {"stop"}
    assert found[0]["prompt"] == "the cat"
    for sample in samples(capsys, *argv, "--regex", "[ab]{20}|xy", "--slide-window"):
        assert re.fullmatch("[ab]{20}|xy", sample["text"])


@pytest.mark.usefixtures("llguidance")
def test_a_text_that_is_cut_off_before_it_has_its_form_is_a_warning(
    run: str, capsys, caplog
) -> None:
    argv = ("--checkpoint", run, "--regex", "a{50}", "--max-new-tokens", "4")
    assert samples(capsys, *argv)[0]["finish"] == "length"
    assert "cut off before it had its form; raise --max-new-tokens" in caplog.text


@pytest.mark.usefixtures("llguidance")
@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (None, 2, "animal.json cannot be read: No such file or directory; give a file"),
        (b"\xff", 82, "is not UTF-8"),
        (b"{", 82, "animal.json: the schema is not JSON"),
        (b"[]", 82, "animal.json: the schema is no object"),
        (b'{"items": {"uniqueItems": true}}', 82, "'uniqueItems' at '#/items' is not enforced"),
        (b'{"type": "number", "minimum": "1"}', 82, "animal.json: Expected f64 for 'minimum'"),
    ],
)
def test_a_schema_that_cannot_be_followed(
    run: str, tmp_path: Path, capsys, text: bytes | None, code: int, message: str
) -> None:
    file = tmp_path / "animal.json"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(SystemExit) as stop:
        run_verb(generate.main, ["--checkpoint", run, "--json-schema", str(file)])
    assert stop.value.code == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("llguidance")
@pytest.mark.parametrize("form", [("--regex", "a", "--stop", "b"), ("--json-schema", "x" * 300)])
def test_a_wrong_form_is_told_before_a_model_is_read(capsys, form: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_verb(generate.main, ["--checkpoint", "nowhere", *form])
    assert stop.value.code == 2
    assert form[0] in capsys.readouterr().err


@pytest.mark.usefixtures("llguidance")
def test_a_disk_that_fails_is_no_wrong_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, encoding: str) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(OSError, match="Input/output error"):
        FormOptions(json_schema="animal.json").read(stop=())


def test_a_form_without_its_package_says_what_to_install(run: str, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(SystemExit) as stop:
        run_verb(generate.main, ["--checkpoint", run, "--regex", "a"])
    assert stop.value.code == 78
    assert "llguidance" in (error := capsys.readouterr().err)
    assert "pip install -e '.[serve]'" in error


def test_more_tokens_than_learned_positions_are_refused(run: str, tmp_path: Path, capsys) -> None:
    dataset = Path(run).parent / "data"
    make_run(tmp_path / "run", dataset, {10: 3.0}, position=Learned(max_length=20))
    argv = ["--checkpoint", str(tmp_path / "run"), "--prompt", "the", "--max-new-tokens", "50"]
    with pytest.raises(SystemExit) as stop:
        run_verb(generate.main, argv)
    assert stop.value.code == 2
    assert "50 new ones do not fit" in capsys.readouterr().err


def test_a_run_that_does_not_exist_or_holds_nothing(tmp_path: Path, capsys) -> None:
    for folder, code in ((tmp_path / "none", 2), (tmp_path, 79)):
        with pytest.raises(SystemExit) as stop:
            run_verb(generate.main, ["--checkpoint", str(folder)])
        assert stop.value.code == code
        assert str(folder) in capsys.readouterr().err


def test_a_sliding_window_goes_on_beyond_learned_positions(
    run: str, tmp_path: Path, capsys
) -> None:
    dataset = Path(run).parent / "data"
    make_run(tmp_path / "run", dataset, {10: 3.0}, position=Learned(max_length=20))
    argv = ("--checkpoint", str(tmp_path / "run"), "--prompt", "the", "--max-new-tokens", "50")
    (sample,) = samples(capsys, *argv, "--slide-window", "--temperature", "0.5")
    tokenizer = Tokenizer.load(dataset)
    assert sample["finish"] == "stop" or len(tokenizer.encode(sample["text"])) > 20


def test_a_latest_step_that_is_not_the_best_is_said_and_the_best_one_offered(
    run: str, tmp_path: Path, capsys, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = Path(run).parent / "data"
    argv = ("--max-new-tokens", "1", "--checkpoint")
    for name, losses, is_said in (
        ("a", {10: 3.0, 20: 3.4}, True),
        ("b", {10: 3.0, 20: 2.9}, False),
    ):
        make_run(tmp_path / name, dataset, losses)
        caplog.clear()
        out(capsys, *argv, str(tmp_path / name))
        assert ("--step best takes it" in caplog.text) == is_said
        out(capsys, *argv, str(tmp_path / name), "--step", "best")
        assert caplog.text.count("--step best") == is_said
