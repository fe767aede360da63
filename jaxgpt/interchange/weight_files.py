"""Weights as safetensors files: one, or shards with an index of which weight is in which.

Files are written by Python, not by the package, whose errors do not tell a full disk from others.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.errors import MismatchError, UsageError, is_machine_error, one_line
from jaxgpt.names.packages import import_package, install_advice
from jaxgpt.storage.durable import write_json

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def _package(name: str) -> Any:
    return import_package(name, "reading and writing weights", install_advice("export"))


def write_weights(
    folder: Path, weights: Iterable[tuple[str, np.ndarray]], dtype: np.dtype, shard_bytes: int
) -> int:
    """Write weights to a folder, and an index if they take more than one file.

    Args:
        folder: it exists.
        weights: names and arrays, which may be views.
        dtype: of the stored numbers.
        shard_bytes: most bytes of a file; a single weight may have more.

    Returns:
        The bytes of all weights.
    """
    shards = list(_divide(weights, dtype, shard_bytes))
    size = sum(array.size for shard in shards for array in shard.values()) * dtype.itemsize
    if len(shards) == 1:
        write_tensors(folder / _SINGLE, shards[0], dtype)
        return size
    files = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / name, shard, dtype)
        files |= dict.fromkeys(shard, name)
    write_json(folder / _INDEX, {"metadata": {"total_size": size}, "weight_map": files})
    return size


def _divide(
    weights: Iterable[tuple[str, np.ndarray]], dtype: np.dtype, shard_bytes: int
) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    room = shard_bytes
    for name, array in weights:
        size = array.size * dtype.itemsize
        if shard and size > room:
            yield shard
            shard, room = {}, shard_bytes
        shard[name] = array
        room -= size
    yield shard


def write_tensors(path: Path, arrays: dict[str, np.ndarray], dtype: np.dtype) -> None:
    """Write one safetensors file."""
    content = {name: np.ascontiguousarray(array, dtype) for name, array in arrays.items()}
    # Readers for PyTorch ask for the format.
    path.write_bytes(_package("safetensors.numpy").save(content, metadata={"format": "pt"}))


class WeightFiles:
    """The weights of a folder, each read when it is asked for.

    Attributes:
        names: of all weights.

    Raises:
        UsageError: the folder has no safetensors files.
        MismatchError: one is damaged, or missing from those that the index names.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Any] = {}
        for path in self._paths(folder):
            file = self._open(path)
            self._files |= dict.fromkeys(file.keys(), file)
        self.names = set(self._files)

    @staticmethod
    def _paths(folder: Path) -> list[Path]:
        if (folder / _INDEX).is_file():
            try:
                index = json.loads((folder / _INDEX).read_text("utf-8"))
                names = sorted(set(index["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise MismatchError(f"{folder / _INDEX} is damaged: {one_line(error)}") from None
            paths = [folder / name for name in names]
            if missing := [path.name for path in paths if not path.is_file()]:
                raise MismatchError(f"{folder} lacks {', '.join(missing)}, which its index names")
            return paths
        if (folder / _SINGLE).is_file():
            return [folder / _SINGLE]
        raise UsageError(
            f"{folder} has no {_SINGLE} and no {_INDEX}; weights in other formats, such as "
            "pytorch_model.bin, run code when they are read: save them as safetensors first"
        )

    @staticmethod
    def _open(path: Path) -> Any:
        try:
            return _package("safetensors").safe_open(path, framework="numpy")
        except OSError as error:
            if is_machine_error(error):
                raise
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        except _package("safetensors").SafetensorError as error:
            raise MismatchError(f"{path} is damaged: {one_line(error)}; fetch it again") from None

    def read(self, name: str) -> np.ndarray:
        """Return a weight."""
        return self._files[name].get_tensor(name)
