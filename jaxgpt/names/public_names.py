"""Public names of a package: `from jaxgpt.model import Rotary`, wherever in it the class lies.

A package imports them in its `__init__.py` for editors and type checkers only. At run time a name
is imported when it is first asked for (PEP 562), so that one file is loaded and not the package:

    if TYPE_CHECKING:
        from jaxgpt.model.layers.positions import Rotary
    else:
        __getattr__, __dir__ = lazy_imports(__name__)

`etils.epy.lazy_api_imports` does the like, but replaces `__import__` for all threads meanwhile.
"""

import ast
import functools
import importlib
import importlib.util
import types
from collections.abc import Callable, Mapping
from typing import Any


@functools.cache
def public_names(package: str) -> Mapping[str, str]:
    """Return the module of each public name of a package, in the order of its `__init__.py`."""
    spec = importlib.util.find_spec(package)
    source = spec.loader.get_source(package)  # type: ignore[union-attr]
    return types.MappingProxyType(
        {
            alias.name: node.module
            for block in ast.parse(source).body
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in block.body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
    )


def lazy_imports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package; see the top of this file."""

    def get(name: str) -> Any:
        # Python asks a package for `__path__` and the like before it has any name.
        if name == "__all__":
            return list(public_names(package))
        if name.startswith("__") or name not in public_names(package):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(public_names(package)[name]), name)

    return get, lambda: sorted(public_names(package))
