"""A failing machine stops a build and says so; it never makes good input count as bad."""

import errno
import io
import json
import lzma
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jaxgpt.corpus.execution.machine_errors import is_fault_of_machine
from jaxgpt.corpus.readers import json_text, parquet_batches, streams
from jaxgpt.corpus.readers.readers import FileReader
from jaxgpt.corpus.readers.sources import InputFile, SourcesConfig, find_inputs
from jaxgpt.errors import JaxgptError

RECORDS = [{"id": str(i), "text": f"text {i}"} for i in range(3)]
SYSTEM_ERRORS = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EIO, "Input/output error"),
    PermissionError(errno.EACCES, "Permission denied"),
    TimeoutError("the store does not answer"),
    ConnectionResetError("the store has hung up"),
    MemoryError(),
]
OF_MEMORY = [
    pa.ArrowMemoryError("malloc of size 67108864 failed"),
    pa.ArrowCapacityError("array cannot contain more than 2147483646 bytes"),
    OSError("ZSTD decompression failed: Allocation error : not enough memory"),
    zstandard.ZstdError("zstd decompress error: Allocation error : not enough memory"),
    zlib.error("Error -4 while decompressing data"),
]
OF_THE_INPUT = [
    FileNotFoundError(errno.ENOENT, "No such file or directory"),
    OSError(errno.EINVAL, "Invalid argument"),
    OSError("Couldn't deserialize thrift: TProtocolException: Invalid data"),
    OSError("Invalid data stream"),
    EOFError("ended early"),
    pa.ArrowInvalid("Parquet magic bytes not found in footer"),
    zlib.error("Error -3 while decompressing data: invalid distance too far back"),
    lzma.LZMAError("Corrupt input data"),
    zstandard.ZstdError("zstd decompress error: Data corruption detected"),
]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """reader(kind) -> FileReader of a whole file."""
    monkeypatch.chdir(tmp_path)

    def make(name):
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(RECORDS), name)
        else:
            data = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
            pack = zstandard.ZstdCompressor().compress if name.endswith(".zst") else bytes
            (tmp_path / name).write_bytes(pack(data))
        return FileReader(find_inputs([name], tmp_path / "out").files[0], SourcesConfig())

    return make


def fail(error):
    def raise_it(*arguments, **keywords):
        raise error

    return raise_it


def refused(reader, said):
    with pytest.raises(JaxgptError, match=said) as caught:
        list(reader)
    assert caught.value.exit_code == 1
    assert reader.problem is None


@pytest.mark.parametrize("error", SYSTEM_ERRORS, ids=repr)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.jsonl.zst", "a.parquet"])
@pytest.mark.parametrize("when", ["opening", "reading"])
def test_an_error_of_the_machine_stops_the_reading(reader, monkeypatch, name, error, when):
    class Failing(io.FileIO):
        read = readinto = fail(error)

    opened = fail(error) if when == "opening" else (lambda file: Failing(file.path))
    file = reader(name)
    monkeypatch.setattr(InputFile, "open", opened)
    refused(file, f"cannot read {name}: .*not counted")


@pytest.mark.parametrize("error", OF_MEMORY, ids=repr)
def test_want_of_memory_stops_the_reading(reader, monkeypatch, error):
    monkeypatch.setattr(parquet_batches.RowBatches, "of_group", fail(error))
    refused(reader("a.parquet"), "not enough memory.*--executor.workers")
    monkeypatch.setattr(streams._ZstdFrame, "decompress", fail(error))
    refused(reader("a.jsonl.zst"), "not enough memory.*--executor.workers")


def test_want_of_memory_within_a_record_stops_the_reading(reader, monkeypatch):
    monkeypatch.setattr(json_text.json, "loads", fail(MemoryError()))
    refused(reader("a.jsonl"), "not enough memory")


@pytest.mark.parametrize("error", OF_THE_INPUT, ids=repr)
def test_damage_and_files_that_are_gone_are_no_errors_of_the_machine(error):
    assert not is_fault_of_machine(error)
