"""A published folder becomes a run that computes and encodes the same."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.errors import ConfigError, MismatchError, UsageError
from jaxgpt.interchange.import_run import STEP, import_huggingface
from jaxgpt.interchange.weight_files import WeightFiles
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import open_run
from jaxgpt.tokenizer.chat_template import ChatTemplate, Message
from jaxgpt.tokenizer.tokenizer import Tokenizer
from tests.interchange.exported import CONFIGS, export, make_run_of
from tests.parity.families import FAMILIES
from tests.tiny import make_dataset, make_texts

tokenizers = pytest.importorskip("tokenizers", reason="needs: pip install -e '.[export]'")
pytest.importorskip("safetensors", reason="needs: pip install -e '.[export]'")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave transformers out: its import takes seconds."""
    monkeypatch.setattr("jaxgpt.interchange.parity.has_package", lambda *names: False)


@pytest.mark.parametrize("name", ["gpt2", "llama3", "llama_yarn", "qwen3", "mistral", "gemma2"])
def test_an_export_comes_back_bit_for_bit(name: str, tmp_path: Path, alone: None) -> None:
    run = make_run_of(CONFIGS[name], tmp_path / "run", make_dataset(tmp_path / "data"))
    export(run, tmp_path / "first", shard_bytes=20_000)
    length = run.config.batch.sequence_length
    import_huggingface(tmp_path / "first", tmp_path / "back", length, chat_tokens=False)
    back = open_run(tmp_path / "back")
    assert back.tokenizer.fingerprint == run.tokenizer.fingerprint
    mesh, size = single_device_mesh(), run.tokenizer.vocab_size
    before, after = run.restore_params(3, mesh), back.restore_params(STEP, mesh)
    for params in (before, after):
        params["embedding"]["table"] = params["embedding"]["table"][:size]
        if "head" in params:
            params["head"]["kernel"] = params["head"]["kernel"][:, :size]
    jax.tree.map(np.testing.assert_array_equal, before, after)
    export(back, tmp_path / "second", shard_bytes=20_000, step=STEP)
    for path in (tmp_path / "first").iterdir():
        if path.suffix in (".safetensors", ".json", ".jinja", ".model"):
            same = path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
            assert same or path.name == "jaxgpt_export.json", path.name


def test_what_is_not_known_is_refused_by_name(tmp_path: Path, alone: None) -> None:
    run = make_run_of(CONFIGS["llama"], tmp_path / "run", make_dataset(tmp_path / "data"))
    folder, output = tmp_path / "out", tmp_path / "back"
    export(run, folder)
    config = json.loads((folder / "config.json").read_text())

    def refuse(change: dict, error: type[Exception], match: str) -> None:
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(error, match=match):
            import_huggingface(folder, output, None, chat_tokens=False)
        assert not output.exists()

    refuse({"sliding_windw": 5}, ConfigError, "has the field 'sliding_windw'")
    refuse({"hidden_act": "relu"}, ConfigError, "hidden_act='relu'; only hidden_act='silu'")
    refuse({"architectures": ["MambaForCausalLM"]}, ConfigError, "architecture 'MambaForCausalLM'")
    scaling = {"rope_type": "longrope", "factor": 2.0}
    refuse({"rope_scaling": scaling}, ConfigError, "rope_scaling has the type 'longrope'")
    scaling = {"rope_type": "linear", "factor": 2.0, "mscale": 1.0}
    refuse({"rope_scaling": scaling}, ConfigError, "has the field 'mscale'")
    refuse({"num_hidden_layers": 3}, MismatchError, r"lack model\.layers\.2\.")
    refuse({"num_hidden_layers": 1}, MismatchError, r"no place in the model, such as model\.layers")
    refuse({"intermediate_size": 40}, MismatchError, "does not fit the shape")
    refuse({"vocab_size": 100}, MismatchError, "the tokenizer has 320 ids, and the model 100")
    del config["hidden_size"]
    refuse({}, ConfigError, "lacks the field 'hidden_size'")
    (folder / "model.safetensors").write_bytes(b"no tensors")
    refuse({"hidden_size": 32}, MismatchError, "model.safetensors is damaged")
    (folder / "model.safetensors").unlink()
    refuse({"hidden_size": 32}, UsageError, "save them as safetensors first")


