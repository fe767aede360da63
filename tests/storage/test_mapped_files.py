"""Mapped files are arrays like any others, need no file handles, and are let go."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from jaxgpt.storage.mapped_files import map_array, map_npy

ARRAYS = numpy_strategies.arrays(
    st.sampled_from(["<i8", "<u2", "u1", "<f4", "bool", "S3"]),
    numpy_strategies.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9),
)


def handles() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def mappings(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


@settings(max_examples=60, deadline=None)
@given(array=ARRAYS, is_fortran=st.booleans())
def test_a_mapped_npy_file_is_the_array_that_was_saved(
    array: np.ndarray, is_fortran: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("mapped") / "array.npy"
    np.save(path, np.asfortranarray(array) if is_fortran else array)
    mapped = map_npy(path)
    assert (mapped.dtype, mapped.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(mapped, array)
    assert not mapped.flags.writeable


def test_a_mapping_has_no_handle_and_ends_with_its_last_array(tmp_path: Path) -> None:
    path = tmp_path / "numbers.bin"
    path.write_bytes(np.arange(5000, dtype="<u2").tobytes())
    before = handles()
    mapped = map_array(path, "<u2")
    assert handles() == before
    part = mapped[4000:4003]
    del mapped
    gc.collect()
    assert mappings(path) == 1
    path.unlink()
    assert part.tolist() == [4000, 4001, 4002]
    del part
    gc.collect()
    assert mappings(path) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "EOF|magic|end"),
        (b"not an array, and long enough to be one", "magic"),
        (b"\x93NUMPY\x09\x00v\x00", "version"),
    ],
)
def test_what_is_no_npy_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "array.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        map_npy(path)


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    np.save(path, np.arange(1000))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match="it ends after 7999 of 8000 bytes"):
        map_npy(path)
    path.write_bytes(b"12345")
    with pytest.raises(ValueError, match="size"):
        map_array(path, "<u2")
    with pytest.raises(FileNotFoundError):
        map_array(tmp_path / "none", "<u2")


def test_objects_are_never_read(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        map_npy(path)
