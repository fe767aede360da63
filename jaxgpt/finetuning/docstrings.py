"""Examples from the docstrings of Python code: what does NAME do, and a summary of a text.

Any folder with Python code thus gives a small job to learn, and the answers are people's own words.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

# Shorter ones say nothing ("Helper."), longer ones are no summary.
_MIN_WORDS, _MAX_CHARACTERS = 3, 160
_MIN_BODY_WORDS, _MAX_BODY_CHARACTERS = 12, 2000
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class DocstringExample(NamedTuple):
    """A name with its docstring.

    Attributes:
        question: what a person would ask.
        answer: the docstring's summary, one line.
        body: the text below the summary, "" if there is little.
    """

    question: str
    answer: str
    body: str


def read_docstrings(source: str, path: str) -> Iterator[DocstringExample]:
    """Yield an example for each public class and function of a public module.

    A file that is no Python gives none.

    Args:
        source: content of the file.
        path: of the file below its package; it gives the names their module.
    """
    parts = PurePosixPath(path).with_suffix("").parts
    names = [part for part in parts if part not in ("/", "__init__")]
    if any(name.startswith("_") for name in names):
        return
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    yield from _in_body(tree, ".".join(names))


def _in_body(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[DocstringExample]:
    for node in parent.body:
        if not isinstance(node, _Definition) or node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}" if prefix else node.name
        summary, body = _parts_of(ast.get_docstring(node) or "")
        if len(summary.split()) >= _MIN_WORDS and len(summary) <= _MAX_CHARACTERS:
            yield DocstringExample(f"What does {name} do?", summary, body)
        if isinstance(node, ast.ClassDef):
            yield from _in_body(node, name)


def _parts_of(docstring: str) -> tuple[str, str]:
    """Return the first paragraph in one line, and the rest if it is long enough to summarise."""
    first, _, rest = docstring.strip().partition("\n\n")
    body = re.sub(r"\n{3,}", "\n\n", rest.strip())
    if len(body.split()) < _MIN_BODY_WORDS or len(body) > _MAX_BODY_CHARACTERS:
        body = ""
    return " ".join(first.split()), body
