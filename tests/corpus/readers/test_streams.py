"""Decompression: everything before the damage is read, every damage is noticed, memory bounded."""

import bz2
import gzip
import io
import lzma
import random
import tracemalloc

import pytest
import zstandard

from jaxgpt.corpus.readers.streams import ByteStream

COMPRESS = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_content_size=False).compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
PACKED = sorted(COMPRESS)


def read(data, compression, max_file_bytes=1 << 40, max_expansion=1e9):
    stream = ByteStream(io.BytesIO(data), compression, max_file_bytes, max_expansion)
    return b"".join(stream), stream.problem


def words(num_bytes, seed=0):
    """Text that compresses about as well as prose."""
    chooser = random.Random(seed)
    vocabulary = [bytes(chooser.choices(b"abcdefghij", k=6)) for _ in range(5000)]
    return b" ".join(chooser.choices(vocabulary, k=num_bytes // 7))


TEXT = words(700_000)


@pytest.mark.parametrize("compression", ["", *PACKED])
def test_whole_files_come_out_whole(compression):
    data = COMPRESS[compression](TEXT) if compression else TEXT
    assert read(data, compression) == (TEXT, None)


@pytest.mark.parametrize("compression", PACKED)
@pytest.mark.parametrize("cut", [1, 9, 1000, 0.5])
def test_a_truncated_file_gives_its_good_part_and_is_noticed(compression, cut):
    data = COMPRESS[compression](TEXT)
    cut = int(len(data) * cut) if cut < 1 else cut
    text, problem = read(data[:-cut], compression)
    assert problem is not None
    assert problem.kind == "truncated"
    assert TEXT.startswith(text)
    # A bzip2 block is decoded whole or not at all: 900 kB here.
    if compression != ".bz2":
        assert len(text) > 0.3 * len(TEXT)


@pytest.mark.parametrize("compression", PACKED)
def test_several_members_are_read_as_one(compression):
    pack = COMPRESS[compression]
    assert read(pack(b"first\n") + pack(b"second\n"), compression) == (b"first\nsecond\n", None)


def test_skippable_zstd_frames_are_skipped():
    pack = COMPRESS[".zst"]
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    data = skippable + pack(b"first\n") + skippable + pack(b"second\n")
    assert read(data, ".zst") == (b"first\nsecond\n", None)


@pytest.mark.parametrize("compression", PACKED)
def test_a_second_member_cut_short_is_noticed(compression):
    pack = COMPRESS[compression]
    text, problem = read(pack(TEXT) + pack(TEXT)[:-20], compression)
    assert text.startswith(TEXT)
    assert problem is not None
    assert problem.kind == "truncated"


@pytest.mark.parametrize("compression", PACKED)
def test_garbage_after_the_end_is_noticed_and_the_good_part_kept(compression):
    text, problem = read(COMPRESS[compression](TEXT) + b"garbage" * 1000, compression)
    assert text == TEXT
    assert problem is not None
    assert problem.kind == "truncated"


@pytest.mark.parametrize("compression", [".gz", ".xz"])
def test_zeros_after_the_end_are_padding(compression):
    assert read(COMPRESS[compression](TEXT) + b"\0" * 512, compression) == (TEXT, None)


@pytest.mark.parametrize("compression", PACKED)
def test_a_file_that_is_not_compressed_at_all_is_unreadable(compression):
    text, problem = read(b"plain text " * 100, compression)
    assert text == b""
    assert problem is not None
    assert problem.kind == "unreadable"


@pytest.mark.parametrize("compression", PACKED)
def test_an_empty_compressed_file_is_noticed(compression):
    text, problem = read(b"", compression)
    assert (text, problem and problem.kind) == (b"", "truncated")


@pytest.mark.parametrize("compression", PACKED)
def test_one_flipped_bit_never_passes_as_good(compression):
    data = bytearray(COMPRESS[compression](TEXT))
    data[len(data) // 2] ^= 4
    text, problem = read(bytes(data), compression)
    if compression == ".zst":
        # This frame has no checksum: the text may change, but the file ends where it should.
        assert problem is not None or len(text) == len(TEXT)
    else:
        assert problem is not None


@pytest.mark.parametrize("compression", PACKED)
def test_a_bomb_is_stopped_in_bounded_memory(compression):
    zeros = bytes(300 << 20) if compression == ".zst" else bytes(150 << 20)
    data = COMPRESS[compression](zeros)
    del zeros
    tracemalloc.start()
    stream = ByteStream(io.BytesIO(data), compression, 1 << 40, 200.0)
    total = sum(len(chunk) for chunk in stream)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stream.problem is not None
    assert stream.problem.kind == "expands_too_far"
    assert total < 110 << 20
    assert peak < 100 << 20


def test_no_more_than_the_allowed_bytes_of_a_file_are_read():
    text, problem = read(gzip.compress(TEXT), ".gz", max_file_bytes=300_000)
    assert len(text) <= 300_000
    assert TEXT.startswith(text)
    assert problem is not None
    assert problem.kind == "expands_too_far"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_with_a_byte_order_mark_becomes_utf8(encoding):
    text = "Grüße, 世界 \U0001f30d\n" * 30_000
    data = ("\ufeff" + text).encode(encoding)
    assert read(data, "") == (text.encode(), None)


def read_with_window(data, compression, max_window_bytes):
    stream = ByteStream(io.BytesIO(data), compression, 1 << 40, 1e9, max_window_bytes)
    return b"".join(stream), stream.problem


def test_a_file_with_a_long_window_is_read_if_that_is_allowed_and_says_how():
    longest = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=0)
    compressor = zstandard.ZstdCompressor(compression_params=longest)
    xz = [{"id": lzma.FILTER_LZMA2, "dict_size": 200 << 20, "mode": lzma.MODE_FAST, "depth": 1}]
    writer = compressor.compressobj()
    packed = {
        ".zst": writer.compress(TEXT) + writer.flush(),
        ".xz": lzma.compress(TEXT, filters=xz),
    }
    for compression, data in packed.items():
        text, problem = read_with_window(data, compression, 1 << 27)
        assert text == b""
        assert problem is not None
        assert "sources.max_window_bytes" in problem.detail
        assert read_with_window(data, compression, 1 << 28) == (TEXT, None)


@pytest.mark.parametrize("form", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("compression", ["", ".gz"])
def test_every_form_of_unicode_with_its_mark_is_read(form, compression):
    text = "\ufeffcaf\u00e9 \u65e5\u672c \U0001f30d\n"
    data = text.encode(form)
    data = COMPRESS[compression](data) if compression else data
    found, problem = read(data, compression)
    assert (found.decode().removeprefix("\ufeff"), problem) == (text[1:], None)
