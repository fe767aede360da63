"""Programs that a kill cut off are compiled once more, not at every start."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxgpt.parallel.compile_cache import remove_cut_programs
from tests.tiny import REPOSITORY

_COMPILE = """
import jax, logging
logging.basicConfig(level="INFO")
from jaxgpt.parallel.runtime import RuntimeConfig, configure_runtime
configure_runtime(RuntimeConfig())
print(jax.jit(lambda x: x * 2 + 1)(3.0))
"""


def _compile(cache: Path) -> str:
    """What a process that compiles says."""
    result = subprocess.run(
        [sys.executable, "-c", _COMPILE],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.stdout == "7.0\n", result.stderr
    return result.stderr


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_program_that_is_cut_off_is_made_anew_once(tmp_path: Path, share: float) -> None:
    _compile(tmp_path)
    (program,) = tmp_path.glob("jit__lambda*-cache")
    whole = program.read_bytes()
    program.write_bytes(whole[: int(share * len(whole))])
    told = _compile(tmp_path)
    assert "1 programs were cut off" in told
    assert "Error reading" not in told
    (again,) = tmp_path.glob("jit__lambda*-cache")
    assert len(again.read_bytes()) > 0.9 * len(whole)
    assert "cut off" not in _compile(tmp_path)


def test_only_what_was_written_since_the_last_time_is_read(tmp_path: Path) -> None:
    """A folder of thousands of programs must not be unpacked at each start."""
    old, new, other = (tmp_path / name for name in ("old-cache", "new-cache", "other"))
    for path in (old, other):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    assert remove_cut_programs(tmp_path) == ["old-cache"]
    old.write_bytes(b"")
    os.utime(old, (time.time() - 100,) * 2)
    new.write_bytes(b"\x28\xb5\x2f\xfd, and not the rest")
    assert remove_cut_programs(tmp_path) == ["new-cache"]
    assert old.exists()
    assert other.exists()


def test_what_is_packed_otherwise_stays(tmp_path: Path) -> None:
    (tmp_path / "a-cache").write_bytes(b"not by Zstandard")
    assert remove_cut_programs(tmp_path) == []
