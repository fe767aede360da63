"""An exported folder is the same model and the same tokenizer in transformers."""

import errno
import json
import re
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.config import replace
from jaxgpt.errors import UsageError
from jaxgpt.export import main
from jaxgpt.interchange import weight_files
from jaxgpt.interchange.parity import our_logits
from jaxgpt.interchange.tokenizer_files import write_tokenizer
from jaxgpt.interchange.weight_files import WeightFiles
from jaxgpt.model.layers.feed_forward import Relu2
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import Run
from jaxgpt.storage.export_folder import is_export
from jaxgpt.tokenizer.chat_template import ROLES, ChatTemplate, Message
from jaxgpt.tokenizer.sentencepiece_model import CONTROL_PIECES, SPACE_SYMBOL
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.interchange.exported import CONFIGS, TEXTS, export, make_run_of
from tests.tiny import REPOSITORY, make_dataset

for _package in ("safetensors", "tokenizers"):
    pytest.importorskip(_package, reason="needs: pip install -e '.[export]'")

NUM_NEW = 64


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose tokenizer the runs have."""
    return make_dataset(tmp_path_factory.mktemp("export") / "data")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave transformers out: its import takes seconds."""
    monkeypatch.setattr("jaxgpt.interchange.parity.has_package", lambda *names: False)


@pytest.fixture
def run(tmp_path: Path, dataset: Path) -> Run:
    """A run with Qwen 3's architecture."""
    return make_run_of(CONFIGS["qwen3"], tmp_path / "run", dataset)


