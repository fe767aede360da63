"""Arrays of a step folder, as Orbax writes them. Only this file imports Orbax.

    params/  training_state/     one Orbax item each (OCDBT), so that one is read without the other

This file knows one folder at a time; which folder counts, and when, is in `manager.py`.
"""

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.checkpoints.named_trees import ArraySpec, nest, unnest


class OrbaxFiles:
    """Writes and reads named arrays. Orbax is imported at first use, because the import is slow.

    Args:
        wait: barrier of all hosts, called in the thread that writes; may raise.
    """

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        self._wait = wait

    def start(self, folder: Path, items: Mapping[str, Mapping[str, Any]]) -> None:
        """Begin writing `items` (arrays by name, by item) to `folder`, which must not exist.

        Returns when the arrays may be overwritten; `finish` must follow.
        """
        ocp = self._orbax
        trees = {item: ocp.args.PyTreeSave(nest(arrays)) for item, arrays in items.items()}
        self._writer.save(_orbax_path(folder), args=ocp.args.Composite(**trees))

    def finish(self) -> None:
        """Wait until the writes of `start` are on disk, on all hosts; raise their errors."""
        self._writer.wait_until_finished()

    def specs(self, folder: Path, item: str) -> dict[str, ArraySpec]:
        """Return shape and type of the arrays of one item, by name."""
        tree = self._reader.metadata(_orbax_path(folder / item)).tree
        return {
            name: ArraySpec(tuple(leaf.shape), np.dtype(leaf.dtype))
            for name, leaf in unnest(tree).items()
        }

    def read(
        self, folder: Path, item: str, specs: Mapping[str, jax.ShapeDtypeStruct]
    ) -> dict[str, Any]:
        """Return the arrays of one item, cast and placed as their spec says.

        A spec without a sharding gives a NumPy array.
        """
        ocp = self._orbax
        how = {name: self._restore_args(spec) for name, spec in specs.items()}
        arguments = ocp.args.PyTreeRestore(item=nest(specs), restore_args=nest(how))
        return unnest(self._reader.restore(_orbax_path(folder / item), args=arguments))

    def close(self) -> None:
        """Release the threads of Orbax, after `finish`."""
        for name in ("_writer", "_reader"):
            if checkpointer := self.__dict__.pop(name, None):
                checkpointer.close()

    def _restore_args(self, spec: jax.ShapeDtypeStruct) -> Any:
        if spec.sharding is None:
            return self._orbax.RestoreArgs(restore_type=np.ndarray, dtype=spec.dtype)
        return self._orbax.ArrayRestoreArgs(
            sharding=spec.sharding, global_shape=spec.shape, dtype=spec.dtype
        )

    @cached_property
    def _orbax(self) -> Any:
        import orbax.checkpoint

        return orbax.checkpoint

    @cached_property
    def _writer(self) -> Any:
        ocp = self._orbax
        # Orbax's own barriers would wait for a host whose disk is full until their time is over.
        options = ocp.options.AsyncOptions(barrier_sync_fn=lambda key, timeout_ms: self._wait())
        return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), async_options=options)

    @cached_property
    def _reader(self) -> Any:
        return self._orbax.PyTreeCheckpointHandler()


def is_item_whole(folder: Path, item: str) -> bool:
    """Return whether the files exist that are needed to find the item's arrays."""
    return all((folder / item / name).is_file() for name in ("_METADATA", "manifest.ocdbt"))


def writer_of(path: str) -> int:
    """Return which process writes a file of a step folder, given relative to it."""
    for part in path.split("/"):
        if match := re.fullmatch(r"(?:ocdbt\.)?process_(\d+)", part):
            return int(match[1])
    return 0


def _orbax_path(path: Path) -> Any:
    from etils import epath  # comes with Orbax, and is as slow to import

    return epath.Path(path.absolute())
