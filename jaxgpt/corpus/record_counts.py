"""How many documents input files may hold, judged by the beginnings of some of them."""

from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from jaxgpt.corpus.sources import InputFile
from jaxgpt.corpus.streams import ByteStream

# Size of a web page, for files of which nothing can be read.
_USUAL_BYTES = 2700
_MAX_SAMPLED = 16
_MAX_BYTES = 1 << 30


def estimate_documents(files: Sequence[InputFile], text_key: str) -> int:
    """Return about how many documents files hold; of each kind, a few files are looked into.

    Args:
        files: the input.
        text_key: key of a record's text.
    """
    groups: dict[tuple[str, str], list[InputFile]] = defaultdict(list)
    for file in files:
        groups[file.kind, file.compression].append(file)
    return sum(_estimate_group(group, text_key) for group in groups.values())


def _estimate_group(files: Sequence[InputFile], text_key: str) -> int:
    """Return the number of documents in files of one kind."""
    if files[0].kind == "text":
        return len(files)
    every = -(-len(files) // _MAX_SAMPLED)
    sizes = [_bytes_per_document(file, text_key) for file in files[::every]]
    known = [size for size in sizes if size is not None] or [_USUAL_BYTES]
    # The mean of documents per byte, as the sizes of documents differ from file to file.
    documents_per_byte = sum(1 / size for size in known) / len(known)
    num_bytes = sum(file.estimated_text_bytes for file in files)
    return int(num_bytes * documents_per_byte) + len(files)


def _bytes_per_document(file: InputFile, text_key: str) -> float | None:
    """Return the size of a file's documents; None if its beginning does not tell."""
    try:
        with file.open() as raw:
            if file.kind == "parquet":
                num_rows = pq.ParquetFile(raw).metadata.num_rows
                return file.estimated_text_bytes / num_rows if num_rows else None
            head = next(iter(ByteStream(raw, file.compression, _MAX_BYTES, _MAX_BYTES)), b"")
    except (OSError, pa.ArrowException):
        # The stage that reads the file says what is wrong with it.
        return None
    pattern = f'"{text_key}"'.encode() if file.kind == "json" else b"\n"
    return len(head) / max(head.count(pattern), 1) if head else None
