"""The tree and the import graph: layers, no cycle of files or folders, one line a folder."""

import ast
import functools
import re
from pathlib import Path

import pytest

from jaxgpt.cli import VERBS as LISTED

PACKAGE = Path(__file__).resolve().parent.parent / "jaxgpt"

# Every top-level module or package, by layer. A new one must be given its place here.
LAYERS = [
    {"errors", "batch", "stop_signal", "names", "config", "command_line", "storage", "reports"},
    {"runtime", "tokenizer", "parallel"},
    {"data", "distributed", "model"},
    {"corpus", "checkpoints"},
    {"training", "inference"},
    {"evaluation", "serving"},
    {"finetuning"},
    {"runs"},
    {"planning", "interchange"},
    {"benchmarks"},
    {
        "train",
        "chat",
        "eval",
        "export",
        "finetune",
        "generate",
        "plan",
        "quickstart",
        "report",
        "serve",
        "supervise",
        "tools",
        "verify",
        "cli",
    },
    {"__main__"},
]
WITHOUT_JAX = {
    "batch",
    "names",
    "config",
    "command_line",
    "stop_signal",
    "storage",
    "reports",
    "tokenizer",
    "data",
    "corpus",
}
GROUND = {name for name in LAYERS[0] if (PACKAGE / f"{name}.py").exists()}
MAX_FILES = 20
# Names that `jaxgpt.parallel` exported before their files had a folder of their own.
KEPT_EXPORTS = {"jaxgpt.parallel.__init__": {"distributed", "runtime"}}
# Folders of tests that are about no folder of the package.
TESTS_OF_THE_WHOLE = {"end_to_end", "parity", "soak"}
VERBS = LAYERS[-2] - {"tools"}


def _modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): ast.parse(
            path.read_text()
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    }


MODULES = _modules()


def test_contributing_lists_the_layers() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    for number, layer in enumerate(LAYERS[:-2]):
        (row,) = re.findall(rf"^\| {number} \| (.*) \|$", text, re.MULTILINE)
        assert {name.rstrip("/") for name in re.findall(r"`([^`]+)`", row)} == layer, number


@functools.cache
def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def _own_imports(name: str) -> set[str]:
    """Modules of jaxgpt that a module imports, those of public names for `from package import`."""
    known = _imports(MODULES[name]) & MODULES.keys()
    packages = {
        f"{node.module}.__init__"
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.ImportFrom)
        and any(f"{node.module}.{alias.name}" not in MODULES for alias in node.names)
    }
    return known | (packages & MODULES.keys())


def _top(name: str) -> str:
    return name.split(".")[1]


def _layer(top: str) -> int:
    for number, layer in enumerate(LAYERS):
        if top in layer:
            return number
    raise AssertionError(f"jaxgpt/{top} has no layer; give it a place in tests/test_layering.py")


@pytest.mark.parametrize("name", [name for name in MODULES if _top(name) != "__init__"])
def test_a_module_imports_only_from_lower_layers(name: str) -> None:
    for imported in _own_imports(name):
        if _top(imported) == _top(name) or _top(imported) == "__init__":
            continue
        below = _layer(_top(imported)) < _layer(_top(name))
        ground = _layer(_top(imported)) == _layer(_top(name)) == 0
        kept = _top(imported) in KEPT_EXPORTS.get(name, ())
        assert below or ground or kept, f"{name} imports {imported}, which does not lie below it"


def test_of_the_root_only_the_ground_is_imported() -> None:
    for name in MODULES:
        if name.count(".") > 1:
            root = {other for other in _own_imports(name) if other.count(".") == 1}
            above = {_top(other) for other in root} - GROUND - {"__init__"}
            assert not above, f"{name} imports {above} of the root"


def _folder(name: str) -> str:
    """Return the folder of a module; of one of the root the module itself."""
    parts = name.split(".")
    return ".".join(parts[:-1]) if len(parts) > 2 else name


def test_there_is_no_cycle_of_folders() -> None:
    graph: dict[str, dict[str, str]] = {}
    for name in MODULES:
        # Public names of a package are imported when they are asked for.
        if not name.endswith("__init__"):
            edges = graph.setdefault(_folder(name), {})
            for imported in _own_imports(name):
                if imported.endswith("__init__") or _folder(imported) == _folder(name):
                    continue
                edges.setdefault(_folder(imported), f"{name} -> {imported}")
    done: set[str] = set()

    def visit(folder: str, path: tuple[str, ...], imports: tuple[str, ...]) -> None:
        assert folder not in path, f"cycle of folders: {', '.join(imports)}"
        if folder in done:
            return
        for other, imported in sorted(graph.get(folder, {}).items()):
            visit(other, (*path, folder), (*imports, imported))
        done.add(folder)

    for folder in sorted(graph):
        visit(folder, (), ())


