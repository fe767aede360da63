"""Settings of the C library's memory for large arrays, where the CPU computes on them."""

import ctypes
import functools
import logging
import os
import resource
from pathlib import Path

logger = logging.getLogger(__name__)

# Of <malloc.h> and <sys/mman.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2 << 20
# Drivers of an NVIDIA device, of Linux and of Windows' Linux.
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")


@functools.cache
def keep_freed_memory() -> None:
    """Tell glibc to reuse the memory of large arrays instead of returning it to the system.

    Each step on a CPU allocates its temporaries again. By default every one above 32 MB is mapped
    and its pages are zeroed by the kernel each time: an element-wise pass over 64 MB took 9 times
    as long. Where a GPU computes, the host's arrays are few: see `computes_on_cpu`. Other C
    libraries are left as they are.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    for parameter, value in ((_MMAP_MAX, 0), (_TOP_PAD, 256 << 20), (_ARENA_MAX, 1)):
        libc.mallopt(parameter, value)
    # glibc reads an unsigned number: the largest is no trimming at all.
    libc.mallopt(_TRIM_THRESHOLD, -1)
    if may_reserve():
        _ask_for_huge_pages(libc)
    else:
        logger.info("large arrays use small pages: address space is limited or reserved")


def computes_on_cpu() -> bool:
    """Return whether this process will compute on a CPU, without asking JAX, which would start."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    return not any(Path(driver).exists() for driver in _DRIVERS)


def may_reserve() -> bool:
    """Return whether address space costs nothing: Linux reserves no memory, and no limit counts.

    Batch systems limit it (RLIMIT_AS) to bound memory.
    """
    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    if any(resource.getrlimit(limit)[0] != resource.RLIM_INFINITY for limit in limits):
        return False
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() != "2"
    except OSError:
        return False


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Let what glibc will hand out lie in pages of 2 MB, where Linux leaves that to programs.

    The heap is made as long as half of the memory, which takes none before it is used, and asked
    for as a whole. glibc itself would ask only if GLIBC_TUNABLES said so when the process started.
    """
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.malloc(size)
    if start is None:
        return
    first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
    libc.madvise(first, start + size - first, _MADV_HUGEPAGE)
    libc.free(start)
