"""Classes in JSON are named by their package, and names that older versions wrote are equal."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import jaxgpt
from jaxgpt.config import configclass, from_dict, to_dict
from jaxgpt.errors import ConfigError
from jaxgpt.model.attention.cpu import CpuBlockwise
from jaxgpt.model.layers.norms import LayerNorm, RmsNorm
from jaxgpt.model.layers.rope_scaling import LinearScaling
from jaxgpt.names.public_names import public_names
from jaxgpt.names.type_tags import find_class, type_tag, with_current_tags
from jaxgpt.training.schedule import LinearDecay

FOLDER = Path(jaxgpt.__file__).parent
PACKAGES = [
    "jaxgpt",
    *sorted(f"jaxgpt.{path.parent.name}" for path in FOLDER.glob("*/__init__.py")),
]


@configclass
class Mine:
    """A user's own."""


def _config_classes() -> list[tuple[str, str]]:
    """Return (module, name) of all classes of the package that are marked `@configclass`."""
    return [
        (".".join(path.relative_to(FOLDER.parent).with_suffix("").parts), node.name)
        for path in sorted(FOLDER.rglob("*.py"))
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
        and any(getattr(mark, "id", "") == "configclass" for mark in node.decorator_list)
    ]


def _package(module: str) -> str:
    """Return `jaxgpt.PACKAGE`, or `jaxgpt` of a module at the top."""
    first = ".".join(module.split(".")[:2])
    return first if first in PACKAGES else "jaxgpt"


def test_every_config_class_is_exported_by_its_package_and_has_a_name_of_its_own_there() -> None:
    classes = _config_classes()
    assert len(classes) > 100
    names = [(_package(module), name) for module, name in classes]
    assert not {each for each in names if names.count(each) > 1}
    for module, name in classes:
        assert public_names(_package(module)).get(name) == module, (
            f"import {name} of {module} in the __init__.py of {_package(module)}, under "
            "TYPE_CHECKING: its name in saved runs must not depend on the file that it lies in"
        )


@pytest.mark.parametrize("package", [name for name in PACKAGES if public_names(name)])
def test_public_names_exist_where_they_are_said_to_be_and_hide_no_module(package: str) -> None:
    module = importlib.import_module(package)
    names = public_names(package)
    assert dir(module) == sorted(names)
    assert module.__all__ == list(names)
    assert not [name for name in names if importlib.util.find_spec(f"{package}.{name}")]
    for name, home in names.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match=f"{package}' has no attribute 'Rotry'"):
        _ = module.Rotry


def test_a_package_is_imported_without_its_files_and_those_of_text_without_jax() -> None:
    code = (
        "import sys, jaxgpt.model, jaxgpt.corpus, jaxgpt.data\n"
        "assert not {'numpy', 'jax', 'pydantic', 'jaxgpt.model.gpt'} & sys.modules.keys()\n"
        "from jaxgpt.corpus import *\n"
        "from jaxgpt.data import *\n"
        "build_dataset, DatasetConfig, TrainingBatches\n"
        "assert not {'jax', 'flax', 'jaxgpt.model.gpt'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("written", "cls", "now"),
    [
        ("jaxgpt.model.norms:RmsNorm", RmsNorm, "jaxgpt.model:RmsNorm"),
        ("jaxgpt.model.some.file.that.was:RmsNorm", RmsNorm, "jaxgpt.model:RmsNorm"),
        ("jaxgpt.model.rope_scaling:Linear", LinearScaling, "jaxgpt.model:LinearScaling"),
        ("jaxgpt.model:RowByRow", CpuBlockwise, "jaxgpt.model:CpuBlockwise"),
        ("jaxgpt.model.attention_kernels:RowByRow", CpuBlockwise, "jaxgpt.model:CpuBlockwise"),
        ("jaxgpt.training.schedule:Linear", LinearDecay, "jaxgpt.training:LinearDecay"),
        ("jaxgpt.training:Linear", LinearDecay, "jaxgpt.training:LinearDecay"),
        ("jaxgpt.model.norms:Mine", None, "jaxgpt.model.norms:Mine"),
        (f"{__name__}:Mine", Mine, f"{__name__}:Mine"),
    ],
)
def test_a_name_is_read_whichever_version_wrote_it(
    written: str, cls: type | None, now: str
) -> None:
    assert find_class(written, (__name__,)) is cls
    assert cls is None or type_tag(cls) == now
    section = {"type": written, "of": [{"type": written, "f.type": written, "text": written}]}
    assert with_current_tags(section) == {
        "type": now,
        "of": [{"type": now, "f.type": now, "text": written}],
    }


def test_a_name_that_no_version_wrote_stands_for_nothing() -> None:
    names = ("jaxgpt", "jaxgpt:", "jaxgpt.:A", "jaxgpt..b:A", "jaxgpt.__main__:A", "os:system", "")
    for name in names:
        assert with_current_tags({"type": name}) == {"type": name}
        with pytest.raises(ConfigError):
            from_dict({"type": name}, object)


@pytest.mark.parametrize("name", ["RmsNorm", "Alibi"])
def test_a_class_that_its_package_does_not_export_is_named_by_its_file(name: str) -> None:
    cls = type(name, (), {"__module__": "jaxgpt.model.file_of_the_user"})
    assert type_tag(cls) == f"jaxgpt.model.file_of_the_user:{name}"


def test_json_of_an_older_version_is_read_as_an_equal_config() -> None:
    old = {"type": "jaxgpt.model.norms:LayerNorm", "eps": 1e-3}
    assert from_dict(old, LayerNorm) == LayerNorm(eps=1e-3)
    assert with_current_tags(old) == {
        name: value for name, value in to_dict(LayerNorm(eps=1e-3)).items() if name in old
    }
    with pytest.raises(ConfigError, match="does not exist in this version"):
        from_dict({"type": "jaxgpt.model.norms:BatchNorm"}, LayerNorm)