def byte_level_tokenizer(vocab_size: int) -> dict:
    """The content of a tokenizer.json as GPT-2, Llama 3 and Qwen have one."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(make_texts(100), trainer)
    return json.loads(made.to_str())


def publish(name: str, folder: Path) -> None:
    """Save a model of transformers with random weights, and a tokenizer of its size."""
    family = FAMILIES[name]
    settings = {"vocab_size": 300, "eos_token_id": 0, "bos_token_id": 0}
    model = dataclasses.replace(family, settings=family.settings | settings).build_published()
    model.save_pretrained(folder, max_shard_size="20KB")
    # Settings that all families are given, and GPT-2 does not know.
    saved = json.loads((folder / "config.json").read_text())
    foreign = {"intermediate_size", "rms_norm_eps"} if name == "gpt2" else set()
    saved = {key: value for key, value in saved.items() if key not in foreign}
    (folder / "config.json").write_text(json.dumps(saved))
    (folder / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(290)))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.slow  # Imports torch and transformers: 10 CPU seconds.
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "mixtral"])
def test_a_folder_of_transformers_becomes_a_run(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    publish(name, tmp_path / "published")
    _, parity = import_huggingface(
        tmp_path / "published", tmp_path / "run", None, chat_tokens=False
    )
    assert parity.max_logit_difference is not None
    assert parity.max_logit_difference < 1e-4
    assert parity.ids_equal
    run = open_run(tmp_path / "run")
    assert run.config.model.num_layers == FAMILIES[name].config.num_layers
    text = "the cat\n  said <|endoftext|>: é 🙂"
    ids = run.tokenizer.encode(text)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "published")
    assert ids == theirs(text, split_special_tokens=True)["input_ids"]
    assert run.tokenizer.decode(ids) == text
    assert run.tokenizer.bytes_per_token[ids].sum() == len(text.encode())


def test_control_tokens_of_conversations_are_added_on_request(tmp_path: Path, alone: None) -> None:
    run = make_run_of(CONFIGS["gpt2"], tmp_path / "own", make_dataset(tmp_path / "data"))
    folder = tmp_path / "published"
    export(run, folder)
    # Fewer ids than the table has rows, as many published models have.
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(310)))
    config = {"eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    import_huggingface(folder, tmp_path / "plain", None, chat_tokens=False)
    plain = open_run(tmp_path / "plain").tokenizer
    with pytest.raises(MismatchError, match="--chat-tokens"):
        ChatTemplate(plain)
    import_huggingface(folder, tmp_path / "chat", None, chat_tokens=True)
    chat = open_run(tmp_path / "chat")
    assert chat.tokenizer.vocab_size == plain.vocab_size + 4
    ids, _ = ChatTemplate(chat.tokenizer).render([Message("user", "a"), Message("assistant", "b")])
    assert set(chat.tokenizer.special_ids.values()) & set(ids.tolist()) == {
        chat.tokenizer.special_ids[name] for name in ("bos", "user", "assistant", "end")
    }
    table = np.asarray(chat.restore_params(STEP, single_device_mesh())["embedding"]["table"])
    published = WeightFiles(folder).read("transformer.wte.weight")
    size = plain.vocab_size
    np.testing.assert_array_equal(table[:size], published[:size])
    np.testing.assert_allclose(table[size], published[:size].mean(0), rtol=1e-5, atol=1e-6)
    # A file of the run opens by itself.
    assert Tokenizer.load(tmp_path / "chat").fingerprint == chat.tokenizer.fingerprint
    export(chat, tmp_path / "again", step=STEP)
    assert (tmp_path / "again" / "tokenizer.json").is_file()
