"""A file read as the builder reads it."""

import pytest

from jaxgpt.corpus.readers.readers import FileReader
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs


@pytest.fixture
def read(tmp_path, monkeypatch):
    """read(name, bytes, **settings) -> (records, kind of the file's problem or None)."""
    monkeypatch.chdir(tmp_path)

    def read_file(name, data, **settings):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        (file,) = find_inputs([name], tmp_path / "out").files
        reader = FileReader(file, SourcesConfig(**settings))
        records = list(reader)
        return records, reader.problem and reader.problem.kind

    return read_file
