"""A checkpoint as a folder that transformers, vLLM and others read.

config.json generation_config.json           architecture, and the ids that end a text
model.safetensors                            weights, or shards with an index
tokenizer.json tokenizer_config.json         the same ids as ours
tokenizer.model chat_template.jinja
README.md                                    model card
jaxgpt_export.json                           origin; written last
"""

from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.interchange.architecture import Architecture
from jaxgpt.interchange.architectures import choose_architecture
from jaxgpt.interchange.model_card import write_card
from jaxgpt.interchange.parity import Parity, check_parity
from jaxgpt.interchange.tokenizer_files import stop_ids, write_tokenizer
from jaxgpt.interchange.weight_files import write_weights
from jaxgpt.interchange.weights import by_path, to_theirs
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import Run
from jaxgpt.storage.durable import write_atomically, write_json
from jaxgpt.storage.export_folder import export_folder

WeightDtype = Literal["float32", "bfloat16"]

_USE = """\
Each text begins with `<s>`, which the tokenizer adds. A conversation is rendered by
`chat_template.jinja`; a message ends with `<|end|>`, a document with `</s>`, and
`generation_config.json` names both. Control tokens in text that a user types become control ids in
transformers unless the tokenizer is called with `split_special_tokens=True`.
"""


def export_huggingface(
    run: Run, step: int, output: Path, dtype: WeightDtype, shard_bytes: int
) -> tuple[Architecture, Parity]:
    """Write the model of a step to a folder, and compare what transformers reads with it.

    An adapter is merged into its base. An earlier export at `output` is replaced.

    Args:
        run: whose.
        step: which.
        output: the folder.
        dtype: of the stored weights.
        shard_bytes: most bytes of a file of weights.

    Raises:
        ConfigError: no architecture of transformers has the model.
        MismatchError: transformers reads another model than was written.
        UsageError: `output` is something else than an export, and not empty.
    """
    config, tokenizer = run.config.model, run.tokenizer
    architecture = choose_architecture(config)
    context_length = run.config.batch.sequence_length
    params = run.restore_params(step, single_device_mesh())
    params = jax.tree.map(lambda leaf: _round(np.asarray(leaf), dtype), params)
    about = {"format": "huggingface", "step": step, "dtype": dtype}
    with export_folder(output, about | {"tokenizer": tokenizer.fingerprint}) as folder:
        write_json(folder / "config.json", _config(architecture, run, dtype))
        write_json(folder / "generation_config.json", _special_ids(run))
        shapes = architecture.shapes(config, tokenizer.vocab_size)
        weights = to_theirs(architecture.weights, by_path(params), shapes, tokenizer.vocab_size)
        write_weights(folder, weights, jnp.dtype(dtype), shard_bytes)
        write_tokenizer(tokenizer, folder, context_length)
        card = write_card(run, step, architecture.name, "transformers", _USE)
        write_atomically(folder / "README.md", card)
        parity = check_parity(folder, config, params, tokenizer, context_length)
    return architecture, parity


def _round(array: np.ndarray, dtype: WeightDtype) -> np.ndarray:
    """Return float32 numbers that the stored type can hold."""
    return np.asarray(array, jnp.dtype(dtype)).astype(np.float32)


def _config(architecture: Architecture, run: Run, dtype: WeightDtype) -> dict[str, Any]:
    fields = architecture.write_config(run.config.model, run.config.batch.sequence_length)
    return {**fields, "vocab_size": run.tokenizer.vocab_size, "dtype": dtype, **_special_ids(run)}


def _special_ids(run: Run) -> dict[str, Any]:
    tokenizer = run.tokenizer
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": stop_ids(tokenizer),
        "pad_token_id": tokenizer.pad_id,
    }
