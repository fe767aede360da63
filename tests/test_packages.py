"""Packages: each that is imported is declared, and one that is broken spoils only its own work."""

import ast
import itertools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jaxgpt.command_line import run_verb
from jaxgpt.errors import ConfigError
from jaxgpt.names.packages import import_package
from tests.run_folder import make_run
from tests.tiny import REPOSITORY, make_dataset, make_texts

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Where a module is not called as its package is.
PACKAGES = {"google": "protobuf", "orbax": "orbax-checkpoint", "array_record": "array-record",
            "sklearn": "scikit-learn"}  # fmt: skip
# The built-in language gate does without it, and docs/filters.md says how to install it.
NOT_DECLARED = {"fasttext"}
# The tests that need them say so when they are skipped: one needs Java, one a server of S3.
NOT_DECLARED |= {"pyspark", "moto"}
# What one kind of input, report, loader, executor, store or comparison needs, and nothing else.
OPTIONAL = [
    "array_record",
    "datasets",
    "fasttext",
    "fsspec",
    "gcsfs",
    "gguf",
    "grain",
    "htmldate",
    "justext",
    "lm_eval",
    "lxml",
    "lxml_html_clean",
    "matplotlib",
    "num2words",
    "prompt_toolkit",
    "ray",
    "rouge_score",
    "s3fs",
    "sacrebleu",
    "sklearn",
    "tensorboardX",
    "tiktoken",
    "tokenizers",
    "torch",
    "trafilatura",
    "transformers",
    "trl",
    "xllamacpp",
]
# Python imports a module of that name at each start, in workers too.
BREAKING = """
import os, sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if "." not in name and "SEARCHED" in os.environ:
            with open(os.environ["SEARCHED"], "a") as file:
                file.write(f"{name}\\n")
        if name.partition(".")[0] in os.environ["BROKEN"].split():
            raise ImportError(f"{name} is broken", name=name)

sys.meta_path.insert(0, Broken())
"""
VERBS = """
import sys
from jaxgpt.cli import VERBS, main

folder = sys.argv[1]

def verb(*argv):
    sys.argv = ["jaxgpt", *argv]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, (argv, stop.code)

for name in VERBS:
    verb(name, "--help")
data = f"{folder}/built"
verb("build-dataset", "--input", f"{folder}/text", "--output", data,
     "--tokenizer.vocab-size", "300", "--executor.kind", "serial")
verb("verify", "--data", data, "--checkpoint", f"{folder}/run")
verb("plan", "--config", "configs/quickstart.py", "--vocab-size", "300")
verb("generate", "--checkpoint", f"{folder}/run", "--prompt", "the", "--max-new-tokens", "2")
"""


def _sources(
    folders: Sequence[str] = ("jaxgpt", "tools", "configs"),
) -> Iterator[tuple[Path, ast.AST]]:
    for folder in folders:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text("utf-8"))


def _calls(name: str) -> Iterator[tuple[Path, str]]:
    """Yield the first argument of each call of a function, where it is a literal."""
    for path, tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
                for argument in node.args[:1]:
                    if isinstance(argument, ast.Constant):
                        yield path, argument.value


def _imported() -> dict[str, Path]:
    """Return the top-level modules that the product imports, each with a file that does."""
    found: dict[str, Path] = {}
    for path, tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            else:
                continue
            found |= {name.partition(".")[0]: path for name in names}
    found |= {name.partition(".")[0]: path for path, name in _calls("import_package")}
    ours = {"jaxgpt", "tools", *(path.stem for path in (REPOSITORY / "tools").glob("*.py"))}
    return {
        name: path for name, path in found.items() if name not in sys.stdlib_module_names | ours
    }


def _asked_for_by_tests() -> dict[str, Path]:
    """Return the modules without which a test is skipped: undeclared, it would be for everyone."""
    return {
        node.args[0].value.partition(".")[0]: path
        for path, tree in _sources(["tests"])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") == "importorskip"
        and isinstance(node.args[0], ast.Constant)
        and not node.args[0].value.startswith("tests.")
    }


def test_each_package_that_is_imported_is_declared() -> None:
    required = [*PROJECT["dependencies"], *itertools.chain(*EXTRAS.values())]
    declared = {re.split(r"[\[<>=~ ]", name)[0].lower() for name in required} | NOT_DECLARED
    imported = _imported() | _asked_for_by_tests()
    assert {"jax", "trafilatura", "ray", "openai"} <= set(imported)
    missing = {
        name: path
        for name, path in imported.items()
        if PACKAGES.get(name, name).lower().replace("_", "-") not in declared
    }
    assert not missing


