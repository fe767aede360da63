"""Arrays as `.npy` files that are written by plain writes, never through a mapping or `tofile`.

A full disk refuses a plain write with an error that has a number. A write through a mapping of a
sparse file ends the process with SIGBUS instead, and `ndarray.tofile` gives an error without one.

Axes: N rows.
"""

from pathlib import Path

import numpy as np


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array to a file, as `np.save` does."""
    array = np.asarray(array)
    with ArrayWriter(path, array.dtype, array.shape) as writer:
        writer.append(array)


class ArrayWriter:
    """Writes an array by pieces along its first axis, within a `with` block.

    Args:
        path: the file; replaced if it exists.
        dtype: of the elements.
        shape: of the whole array.
    """

    def __init__(self, path: Path, dtype: np.typing.DTypeLike, shape: tuple[int, ...]) -> None:
        self._dtype = np.dtype(dtype)
        self._file = open(path, "wb")  # noqa: SIM115
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        self._num_missing = int(np.prod(shape, dtype=np.int64))

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._file.close()
        if kind is None and self._num_missing:
            raise ValueError(f"{self._num_missing} elements of {self._file.name} were not given")

    def append(self, rows_N: np.ndarray) -> None:
        """Write the next rows."""
        self._file.write(np.ascontiguousarray(rows_N, self._dtype).reshape(-1).view(np.uint8).data)
        self._num_missing -= rows_N.size