def test_a_folder_has_the_weights_in_shards_and_says_what_was_not_checked(
    run: Run, tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", str(run.directory), "--format", "huggingface"]
    main([*arguments, "--output", str(tmp_path / "one"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["architecture"] == "Qwen3ForCausalLM"
    assert said["max_logit_difference"] is said["ids_equal"] is None
    main([*arguments, "--output", str(tmp_path / "many"), "--shard-bytes", "8000"])
    assert "not checked" in capsys.readouterr().out
    one, many = (WeightFiles(tmp_path / name) for name in ("one", "many"))
    assert len(list((tmp_path / "many").glob("model-*-of-*.safetensors"))) > 3
    assert one.names == many.names
    assert all(np.array_equal(one.read(name), many.read(name)) for name in one.names)
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert (
        config["vocab_size"]
        == run.tokenizer.vocab_size
        == len(one.read("model.embed_tokens.weight"))
    )
    generation = json.loads((tmp_path / "one" / "generation_config.json").read_text())
    ends = [run.tokenizer.special_ids[name] for name in ("eos", "end")]
    assert generation["eos_token_id"] == config["eos_token_id"] == ends
    assert "held-out loss | 2.0000" in (tmp_path / "one" / "README.md").read_text()


def test_an_earlier_export_is_replaced_and_nothing_else(
    run: Run, tmp_path: Path, alone: None
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "own.txt").write_text("own")
    with pytest.raises(UsageError, match="is not an empty folder"):
        export(run, output)
    assert [path.name for path in output.iterdir()] == ["own.txt"]
    (output / "own.txt").unlink()
    for dtype in ("bfloat16", "float32"):
        export(run, output, dtype)
        assert is_export(output)
        assert json.loads((output / "config.json").read_text())["dtype"] == dtype
        weight = WeightFiles(output).read("model.norm.weight")
        assert weight.dtype.name == dtype
    # What somebody has put there since is not ours to delete.
    (output / "model.gguf").write_text("own")
    with pytest.raises(UsageError, match="is not an empty folder"):
        export(run, output)
    assert (output / "model.gguf").read_text() == "own"
    (output / "model.gguf").unlink()
    # A process was killed between the two renames.
    output.rename(output.with_name(f".{output.name}.old"))
    export(run, output)
    assert is_export(output)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_full_disk_is_told_as_such_and_leaves_the_earlier_export(
    run: Run, tmp_path: Path, alone: None, monkeypatch, capsys
) -> None:
    export(run, tmp_path / "out")
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def fail(*arguments) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr(weight_files.Path, "write_bytes", fail)
    arguments = ["--checkpoint", str(run.directory), "--format", "huggingface"]
    with pytest.raises(SystemExit) as stop:
        run_verb(main, [*arguments, "--output", str(tmp_path / "out")])
    assert stop.value.code == 1
    assert "error: the disk is full" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_model_that_nobody_reads_is_refused_by_its_field(
    tmp_path: Path, dataset: Path, capsys
) -> None:
    config = replace(CONFIGS["qwen3"], feed_forward=Relu2(hidden=48))
    run = make_run_of(config, tmp_path / "run", dataset)
    arguments = ["--checkpoint", str(run.directory), "--format", "huggingface"]
    with pytest.raises(SystemExit) as stop:
        run_verb(main, [*arguments, "--output", str(tmp_path / "out")])
    assert stop.value.code == 78
    said = capsys.readouterr().err
    assert "closest is Qwen3ForCausalLM, but model.feed_forward is Relu2, not SwiGlu. A" in said, (
        said
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # Imports torch and transformers: 10 CPU seconds.
@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen3", "gemma2"])
def test_transformers_computes_and_writes_the_same(
    name: str, tmp_path: Path, dataset: Path
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    run = make_run_of(CONFIGS[name], tmp_path / "run", dataset)
    parity = export(run, tmp_path / "out", shard_bytes=20_000)
    assert parity.max_logit_difference is not None
    assert parity.max_logit_difference < 1e-4
    assert parity.ids_equal

    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading.values())
    vocab_size = run.tokenizer.vocab_size
    prompt = np.random.default_rng(2).integers(8, vocab_size, (1, 5))
    theirs = model.generate(
        torch.tensor(prompt), do_sample=False, max_new_tokens=NUM_NEW, eos_token_id=None,
        attention_mask=torch.ones_like(torch.tensor(prompt)),
    )  # fmt: skip
    tokens = theirs.numpy().astype(np.int32)
    assert tokens.shape == (1, 5 + NUM_NEW)
    # Each token that they write is the one that we would write after those before it.
    params = run.restore_params(3, single_device_mesh())
    logits = our_logits(run.config.model, params, vocab_size, tokens)
    np.testing.assert_array_equal(logits[:, 4:-1].argmax(-1), tokens[:, 5:])


@pytest.mark.slow
def test_weights_in_bfloat16_are_the_same_rounded_model(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    parity = export(run, tmp_path / "out", "bfloat16")
    assert parity.max_logit_difference is not None
    assert parity.max_logit_difference < 1e-4


@pytest.fixture(scope="module", params=["bpe", "char", "unigram"])
def pair(request, tmp_path_factory: pytest.TempPathFactory):
    """A tokenizer, and the one that transformers reads from its files."""
    transformers = pytest.importorskip("transformers", reason="needs: pip install -e '.[parity]'")
    texts = [path.read_text() for path in sorted((REPOSITORY / "docs").glob("*.md"))]
    config = TokenizerConfig(kind=request.param, vocab_size=2000)
    tokenizer = train_tokenizer([part for text in texts for part in text.split("\n\n")], config)
    folder = tmp_path_factory.mktemp(request.param)
    write_tokenizer(tokenizer, folder, 64)
    return tokenizer, transformers.AutoTokenizer.from_pretrained(folder)


def _known_to(tokenizer: Tokenizer, text: str) -> str:
    """Leave out what transformers' class for unigram vocabularies reads in another way."""
    return re.sub(f"{SPACE_SYMBOL}|  +", " ", text) if tokenizer.kind == "unigram" else text


@pytest.mark.slow
def test_ids_are_equal_for_any_text(pair: tuple[Tokenizer, object]) -> None:
    tokenizer, theirs = pair

    @hypothesis.settings(max_examples=1000, database=None)
    @hypothesis.given(TEXTS)
    def check(text: str) -> None:
        text = _known_to(tokenizer, text)
        found = theirs(text, split_special_tokens=True, verbose=False)["input_ids"]
        assert found == [tokenizer.bos_id, *tokenizer.encode(text)]

    check()


@pytest.mark.slow
def test_ids_of_conversations_are_equal(pair: tuple[Tokenizer, object]) -> None:
    tokenizer, theirs = pair
    template = ChatTemplate(tokenizer)
    contents = TEXTS.filter(lambda text: not any(each in text for each in CONTROL_PIECES.values()))

    @hypothesis.settings(max_examples=100, database=None)
    @hypothesis.given(st.lists(contents, min_size=3, max_size=3))
    def check(texts: list[str]) -> None:
        texts = [_known_to(tokenizer, text) for text in texts]
        messages = [Message(*each) for each in zip(ROLES, texts, strict=True)]
        rows = [{"role": each.role, "content": each.content} for each in messages]
        found = theirs.apply_chat_template(rows, return_dict=True)["input_ids"]
        assert found == template.render(messages)[0].tolist()
        prompt = theirs.apply_chat_template(rows[:2], add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        assert prompt == template.render_prompt(messages[:2]).tolist()

    check()
