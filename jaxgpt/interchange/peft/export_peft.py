"""An adapter as a folder that PEFT reads, and its base as a folder for transformers inside it.

adapter_config.json adapter_model.safetensors    the adapter
base/                                            the base, as `--format huggingface` writes it
README.md                                        model card
jaxgpt_export.json                               origin; written last
"""

from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxgpt.errors import ConfigError, MismatchError
from jaxgpt.interchange.architecture import Architecture
from jaxgpt.interchange.architectures import choose_architecture
from jaxgpt.interchange.huggingface import export_huggingface
from jaxgpt.interchange.model_card import write_card
from jaxgpt.interchange.parity import Parity, has_package, import_transformers, our_logits
from jaxgpt.interchange.weight_files import write_tensors
from jaxgpt.interchange.weights import by_path
from jaxgpt.model.layers.adapters import LowRank
from jaxgpt.model.layers.token_changes import TOKEN_CHANGES
from jaxgpt.model.peft_format import to_peft, with_token_rows
from jaxgpt.names.packages import import_package, install_advice
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import Run, open_base
from jaxgpt.runs.tuning.based_config import BasedRunConfig
from jaxgpt.runs.tuning.open_adapter import find_adapter, read_adapter
from jaxgpt.storage.durable import write_atomically, write_json
from jaxgpt.storage.export_folder import export_folder

AdapterDtype = Literal["float32"]

_BASE = "base"
_LENGTH = 32
# Rounding alone.
_TOLERANCE = 1e-3
_USE = """\
`PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), ".")` in this folder. The
tokenizer and the chat template are those of `base/`.
"""


def export_peft(
    run: Run, step: int, output: Path, dtype: AdapterDtype, shard_bytes: int
) -> tuple[Architecture, Parity]:
    """Write the adapter of a step and its base, and compare what PEFT reads with the merged model.

    Args:
        run: origin of the adapter.
        step: which of its checkpoints.
        output: the folder; an earlier export there is replaced.
        dtype: of all weights.
        shard_bytes: most bytes of a file of the base's weights.

    Raises:
        ConfigError: no architecture of transformers has the base, or it keeps several projections
            in one layer.
        MismatchError: PEFT reads another model than was written.
        UsageError: the run has no adapter, or `output` is something else than an export.
    """
    config = run.config
    settings = find_adapter(run, "export the whole model with --format huggingface")
    assert isinstance(config, BasedRunConfig)
    architecture = choose_architecture(config.model)
    names = name_projections(architecture)
    base, mesh = open_base(config.base), single_device_mesh()
    own = read_adapter(run, step, settings)
    params = base.restore_params(config.base.step, mesh)
    blocks = own["blocks"], params["blocks"]
    rows = _token_rows(settings, own, params, architecture)
    adapter = to_peft(settings, *blocks, names, str(output / _BASE))
    adapter = with_token_rows(adapter, settings.changed_ids, rows)
    about = {"format": "peft", "step": step, "tokenizer": run.tokenizer.fingerprint}
    with export_folder(output, about) as folder:
        parity = export_huggingface(base, config.base.step, folder / _BASE, dtype, shard_bytes)[1]
        write_json(folder / "adapter_config.json", adapter.config)
        tensors = folder / "adapter_model.safetensors"
        write_tensors(tensors, adapter.tensors, np.dtype(dtype))
        card = write_card(run, step, f"adapter of a {architecture.name}", "peft", _USE)
        write_atomically(folder / "README.md", card)
        difference = _compare(folder, run, step)
    return architecture, parity._replace(max_logit_difference=difference)


def name_projections(architecture: Architecture) -> dict[str, str]:
    """Return the layers of transformers by projection, as `to_peft` takes them.

    Raises:
        ConfigError: one layer there is several projections here.
    """
    places = [item for item in architecture.weights if item.ours[0].endswith("/kernel")]
    if fused := [item.theirs for item in places if len(item.ours) > 1]:
        raise ConfigError(
            f"{architecture.name} keeps several projections in one layer ({fused[0]}), which an "
            "adapter of ours cannot have; export the merged model with --format huggingface"
        )
    return {
        item.ours[0].removeprefix("blocks/").removesuffix("/kernel"):
            item.theirs.removesuffix(".weight").replace("*", "{layer}")
        for item in places
        if item.ours[0].startswith("blocks/")
    }  # fmt: skip


def _token_rows(
    adapter: LowRank, own: Any, params: Any, architecture: Architecture
) -> dict[str, np.ndarray]:
    """Return the rows of tokens that the adapter trains, [K, D], by layer of transformers."""
    ids, rows = np.array(adapter.changed_ids, int), {}
    for item in architecture.weights:
        part = item.ours[0].partition("/")[0]
        if part in ("embedding", "head") and TOKEN_CHANGES in own.get(part, {}):
            table = np.asarray(by_path(params)[item.ours[0]], np.float32)
            table = table if part == "embedding" else table.T
            change_KD = np.asarray(own[part][TOKEN_CHANGES], np.float32)
            rows[item.theirs.removesuffix(".weight")] = table[ids] + change_KD
    return rows


def _compare(folder: Path, run: Run, step: int) -> float | None:
    """Return the largest difference of PEFT's logits and those of the merged model.

    None: not compared, because a package is missing.

    Raises:
        MismatchError: the difference is larger than rounding explains.
    """
    if not has_package("transformers", "torch", "peft"):
        return None
    transformers = import_transformers()
    torch, peft = (
        import_package(name, "the comparison", install_advice("parity"))
        for name in ("torch", "peft")
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(
        folder / _BASE, dtype=torch.float32, attn_implementation="eager"
    )
    model = peft.PeftModel.from_pretrained(base, folder).eval()
    vocab_size = run.tokenizer.vocab_size
    shape = (2, min(_LENGTH, run.config.batch.sequence_length))
    tokens_BT = np.random.default_rng(0).integers(0, vocab_size, shape).astype(np.int32)
    with torch.no_grad():
        theirs = model(torch.tensor(tokens_BT, dtype=torch.long)).logits.numpy()
    params = run.restore_params(step, single_device_mesh())
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    ours = our_logits(run.config.model, params, vocab_size, tokens_BT)
    difference = float(np.abs(ours - theirs).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(ours).max())):
        raise MismatchError(
            f"PEFT computes other logits, by up to {difference:.3g}; nothing is written: please "
            "report it with the versions of peft and transformers"
        )
    return difference
