"""`jaxgpt docstring-examples --input PATH... --output FILE`: Python code -> examples of a job."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxgpt.command_line import parse_options
from jaxgpt.corpus.iterate import read_documents
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from jaxgpt.errors import BadInputError
from jaxgpt.finetuning.docstrings import DocstringExample, read_docstrings
from jaxgpt.storage.durable import write_atomically


@dataclass(frozen=True, kw_only=True)
class DocstringExamplesOptions:
    """Make examples for fine-tuning from the docstrings of Python code."""

    input: tuple[str, ...]
    """Files, folders (with all below) and globs, as for tools/build_dataset.py."""
    output: Path
    """File to write, one JSON object a line."""
    job: Literal["questions", "summaries"] = "questions"
    """Job that the examples teach. questions: "What does NAME do?" and the docstring's summary;
    summaries: the rest of a docstring and its summary."""
    sources: SourcesConfig = field(default_factory=SourcesConfig)


def main(argv: Sequence[str]) -> None:
    """Parse, read, write."""
    options = parse_options(DocstringExamplesOptions, argv, prog="jaxgpt docstring-examples")
    inputs = find_inputs(options.input, None, options.sources.exclude)
    folders = [os.path.join(path, "") for path in options.input]
    rows: dict[str, dict[str, str]] = {}
    for document in read_documents(inputs, options.sources):
        path = document.location.rpartition(":")[0]
        within = next((path.removeprefix(top) for top in folders if path.startswith(top)), path)
        for example in read_docstrings(document.text, within):
            if row := _row(example, options.job):
                rows.setdefault(next(iter(row.values())), row)
    if not rows:
        raise BadInputError(
            f"--input {' '.join(options.input)}: no public class or function has a docstring that "
            "makes an example; give Python code that is documented"
        )
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, "".join(lines))
    print(f"{options.output}: {len(rows):,} {options.job}")


def _row(example: DocstringExample, job: str) -> dict[str, str] | None:
    if job == "questions":
        return {"question": example.question, "answer": example.answer}
    return {"text": example.body, "summary": example.answer} if example.body else None
