"""The file of an adapter is what the merged model has more than its base, also in llama.cpp."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.errors import ConfigError
from jaxgpt.export import main
from jaxgpt.interchange.gguf.lora import check_adapter
from jaxgpt.interchange.gpt2 import GPT2
from jaxgpt.interchange.qwen3 import QWEN3
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layers.adapters import Dora, Lora
from jaxgpt.runs.run import Run
from tests.adapter_run import make_adapter_run
from tests.interchange.exported import CONFIGS, make_run_of
from tests.tiny import make_dataset

gguf = pytest.importorskip("gguf", reason="needs: pip install -e '.[export]'")

# Llama's rows of queries and keys have another order there.
CONFIG = replace(CONFIGS["llama"], head=LanguageModelHead(tied=False))
ADAPTER = Lora(rank=4, alpha=3.0, rank_stabilized=True, token_ids=(5, 260, 7))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("lora")
    return make_run_of(CONFIG, folder / "base", make_dataset(folder / "data"))


@pytest.fixture(scope="module")
def tuned(base: Run) -> Run:
    return make_adapter_run(base.directory.parent / "tuned", base, ADAPTER)


def _export(run: Run, output: Path) -> None:
    main(
        ["--checkpoint", str(run.directory), "--format", "gguf", "--output", str(output), "--json"]
    )


def _read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    return keys, {each.name: np.array(each.data) for each in reader.tensors}


def test_the_base_and_the_adapter_are_the_merged_model(
    base: Run, tuned: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("llama_cpp", "export_gguf"):
        name = f"jaxgpt.interchange.gguf.{module}.has_package"
        monkeypatch.setattr(name, lambda *names: False)
    _export(tuned, tmp_path / "tuned")
    _export(base, tmp_path / "base")
    assert not (tmp_path / "base" / "adapter.gguf").exists()
    assert "--lora adapter.gguf" in (tmp_path / "tuned" / "README.md").read_text()
    (_, before), (_, after) = (_read(tmp_path / each / "model.gguf") for each in ("base", "tuned"))
    keys, adapter = _read(tmp_path / "tuned" / "adapter.gguf")
    assert keys["general.type"] == "adapter"
    assert keys["general.architecture"] == "llama"
    assert keys["adapter.type"] == "lora"
    names = {name.removesuffix(".lora_a").removesuffix(".lora_b") for name in adapter}
    assert len(adapter) == 2 * len(names)
    for name, old in before.items():
        change = after[name] - old
        if name not in names:
            assert not change.any(), name
            continue
        a, b = adapter[f"{name}.lora_a"], adapter[f"{name}.lora_b"]
        scale = keys["adapter.lora.alpha"] / b.shape[1]
        product = a @ b.T if name == "token_embd.weight" else b @ a
        assert np.abs(change).max() > 0.01
        np.testing.assert_allclose(scale * product, change, atol=1e-6, err_msg=name)
    # Seven projections of two layers, the embedding and the head.
    assert len(names) == 2 * 7 + 2


@pytest.mark.slow
def test_llama_cpp_adds_the_adapter_to_its_base(tuned: Run, tmp_path: Path, capsys) -> None:
    pytest.importorskip("xllamacpp", reason="needs: pip install -e '.[parity]'")
    _export(tuned, tmp_path / "out")
    said = json.loads(capsys.readouterr().out)
    assert said["no_adapter"] is None
    assert said["max_adapter_difference"] < 1e-5
    # The base was there for the comparison alone.
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "adapter.gguf", "jaxgpt_export.json", "model.gguf",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("adapter", "tied", "architecture", "message"),
    [
        (Dora(), False, QWEN3, "adds LoRA adapters alone, and this is Dora"),
        (Lora(token_ids=(5,)), True, QWEN3, r"an embedding that is the head, too \(adapter.tok"),
        (Lora(), True, GPT2, "keeps several projections in one layer"),
    ],
)
def test_what_llama_cpp_cannot_add_is_told(adapter, tied, architecture, message) -> None:
    config = replace(CONFIG, head=LanguageModelHead(tied=tied))
    with pytest.raises(ConfigError, match=message):
        check_adapter(adapter, config, architecture)