def test_each_command_that_installs_an_extra_can_work_in_a_clone() -> None:
    pages = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
    sources = [path for folder in ("jaxgpt", "tools", "tests") for path in
               (REPOSITORY / folder).rglob("*.py") if path != Path(__file__)]  # fmt: skip
    named = dict.fromkeys(extra for _, extra in _calls("install_advice"))
    for path in [*pages, *sources]:
        text = path.read_text("utf-8")
        # No index holds jaxgpt: `pip install 'jaxgpt[ray]'` finds nothing.
        assert not re.search(r"jaxgpt\[[a-z]", text), path
        for extras in re.findall(r"""pip install[^\n]*?['"]?\.\[([a-z0-9_,-]+)\]""", text):
            named |= dict.fromkeys(extras.split(","))
    assert {"ray", "cuda12", "benchmark", "test"} <= set(named)
    assert not set(named) - set(EXTRAS)


def test_the_tested_versions_are_those_that_are_allowed() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    tested = [Requirement(line) for line in lines if not line.startswith("#")]
    environments = [{"python_full_version": f"3.{minor}.0"} for minor in (11, 12, 13)]
    required = [Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS["test"]]]
    for environment, requirement in itertools.product(environments, required):
        pins = [
            pin
            for pin in tested
            if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
            and (pin.marker is None or pin.marker.evaluate(environment))
        ]
        assert len(pins) == 1, (requirement.name, environment)
        (pinned,) = pins[0].specifier
        assert requirement.specifier.contains(pinned.version), requirement


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, plain text, and the module that breaks packages."""
    folder = tmp_path_factory.mktemp("broken packages")
    make_run(folder / "run", make_dataset(folder / "data"), {10: 3.0})
    (folder / "text").mkdir()
    (folder / "text" / "own.txt").write_text("".join(make_texts(30)))
    (folder / "text" / "more.jsonl").write_text('{"text": "some more words"}\n' * 3)
    (folder / "breaking").mkdir()
    (folder / "breaking" / "sitecustomize.py").write_text(BREAKING)
    return folder


def _run_broken(
    folder: Path, broken: str, *command: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    places = (str(folder / "breaking"), str(REPOSITORY), os.environ.get("PYTHONPATH", ""))
    path = os.pathsep.join(filter(None, places))
    return subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={**os.environ, "BROKEN": broken, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    "broken",
    [" ".join(OPTIONAL), pytest.param("", marks=pytest.mark.slow)],
    ids=["all of them broken", "none broken"],
)
def test_verbs_and_plain_text_need_no_package_of_other_work(
    folder: Path, tmp_path: Path, broken: str
) -> None:
    """One that is not even looked for can break alone, beside the others, and change nothing."""
    for name in ("run", "text"):
        (tmp_path / name).symlink_to(folder / name)
    searched = tmp_path / "searched"
    done = _run_broken(folder, broken, "-c", VERBS, str(tmp_path), SEARCHED=str(searched))
    assert done.returncode == 0, done.stderr[-2000:]
    assert ("reports have no figures" in done.stderr) == bool(broken)
    page = (tmp_path / "built" / "report.html").read_text("utf-8")
    assert ("could not be imported" in page) == bool(broken)
    names = set(searched.read_text("utf-8").splitlines())
    assert {"jax", "orbax"} <= names
    assert names & set(OPTIONAL) == {"matplotlib"}


@pytest.mark.parametrize("broken", ["trafilatura", "lxml"])
def test_a_web_page_is_never_lost_for_want_of_a_package(
    folder: Path, tmp_path: Path, broken: str
) -> None:
    (tmp_path / "page.html").write_text("<html><p>Some words of a page.</p></html>")
    build = ["tools/build_dataset.py", "--input", str(tmp_path), "--output", str(tmp_path / "out")]
    done = _run_broken(folder, broken, *build, "--executor.kind", "serial")
    assert done.returncode == 78
    assert re.search(
        rf"^error: .*needs the package trafilatura.*{broken}.* is broken.*pip install -e \. in",
        done.stderr, re.MULTILINE,
    )  # fmt: skip
    assert "--sources.html keep" in done.stderr


def test_a_package_that_the_work_needs_is_named_with_the_remedy(capsys) -> None:
    def main(argv: Sequence[str]) -> None:
        raise ImportError("built for\nanother NumPy", name="grain.python")

    with pytest.raises(SystemExit) as stop:
        run_verb(main, [])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the package grain cannot be imported")
    assert "built for another NumPy" in line
    assert "pip install -e ." in line


def test_a_package_that_breaks_in_any_way_is_a_config_error(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "broken_package.py").write_text("raise RuntimeError('built for\\nanother NumPy')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"x needs the package broken_package.*another N.*y"):
        import_package("broken_package", "x", "y")
