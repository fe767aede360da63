"""A checkpoint as a folder with a GGUF file, for llama.cpp, Ollama, LM Studio and others.

model.gguf              architecture, weights, tokenizer and chat template; or shards of it
adapter.gguf            of a run that trained a LoRA adapter: the adapter alone, for its base's file
README.md               model card
jaxgpt_export.json      origin; written last
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.errors import ConfigError
from jaxgpt.interchange.architecture import Architecture
from jaxgpt.interchange.architectures import choose_architecture
from jaxgpt.interchange.gguf.architectures import Fields, LlamaCppArchitecture, find_llama_cpp
from jaxgpt.interchange.gguf.gguf_file import (
    GgufDtype,
    name_tensors,
    write_adapter,
    write_gguf,
)
from jaxgpt.interchange.gguf.llama_cpp import (
    LlamaCppParity,
    check_adapter_file,
    check_llama_cpp,
)
from jaxgpt.interchange.gguf.lora import adapter_tensors, alpha_of, check_adapter
from jaxgpt.interchange.gguf.tokenizer_keys import add_tokenizer, check_tokenizer
from jaxgpt.interchange.model_card import write_card
from jaxgpt.interchange.parity import has_package
from jaxgpt.interchange.weights import by_path, to_theirs
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.adapters import LowRank
from jaxgpt.model.layers.positions import Rotary
from jaxgpt.model.layers.rope_scaling import Llama3, plain_frequencies
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import Run, open_base
from jaxgpt.runs.tuning.based_config import BasedRunConfig
from jaxgpt.runs.tuning.open_adapter import read_adapter
from jaxgpt.storage.durable import write_atomically
from jaxgpt.storage.export_folder import export_folder

FILE_NAME = "model.gguf"
ADAPTER_NAME = "adapter.gguf"
_USE = """\
`llama-server -m model.gguf` serves the model, and `llama-cli -m model.gguf` chats with it. The file
has the tokenizer and the chat template. A message ends with `<|end|>`, a document with `</s>`.
Control tokens in text that a user types become control ids in llama.cpp's chat.
"""
_USE_OF_ADAPTER = """\

`adapter.gguf` is the adapter alone: `llama-server -m BASE.gguf --lora adapter.gguf`, where
BASE.gguf is an export of the model that it was trained on.
"""


def export_gguf(
    run: Run, step: int, output: Path, dtype: GgufDtype, shard_bytes: int
) -> tuple[LlamaCppArchitecture, LlamaCppParity]:
    """Write the model of a step to a folder, and compare what llama.cpp reads with it.

    An adapter is merged into its base. If llama.cpp can add it to a base, it is written alone, too.
    An earlier export at `output` is replaced.

    Args:
        run: origin of the model.
        step: which of its checkpoints.
        output: the folder.
        dtype: of the stored matrices.
        shard_bytes: most bytes of a file.

    Raises:
        ConfigError: llama.cpp does not have the model or the tokenizer.
        MismatchError: llama.cpp computes something else than was written.
        UsageError: `output` is something else than an export, and not empty.
    """
    config, tokenizer = run.config.model, run.tokenizer
    check_tokenizer(tokenizer)
    architecture = choose_architecture(config)
    context_length = run.config.batch.sequence_length
    fields = architecture.write_config(config, context_length)
    target = find_llama_cpp(architecture, fields)
    params = run.restore_params(step, single_device_mesh())
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)

    def add_keys(writer: Any) -> None:
        writer.add_name(run.directory.resolve().name)
        _add_fields(writer, target, fields)
        writer.add_vocab_size(tokenizer.vocab_size)
        add_tokenizer(writer, tokenizer)

    def write_model(path: Path, params: Any) -> None:
        tensors = _tensors(architecture, target, config, params, tokenizer.vocab_size)
        write_gguf(path, target.name, dtype, add_keys, tensors, shard_bytes)

    about = {"format": "gguf", "step": step, "dtype": dtype, "tokenizer": tokenizer.fingerprint}
    with export_folder(output, about) as folder:
        write_model(folder / FILE_NAME, params)
        adapter, no_adapter = _write_adapter(folder, run, step, architecture, target, params)
        use = _USE if adapter is None else _USE + _USE_OF_ADAPTER
        card = write_card(run, step, f"{target.name} model ({dtype})", "gguf", use)
        write_atomically(folder / "README.md", card)
        compared = config, params, tokenizer, context_length, dtype
        parity = check_llama_cpp(folder, *compared)._replace(no_adapter=no_adapter)
        if adapter is not None and has_package("xllamacpp"):
            with tempfile.TemporaryDirectory(dir=folder, prefix=".") as place:
                write_model(Path(place) / FILE_NAME, _read_base(run))
                difference = check_adapter_file(Path(place), adapter, *compared)
            parity = parity._replace(max_adapter_difference=difference)
    return target, parity


def _write_adapter(
    folder: Path,
    run: Run,
    step: int,
    architecture: Architecture,
    target: LlamaCppArchitecture,
    params: Any,
) -> tuple[Path | None, str | None]:
    """Write the adapter of a run alone; return its file, or why there is none.

    Both are None for a run without adapter.
    """
    config = run.config
    if not isinstance(config, BasedRunConfig) or not isinstance(config.adapter, LowRank):
        return None, None
    try:
        adapter = check_adapter(config.adapter, config.model, architecture)
    except ConfigError as error:
        return None, str(error)
    own = read_adapter(run, step, adapter)
    fields = architecture.write_config(config.model, 1)
    about = architecture, target, fields, run.tokenizer.vocab_size
    tensors = adapter_tensors(adapter, own, config.model, params, *about)
    write_adapter(folder / ADAPTER_NAME, target.name, alpha_of(adapter), tensors)
    return folder / ADAPTER_NAME, None


def _read_base(run: Run) -> Any:
    """Return the parameters that an adapter was trained on, float32."""
    config = run.config
    assert isinstance(config, BasedRunConfig)
    params = open_base(config.base).restore_params(config.base.step, single_device_mesh())
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)


def _add_fields(writer: Any, target: LlamaCppArchitecture, fields: Fields) -> None:
    """Add the keys that describe an architecture; their types are those of the fields."""
    values = {key: fields[name] for key, name in target.keys.items()}
    scaling = fields.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        values |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in values.items():
        add[type(value)](f"{target.name}.{key}", value)


def _tensors(
    architecture: Architecture,
    target: LlamaCppArchitecture,
    config: GptConfig,
    params: Any,
    vocab_size: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and arrays of the file."""
    fields = architecture.write_config(config, 1)
    shapes = architecture.shapes(config, vocab_size)
    name_of = name_tensors(target.name, config.num_layers)
    position = config.position
    if isinstance(position, Rotary) and isinstance(position.scaling, Llama3):
        size = fields["head_dim"]
        scaled_R, _ = position.scaling.frequencies(size, position.max_wavelength)
        plain_R = plain_frequencies(size, position.max_wavelength)
        yield "rope_freqs.weight", (plain_R / scaled_R).astype(np.float32)
    for name, weight in to_theirs(architecture.weights, by_path(params), shapes, vocab_size):
        yield name_of(name), target.change(name, weight, fields)
