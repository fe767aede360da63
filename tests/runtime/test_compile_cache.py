"""Programs that a kill cut off are compiled once more, not at every start."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from jaxgpt.runtime import compile_cache
from jaxgpt.runtime.compile_cache import remove_cut_programs
from tests.tiny import REPOSITORY

_COMPILE = """
import jax, logging
logging.basicConfig(level="INFO")
from jaxgpt.runtime.settings import RuntimeConfig, configure_runtime
configure_runtime(RuntimeConfig(compile_cache=""))
print([float(jax.jit(lambda x: x * factor + 1)(3.0)) for factor in (2, 3, 4, 5)])
"""
WHOLE = zstandard.ZstdCompressor().compress(bytes(range(256)) * 100)


def _compile(cache: str, folder: Path) -> str:
    """What a process that compiles says."""
    result = subprocess.run(
        [sys.executable, "-c", _COMPILE],
        env={
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": cache,
            "PYTHONPATH": str(REPOSITORY),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.stdout == "[7.0, 10.0, 13.0, 16.0]\n", result.stderr
    return result.stderr


def _age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def _program(folder: Path, letter: str, content: bytes, age: float = 600) -> Path:
    path = folder / f"jit_step-{letter * 64}-cache"
    path.write_bytes(content)
    _age(path, age)
    return path


@pytest.mark.slow
def test_programs_that_are_cut_off_are_made_anew_once(tmp_path: Path) -> None:
    _compile(str(tmp_path), tmp_path)
    whole = {path: path.read_bytes() for path in tmp_path.glob("jit__lambda*-cache")}
    for share, (program, content) in zip((0.0, 0.001, 0.5, 0.999), whole.items(), strict=True):
        program.write_bytes(content[: int(share * len(content))])
        _age(program, 90)
    (tmp_path / ".looked-at").unlink()
    told = _compile(str(tmp_path), tmp_path)
    assert "4 programs were truncated" in told
    assert "Error reading" not in told
    assert whole.keys() == set(tmp_path.glob("jit__lambda*-cache"))
    for program, content in whole.items():
        assert len(program.read_bytes()) > 0.9 * len(content)
    assert "truncated" not in _compile(str(tmp_path), tmp_path)


def test_an_empty_place_is_none(tmp_path: Path) -> None:
    (tmp_path / "notes-cache").write_bytes(b"")
    _compile("", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes-cache"]


def test_only_what_was_written_since_the_last_time_is_read(tmp_path: Path) -> None:
    """A folder of thousands of programs must not be unpacked at each start."""
    old, whole = _program(tmp_path, "a", WHOLE[:50]), _program(tmp_path, "b", WHOLE)
    young = _program(tmp_path, "c", WHOLE[:50], age=1)
    other = tmp_path / "notes-cache"
    other.write_bytes(b"")
    _age(other, 600)
    assert remove_cut_programs(tmp_path) == [old.name]
    assert {path.name for path in tmp_path.iterdir()} == {
        whole.name, young.name, other.name, ".looked-at",
    }  # fmt: skip
    _program(tmp_path, "a", WHOLE[:50])
    assert remove_cut_programs(tmp_path) == []
    # What was young then is looked at when it no longer is.
    _age(tmp_path / ".looked-at", 700)
    _age(young, 61)
    assert set(remove_cut_programs(tmp_path)) == {old.name, young.name}


def test_who_is_killed_while_looking_has_looked_at_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {_program(tmp_path, letter, b"").name for letter in "abcd"}
    looks = iter([True, KeyboardInterrupt()])

    def look(path: Path) -> bool:
        result = next(looks)
        if isinstance(result, BaseException):
            raise result
        return result

    with monkeypatch.context() as patch:
        patch.setattr(compile_cache, "_is_cut", look)
        with pytest.raises(KeyboardInterrupt):
            remove_cut_programs(tmp_path)
    left = names & {path.name for path in tmp_path.iterdir()}
    assert len(left) == 3
    assert set(remove_cut_programs(tmp_path)) == left


def test_what_is_packed_otherwise_or_is_no_file_stays(tmp_path: Path) -> None:
    _program(tmp_path, "a", b"not by Zstandard")
    (tmp_path / f"x-{'b' * 64}-cache").mkdir()
    _age(tmp_path / f"x-{'b' * 64}-cache", 600)
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"without its length")
    _program(tmp_path, "c", frame)
    assert remove_cut_programs(tmp_path) == []


def test_a_folder_that_cannot_be_looked_through_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    found: dict[str, object] = {}
    monkeypatch.setattr(compile_cache, "remove_cut_programs", refuse)
    monkeypatch.setattr(compile_cache.jax.config, "update", found.__setitem__)
    compile_cache.use_compile_cache(str(tmp_path))
    assert found["jax_compilation_cache_dir"] == str(tmp_path)
    assert found["jax_persistent_cache_min_compile_time_secs"] == 0
