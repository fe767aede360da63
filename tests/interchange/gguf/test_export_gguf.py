"""A GGUF file holds the same numbers, the same pieces and the keys that llama.cpp asks for."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.errors import ConfigError
from jaxgpt.export import main
from jaxgpt.interchange.gguf.tokenizer_keys import check_tokenizer
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import Run
from jaxgpt.storage.export_folder import is_export
from jaxgpt.tokenizer.sentencepiece_model import parse_model
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.interchange.exported import CONFIGS, make_run_of
from tests.tiny import make_dataset, make_texts

gguf = pytest.importorskip("gguf", reason="needs: pip install -e '.[export]'")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with Qwen 3's architecture."""
    folder = tmp_path_factory.mktemp("gguf")
    return make_run_of(CONFIGS["qwen3"], folder / "run", make_dataset(folder / "data"))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave llama.cpp out."""
    monkeypatch.setattr("jaxgpt.interchange.gguf.llama_cpp.has_package", lambda *names: False)


def _arguments(run: Run, output: Path, *more: str) -> list[str]:
    return ["--checkpoint", str(run.directory), "--format", "gguf", "--output", str(output), *more]


def _read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the keys of a file, and its tensors as float32."""
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        each.name: gguf.quants.dequantize(each.data, each.tensor_type) for each in reader.tensors
    }
    return keys, tensors


def test_a_file_read_back_has_equal_tensors_pieces_and_keys(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(_arguments(run, tmp_path / "out", "--json"))
    said = json.loads(capsys.readouterr().out)
    assert said["architecture"] == "qwen3"
    assert said["max_logprob_difference"] is said["ids_equal"] is None
    keys, tensors = _read(tmp_path / "out" / "model.gguf")
    params = run.restore_params(3, single_device_mesh())
    blocks = params["blocks"]
    pairs = {
        "token_embd.weight": params["embedding"]["table"][: run.tokenizer.vocab_size],
        "output_norm.weight": params["final_norm"]["scale"],
        "blk.0.attn_q.weight": np.asarray(blocks["attention"]["query"]["kernel"])[0]
        .reshape(32, -1)
        .T,
        "blk.1.attn_output.weight": np.asarray(blocks["attention"]["output"]["kernel"])[1]
        .reshape(-1, 32)
        .T,
        "blk.1.attn_k_norm.weight": blocks["attention"]["key_norm"]["scale"][1],
        "blk.0.ffn_norm.weight": blocks["feed_forward_norm"]["scale"][0],
        "blk.1.ffn_gate.weight": blocks["feed_forward"]["gate"]["kernel"][1].T,
        "blk.1.ffn_down.weight": blocks["feed_forward"]["down"]["kernel"][1].T,
    }
    for name, ours in pairs.items():
        np.testing.assert_array_equal(tensors[name], ours, err_msg=name)
    # Two tables of a layer more than Llama, and a head that is the embedding.
    assert len(tensors) == 2 + 2 * 11

    assert keys["qwen3.attention.head_count_kv"] == 2
    assert keys["qwen3.attention.key_length"] == 12
    assert keys["qwen3.context_length"] == run.config.batch.sequence_length
    assert keys["qwen3.rope.freq_base"] == 500.0
    assert keys["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-2)
    pieces = parse_model(run.tokenizer.model).pieces
    assert keys["tokenizer.ggml.tokens"] == [piece.piece for piece in pieces]
    assert keys["tokenizer.ggml.scores"] == [piece.score for piece in pieces]
    assert keys["tokenizer.ggml.token_type"] == [piece.type for piece in pieces]
    assert not keys["tokenizer.ggml.add_space_prefix"]
    ids = run.tokenizer.special_ids
    assert keys["tokenizer.ggml.eos_token_id"] == ids["eos"]
    assert keys["tokenizer.ggml.eot_token_id"] == ids["end"]


def test_types_round_matrices_and_nothing_else(run: Run, tmp_path: Path) -> None:
    main(_arguments(run, tmp_path / "exact"))
    _, exact = _read(tmp_path / "exact" / "model.gguf")
    # Half the distance between two numbers of a type, relative to the largest of a block; the scale
    # of a block is itself a float16.
    errors = {"F16": 2**-11, "BF16": 2**-8, "Q8_0": 0.5 / 127 + 2**-11}
    for dtype, error in errors.items():
        # An earlier export is replaced.
        main(_arguments(run, tmp_path / "out", "--dtype", dtype))
        assert is_export(tmp_path / "out")
        _, found = _read(tmp_path / "out" / "model.gguf")
        for name, ours in exact.items():
            if ours.ndim == 1:
                np.testing.assert_array_equal(found[name], ours)
                continue
            difference = np.abs(found[name] - ours)
            assert 0 < difference.max() <= error * np.abs(ours).max(), (name, dtype)


def test_shards_hold_all_tensors(run: Run, tmp_path: Path) -> None:
    main(_arguments(run, tmp_path / "out", "--shard-bytes", "20000"))
    paths = sorted((tmp_path / "out").glob("model-*-of-*.gguf"))
    assert len(paths) > 2
    shards = [_read(path)[1] for path in paths]
    for tensors in shards:
        # A single tensor may have more.
        assert len(tensors) == 1 or sum(each.nbytes for each in tensors.values()) <= 20_000
    assert sum(map(len, shards)) == 2 + 2 * 11


def test_a_full_disk_is_told_as_such(run: Run, tmp_path: Path, monkeypatch, capsys) -> None:
    def fail(self: object) -> None:
        # As NumPy says it.
        raise OSError("3000 requested and 2048 written")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", fail)
    with pytest.raises(SystemExit) as stop:
        run_verb(main, _arguments(run, tmp_path / "out"))
    assert stop.value.code == 1
    assert "error: the disk is full" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_type_of_another_format_is_refused(run: Run, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        run_verb(main, _arguments(run, tmp_path / "out", "--dtype", "bfloat16"))
    assert stop.value.code == 2
    assert "--format gguf, which has F32, F16, BF16, Q8_0" in capsys.readouterr().err


def test_a_unigram_vocabulary_is_refused_by_name() -> None:
    tokenizer = train_tokenizer(make_texts(200), TokenizerConfig(kind="unigram", vocab_size=300))
    with pytest.raises(ConfigError, match=r"of the kind 'unigram', .* kinds that are: bpe, char"):
        check_tokenizer(tokenizer)
