"""Nothing that is read can run: no pickle, no eval, no array with objects, but for named places."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.tiny import REPOSITORY

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
# Each runs what can only come from the user's own config, or from a worker of the same program.
ALLOWED = {
    ("jaxgpt/config.py", "runpy"): "a config file is a program that the user names",
    ("jaxgpt/corpus/execution/processes.py", "pickle"): "errors between a build and its workers",
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("jaxgpt", "tools"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            yield str(path.relative_to(REPOSITORY)), ast.parse(path.read_text())


def dangers(tree: ast.AST) -> Iterator[str]:
    """What in a module could run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (n.name for n in node.names if n.name in {*FORBIDDEN_MODULES, "runpy"})
        elif isinstance(node, ast.ImportFrom) and node.module in {*FORBIDDEN_MODULES, "runpy"}:
            yield node.module
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in ("eval", "exec"):
                yield function.id
            if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                name = f"{function.value.id}.{function.attr}"
                options = {option.arg: option.value for option in node.keywords}
                if name in ("np.load", "numpy.load"):
                    allowed = options.get("allow_pickle")
                    if not (isinstance(allowed, ast.Constant) and allowed.value is False):
                        yield "np.load"
                if name == "torch.load" and "weights_only" not in options:
                    yield "torch.load"


def test_no_module_runs_what_it_reads() -> None:
    found = {(path, danger) for path, tree in sources() for danger in dangers(tree)}
    assert found == set(ALLOWED)


def test_the_search_finds_what_it_looks_for() -> None:
    bad = [
        ("import pickle", "pickle"),
        ("from dill import loads", "dill"),
        ("eval(text)", "eval"),
        ("np.load(path)", "np.load"),
        ("np.load(path, allow_pickle=True)", "np.load"),
        ("torch.load(path)", "torch.load"),
    ]
    for code, danger in bad:
        assert list(dangers(ast.parse(code))) == [danger]
    assert not list(dangers(ast.parse("np.load(path, mmap_mode='r', allow_pickle=False)")))


def test_workers_talk_over_pipes_that_nobody_else_can_write_to() -> None:
    """The pickle that is allowed stays where it is: errors are tried, not files read."""
    text = Path(REPOSITORY / "jaxgpt/corpus/execution/processes.py").read_text()
    assert "pickle.load(" not in text
    assert text.count("pickle.loads(") == 1
    assert "pickle.loads(pickle.dumps(error))" in text
