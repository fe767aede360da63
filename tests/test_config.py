"""Configs: checked at construction, written and read back equal, refused in one line that helps."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.config import configclass, from_dict, from_json, load_config, replace, to_dict, to_json
from jaxgpt.errors import ConfigError, UsageError
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.feed_forward import FeedForward, Gelu, SwiGlu
from jaxgpt.model.layers.positions import Position, Rotary
from jaxgpt.runs.config import TrainConfig

MODULE = __name__


@configclass
class Shape:
    """Base of shapes."""


@configclass
class Circle(Shape):
    """A variant."""

    radius: float = 1.0


@configclass
class Box(Shape):
    """A variant with a field of the same name and another meaning."""

    radius: float = 2.0
    sides: tuple[int, ...] = (1, 2)


@configclass
class Drawing:
    """A section with a variant, an optional and a nested tuple of sections."""

    shape: Shape = Circle()
    title: str | None = None
    parts: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        if self.title == "bad":
            raise ValueError(f"title={self.title!r} is not allowed; any other is")


@given(
    radius=st.floats(allow_nan=False, allow_infinity=False),
    sides=st.lists(st.integers(), max_size=3).map(tuple),
    title=st.none() | st.text().filter(lambda text: text != "bad"),
)
def test_json_gives_back_an_equal_config(radius, sides, title) -> None:
    box = Box(radius=radius, sides=sides)
    for shape in (box, Circle(radius=radius)):
        drawing = Drawing(shape=shape, title=title, parts=(box, box))
        again = from_json(to_json(drawing), Drawing, modules=(MODULE,))
        assert again == drawing
        assert type(again.shape) is type(shape)


def test_a_variant_is_never_read_as_another() -> None:
    data = to_dict(Drawing(shape=Circle(radius=3.0)))
    data["shape"]["type"] = f"{MODULE}:Drawing"
    with pytest.raises(ConfigError, match="where a Shape is expected"):
        from_dict(data, Drawing, (MODULE,))


def test_json_builds_no_class_of_a_module_that_was_not_named() -> None:
    with pytest.raises(ConfigError, match="must lie in a file of the package"):
        from_json(to_json(Drawing()), Drawing)
    hostile = {"type": "os:system", "command": "true"}
    with pytest.raises(ConfigError, match="only classes of the package jaxgpt"):
        from_dict(hostile, Drawing)


def test_unknown_fields_in_json_name_both_sides() -> None:
    data = to_dict(Drawing())
    data["colour"] = data.pop("title")
    with pytest.raises(ConfigError, match=r"no field colour; fields .* lacks: title"):
        from_dict(data, Drawing, (MODULE,))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Drawing(titel="x"), "did you mean 'title'"),
        (lambda: Circle(radius="1"), "Circle.radius = '1'"),
        (lambda: Drawing(title="bad"), "title='bad' is not allowed"),
        (lambda: Drawing(shape=3), "Drawing.shape = 3"),
        (lambda: GptConfig(d_model=100), "multiple of attention.num_heads, not 100 and 12"),
        (lambda: GptConfig(compute_dtype="bfloat17"), "'float32' or 'bfloat16'"),
        (lambda: GptConfig(num_layer=3), "did you mean 'num_layers'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_allowed(build, message) -> None:
    with pytest.raises(ConfigError) as error:
        build()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_frozen_and_replaced_as_a_whole() -> None:
    config = GptConfig(d_model=128, attention=GroupedQueryAttention(num_heads=4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = 3  # type: ignore[misc]
    with pytest.raises(ConfigError):
        replace(config, d_model=130)
    wider = replace(config, d_model=130, attention=GroupedQueryAttention(num_heads=5))
    assert wider.d_model == 130
    assert hash(wider) != hash(config)


def _write(folder: Path, text: str) -> Path:
    path = folder / "config.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = 3\n", "of type int"),
        ("x = 3\n", "defines no `config`"),
        ("x = 1\nraise RuntimeError('why')\n", "config.py:2: RuntimeError: why"),
        ("x = (\n", "config.py:1: SyntaxError"),
        (
            "from jaxgpt.model.gpt import GptConfig\nGptConfig(d_modle=3)\n",
            "config.py:2: GptConfig has no field 'd_modle'; did you mean 'd_model'?",
        ),
        ("import no_such_module\n", "config.py:1: ModuleNotFoundError"),
    ],
)
def test_a_config_file_that_does_not_load_names_its_line(tmp_path, text, message) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(_write(tmp_path, text), TrainConfig)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_config_file_is_a_usage_error(tmp_path) -> None:
    with pytest.raises(UsageError, match="no config file"):
        load_config(tmp_path / "none.py", TrainConfig)


def test_variants_of_the_model_round_trip() -> None:
    variants: list[tuple[str, Position | FeedForward]] = [
        ("position", Rotary(max_wavelength=7.0)),
        ("feed_forward", Gelu(hidden=8)),
        ("feed_forward", SwiGlu(hidden=8)),
    ]
    for field, value in variants:
        config = replace(GptConfig(), **{field: value})
        assert from_json(to_json(config), GptConfig) == config