def test_the_root_holds_verbs_and_ground_and_no_folder_many_files() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert files == GROUND | VERBS | {"__init__", "__main__"}
    for folder in (path.parent for path in PACKAGE.rglob("__init__.py")):
        count = len(list(folder.glob("*.py")))
        assert folder == PACKAGE or count <= MAX_FILES, f"{folder} holds {count} files"


def _folders(root: Path) -> set[str]:
    return {
        path.parent.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if path.parent != root
    }


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_tree_that_a_page_prints_is_the_one_on_the_disk(page: str) -> None:
    text = (PACKAGE.parent / page).read_text()
    (tree,) = re.findall(r"^```\njaxgpt/\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    printed, above = [], []
    for line in tree.splitlines():
        indent, name = re.fullmatch(r"( +)(\w+)/ +\S.*", line).groups()
        above = [*above[: len(indent) // 2 - 1], name]
        printed.append("/".join(above))
    assert len(set(printed)) == len(printed)
    assert set(printed) == _folders(PACKAGE)


def test_tests_lie_in_folders_of_the_same_names() -> None:
    tests = {
        folder
        for folder in _folders(PACKAGE.parent / "tests")
        if folder.split("/")[0] not in TESTS_OF_THE_WHOLE
    }
    assert tests <= _folders(PACKAGE)


def test_there_is_no_cycle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import cycle: {' -> '.join([*path, name])}"
        if name in done:
            return
        for imported in sorted(_own_imports(name)):
            visit(imported, (*path, name))
        done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("name", MODULES)
def test_no_import_of_jaxgpt_hides_in_a_function(name: str) -> None:
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            hidden = [item for item in _imports(node) if item.split(".")[0] == "jaxgpt"]
            assert not hidden, f"{name}.{node.name} imports {hidden}"


@pytest.mark.parametrize("name", [name for name in MODULES if _top(name) in WITHOUT_JAX])
def test_text_and_data_know_no_jax(name: str) -> None:
    heavy = {item for item in _imports(MODULES[name]) if item.split(".")[0] in ("jax", "flax")}
    assert not heavy, f"{name} imports {heavy}"


def test_only_mesh_makes_meshes() -> None:
    for name, tree in MODULES.items():
        makes = [node for node in ast.walk(tree) if getattr(node, "attr", "") == "make_mesh"]
        assert not makes or name == "jaxgpt.parallel.mesh", f"{name} makes a mesh"


def test_only_the_adapter_imports_orbax() -> None:
    for name in MODULES:
        uses = {item for item in _imports(MODULES[name]) if item.split(".")[0] == "orbax"}
        assert not uses or name.startswith("jaxgpt.checkpoints."), f"{name} imports {uses}"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_verbs_are_thin_and_imported_by_nothing(verb: str) -> None:
    name = f"jaxgpt.{verb}"
    # The list of verbs has a line for each.
    table = len(LISTED) if verb == "cli" else 0
    assert len((PACKAGE / f"{verb}.py").read_text().splitlines()) - table <= 85
    importers = {other for other in MODULES if name in _imports(MODULES[other])}
    assert importers == ({"jaxgpt.__main__"} if verb == "cli" else set())


def test_tools_are_imported_by_nothing_but_the_files_in_tools() -> None:
    names = {name for name in MODULES if name.startswith("jaxgpt.tools.")} - {
        "jaxgpt.tools.__init__"
    }
    assert not [name for name in MODULES if names & _imports(MODULES[name])]
    files = {path.stem for path in (PACKAGE.parent / "tools").glob("*.py")}
    assert files == {name.rpartition(".")[2] for name in names}
    for stem in files:
        text = (PACKAGE.parent / "tools" / f"{stem}.py").read_text()
        assert f"from jaxgpt.tools.{stem} import main" in text
        assert len(text.splitlines()) < 10


def test_files_stay_small_enough_to_read() -> None:
    for name in MODULES:
        path = PACKAGE.parent / Path(*name.split(".")).with_suffix(".py")
        lines = len(path.read_text().splitlines())
        assert lines <= 500, f"{path} has {lines} lines"
