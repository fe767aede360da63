"""Kind and compression of a file by its name. Nothing is opened here."""

import os

from jaxgpt.corpus.readers.streams import DECODERS

# Suffixes of files that are one document each.
TEXT_SUFFIXES = frozenset(
    f".{name}"
    for names in (
        "txt text md markdown mdx rst adoc asciidoc org tex html htm xhtml srt vtt po py pyi c h",
        "cc cpp cxx hh hpp cu cuh m mm java kt kts scala groovy clj js jsx mjs ts tsx vue go rs",
        "rb php pl pm lua r jl swift cs fs vb hs ml mli ex exs erl el lisp scm rkt sh bash zsh",
        "fish ps1 psm1 bat sql proto css scss less asm s v sv vhd f f90 pas d zig nim dart tcl",
        "awk cmake toml yaml yml",
    )
    for name in names.split()
)
RECORD_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
}


def kind_of(path: str) -> tuple[str | None, str]:
    """Return (kind, compression) by the suffixes of `path`; kind None if they are unknown."""
    stem, suffix = os.path.splitext(os.path.basename(path).lower())
    compression = suffix if suffix in DECODERS else ""
    if compression:
        suffix = os.path.splitext(stem)[1]
    return ("text" if suffix in TEXT_SUFFIXES else RECORD_SUFFIXES.get(suffix)), compression
