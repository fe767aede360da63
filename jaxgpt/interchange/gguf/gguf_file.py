"""A GGUF file: keys and tensors, each tensor in one of llama.cpp's types.

Files are written by the package `gguf`, which llama.cpp's authors keep.
"""

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxgpt.names.packages import import_package, install_advice

GgufDtype = Literal["F32", "F16", "BF16", "Q8_0"]

_FILE_TYPES = {
    "F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0",
}  # fmt: skip
# Positions are added, not multiplied: llama.cpp keeps them as they are.
_ALWAYS_FLOAT32 = ("position_embd.weight",)


def import_gguf(name: str = "gguf") -> Any:
    """Return the package, or a module of it.

    Raises:
        ConfigError: it is not installed.
    """
    return import_package(name, "a GGUF file", install_advice("export"))


def name_tensors(architecture: str, num_layers: int) -> Callable[[str], str]:
    """Return a function from the name of a weight in transformers to that in llama.cpp."""
    package = import_gguf()
    (number,) = (key for key, name in package.MODEL_ARCH_NAMES.items() if name == architecture)
    names = package.get_tensor_name_map(number, num_layers)

    def name_of(theirs: str) -> str:
        stem, _, end = theirs.rpartition(".")
        return f"{names.get_name(stem)}.{end}"

    return name_of


def write_gguf(
    path: Path,
    architecture: str,
    dtype: GgufDtype,
    add_keys: Callable[[Any], None],
    tensors: Iterable[tuple[str, np.ndarray]],
    shard_bytes: int,
) -> None:
    """Write a file, or shards of it, which llama.cpp finds by their names.

    Args:
        path: of the file; shards get their numbers before its ending.
        architecture: name in llama.cpp.
        dtype: of matrices; vectors stay float32.
        add_keys: is given the `gguf.GGUFWriter`.
        tensors: names and float32 arrays.
        shard_bytes: most bytes of a file.
    """
    package = import_gguf()
    writer = package.GGUFWriter(path, architecture, split_max_size=shard_bytes)
    writer.add_type("model")
    writer.add_file_type(package.LlamaFileType[_FILE_TYPES[dtype]])
    writer.add_quantization_version(package.GGML_QUANT_VERSION)
    add_keys(writer)
    for name, tensor in tensors:
        stored = package.GGMLQuantizationType[_type_of(name, tensor, dtype)]
        quantized = import_gguf("gguf.quants").quantize(np.ascontiguousarray(tensor), stored)
        writer.add_tensor(name, quantized, raw_dtype=stored)
    if len(writer.tensors) == 1:
        writer.split_max_size = 0  # Or the package warns of a file that it does not split.
    _finish(writer, path)


def write_adapter(
    path: Path, architecture: str, alpha: float, tensors: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Write the file of a LoRA adapter.

    Args:
        path: of the file.
        architecture: name of the base's in llama.cpp.
        alpha: factor of all changes, which llama.cpp divides by the rank of each.
        tensors: names and float32 arrays.
    """
    keys = import_gguf().Keys
    writer = import_gguf().GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string(keys.Adapter.TYPE, "lora")
    writer.add_float32(keys.Adapter.LORA_ALPHA, alpha)
    for name, tensor in tensors:
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    _finish(writer, path)


def _finish(writer: Any, path: Path) -> None:
    """Write what a `gguf.GGUFWriter` was given."""
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError as error:
        # NumPy, which the package writes with, says only how many bytes it could write.
        if error.errno is not None:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    finally:
        writer.close()


def _type_of(name: str, tensor: np.ndarray, dtype: GgufDtype) -> str:
    """Return the type that a tensor is stored in."""
    if tensor.ndim == 1 or name in _ALWAYS_FLOAT32:
        return "F32"
    # Blocks of 32 numbers of a row share a scale.
    return "F16" if dtype == "Q8_0" and tensor.shape[-1] % 32 else dtype
