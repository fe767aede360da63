"""What is kept of freed memory: looked at in processes of their own."""

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from jaxgpt.runtime import cpu_memory
from tests.tiny import REPOSITORY

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)

_TOUCH = """
import resource
import numpy as np
from jaxgpt.runtime.cpu_memory import keep_freed_memory
keep_freed_memory()

def count_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = np.ones(64 << 20, np.uint8)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return after - before, array.ctypes.data + array.size // 2

count_faults()
again, address = count_faults()
for line in open("/proc/self/smaps"):
    fields = line.split()
    if "-" in fields[0]:
        start, stop = (int(each, 16) for each in fields[0].split("-"))
    elif fields[0] == "VmFlags:" and start <= address < stop:
        print(again, "hg" in fields)
"""


@pytest.mark.skipif(
    not (cpu_memory.may_reserve() and Path("/sys/kernel/mm/transparent_hugepage").exists()),
    reason="no huge pages here",
)
def test_memory_of_large_arrays_is_kept_and_lies_in_huge_pages():
    """Of 16,384 small pages none is fetched again, and the heap is marked as asked for."""
    result = subprocess.run(
        [sys.executable, "-c", _TOUCH],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    faults, is_huge = result.stdout.split()
    assert int(faults) < 64, result.stderr
    assert is_huge == "True"


_RESERVE = """
import os, resource, sys
from pathlib import Path
from jaxgpt.runtime import cpu_memory
from jaxgpt.runtime.settings import RuntimeConfig, configure_runtime

def address_space():
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + (64 << 30),) * 2)
if sys.argv[1] == "a driver":
    cpu_memory._DRIVERS = ("/proc/self",)
before = address_space()
configure_runtime(RuntimeConfig(compile_cache=""))
print((address_space() - before) >> 30)
"""


@pytest.mark.skipif(not cpu_memory.may_reserve(), reason="nothing may be reserved here")
@pytest.mark.parametrize("case", ["unlimited", "limited", "a driver"])
def test_address_space_is_reserved_only_where_it_costs_nothing_and_the_cpu_computes(case: str):
    result = subprocess.run(
        [sys.executable, "-c", _RESERVE, case],
        env={key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    gib = int(result.stdout)
    half = (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2) >> 30
    assert gib >= half if case == "unlimited" else gib == 0, result.stderr


def test_what_is_limited_or_set_aside_is_not_reserved(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (1 << 40, resource.RLIM_INFINITY))
    assert not cpu_memory.may_reserve()
    monkeypatch.undo()
    monkeypatch.setattr(Path, "read_text", lambda path: "2\n")
    assert not cpu_memory.may_reserve()
