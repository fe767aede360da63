"""Files mapped into memory to be read, without a file handle for each.

Python's own `mmap` keeps a handle for as long as the mapping lives (before `trackfd`, Python 3.13),
so a process with the usual limit of 1,024 could map no more than that many files. A mapping itself
needs none.
"""

import ctypes
import mmap
import os
import weakref
from pathlib import Path

import numpy as np

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_LIBC.munmap.restype = ctypes.c_int
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED = ctypes.c_void_p(-1).value


def map_array(path: Path, dtype: np.typing.DTypeLike) -> np.ndarray:
    """Map a file of numbers and nothing else as a read-only array of one axis.

    Raises:
        OSError: the file cannot be opened or mapped.
        ValueError: its size is no multiple of a number's.
    """
    return _map_bytes(path).view(dtype)


def map_npy(path: Path) -> np.ndarray:
    """Map an `.npy` file as a read-only array, as `np.load(path, mmap_mode="r")` does.

    Raises:
        OSError: the file cannot be opened or mapped.
        ValueError: it is no whole `.npy` file, or holds Python objects.
    """
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"an .npy file of version {version}")
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, is_fortran, dtype = read[version](file)
        first = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    stored = _map_bytes(path)[first : first + size]
    if len(stored) < size:
        raise ValueError(f"it ends after {len(stored)} of {size} bytes")
    return stored.view(dtype).reshape(shape, order="F" if is_fortran else "C")


def _map_bytes(path: Path) -> np.ndarray:
    """Map a whole file as read-only uint8; it is unmapped when no array refers to it any more."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        # An empty file cannot be mapped.
        if not size:
            return np.zeros(0, np.uint8)
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == _MAP_FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)
    buffer = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(buffer, _LIBC.munmap, address, size).atexit = False
    mapped = np.ctypeslib.as_array(buffer)
    mapped.flags.writeable = False
    return mapped
