"""An adapter that leaves is the same next to its base in PEFT as merged here."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.config import replace
from jaxgpt.errors import ConfigError, MismatchError
from jaxgpt.export import main
from jaxgpt.finetune import main as finetune
from jaxgpt.interchange.gpt2 import GPT2
from jaxgpt.interchange.peft.export_peft import name_projections
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layers.adapters import Lora
from jaxgpt.model.peft_format import from_peft, to_peft, with_token_rows
from jaxgpt.storage.export_folder import is_export
from tests.interchange.exported import CONFIGS, make_run_of
from tests.tiny import make_dataset
from tests.tuned_runs import JOBS, arguments

safetensors = pytest.importorskip("safetensors.numpy", reason="needs: pip install -e '.[export]'")

# Rows that divide among the simulated devices.
MORE = (
    "--batch.global-batch-size",
    "8",
    "--runtime.compile-cache",
    "",
    "--batch.sequence-length",
    "16",
)


def test_projections_that_share_a_layer_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"GPT2LMHeadModel keeps several .*c_attn.weight"):
        name_projections(GPT2)


def test_rows_of_tokens_are_not_read_again() -> None:
    adapter = Lora(rank=2, alpha=4.0, targets=("query",), token_ids=(3, 5))
    a, b = np.ones((1, 4, 2), np.float32), np.ones((1, 2, 4), np.float32)
    own = {"attention": {"query": {"lora_a": a, "lora_b": b}}}
    kernels = {"attention": {"query": {"kernel": np.ones((1, 4, 4), np.float32)}}}
    names = {"attention/query": "layers.{layer}.q"}
    plain = to_peft(adapter, own, kernels, names, "base")
    back, leaves = from_peft(plain, kernels, names)
    assert back == replace(adapter, token_ids=None)
    for key, leaf in own["attention"]["query"].items():
        np.testing.assert_array_equal(leaves["attention"]["query"][key], leaf)
    rows = with_token_rows(plain, adapter.changed_ids, {"embed": np.ones((2, 4), np.float32)})
    with pytest.raises(MismatchError, match=r"trainable_token_indices=\{'embed': \[3, 5\]\}: PEFT"):
        from_peft(rows, kernels, names)


@pytest.mark.slow  # Trains, and imports transformers and PEFT: 25 CPU seconds.
def test_an_adapter_in_peft_is_the_merged_model(tmp_path: Path, capsys) -> None:
    for name in ("torch", "transformers", "peft"):
        pytest.importorskip(name, reason="needs: pip install -e '.[parity]'")
    base = make_run_of(CONFIGS["qwen3"], tmp_path / "base", make_dataset(tmp_path / "data"))
    rows = [{"prompt": f"the cat sees {n} fish", "completion": f"{n + 1}"} for n in range(40)]
    (tmp_path / "answers.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    finetune(arguments(JOBS["lora"], tmp_path, tmp_path / "tuned", 4, *MORE))
    capsys.readouterr()

    export = ["--format", "peft", "--output", str(tmp_path / "out"), "--json"]
    main(["--checkpoint", str(tmp_path / "tuned"), *export])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["max_logit_difference"] < 1e-5
    assert said["ids_equal"]
    assert is_export(tmp_path / "out")
    assert is_export(tmp_path / "out" / "base")
    tensors = safetensors.load_file(tmp_path / "out" / "adapter_model.safetensors")
    # Two matrices of seven projections in two layers, and training has moved B from zero; and rows
    # of the chat template's tokens, because the base has read documents only.
    rows = [name for name in tensors if name.endswith("trainable_tokens_delta")]
    assert len(tensors) - len(rows) == 2 * 7 * 2
    head = base.config.model.head
    assert isinstance(head, LanguageModelHead)
    assert len(rows) == (1 if head.tied else 2)
    assert all(np.abs(each).max() > 0 for each in tensors.values())

    with pytest.raises(SystemExit) as stop:
        run_verb(main, ["--checkpoint", str(base.directory), *export])
    assert stop.value.code == 2
    assert "has no adapter; export the whole model with" in capsys.readouterr().err
