"""The Python of the docs runs as printed, and what docs/model.md lists is what the model has."""

import math
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.layers.norms import LayerNorm, RmsNorm, Sandwich
from jaxgpt.model.layers.positions import Learned
from jaxgpt.model.layers.projection import Initialization
from jaxgpt.runs.config import TrainConfig
from tests.tiny import REPOSITORY

PAGE = REPOSITORY / "docs" / "model.md"
VOCAB_SIZE = 100
# Different for every letter, so that a shape names its axes.
SIZES = {"L": 3, "D": 32, "N": 6, "K": 2, "H": 10, "F": 24, "V": 112, "P": 20}
EVERYTHING = GptConfig(
    num_layers=SIZES["L"],
    d_model=SIZES["D"],
    position=Learned(max_length=SIZES["P"]),
    attention=GroupedQueryAttention(
        num_heads=SIZES["N"],
        num_kv_heads=SIZES["K"],
        head_dim=SIZES["H"],
        qkv_bias=True,
        output_bias=True,
        qk_norm=RmsNorm(),
    ),
    feed_forward=SwiGlu(hidden=SIZES["F"], use_bias=True),
    head=LanguageModelHead(tied=False),
    vocab_multiple=16,
)


@pytest.fixture(scope="module")
def namespace() -> dict[str, Any]:
    """What the page's blocks of Python define, run one after the other."""
    text = PAGE.read_text()
    # The classes of the worked example are looked up by the name of their module.
    names: dict[str, Any] = {"__name__": __name__}
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        # Tracebacks name the line of the page.
        code = "\n" * text[: block.start(1)].count("\n") + block[1]
        exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_the_page_on_experts_runs() -> None:
    page = (REPOSITORY / "docs" / "mixture_of_experts.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec("\n".join(code), {})


def test_the_page_on_fine_tuning_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs" / "finetuning.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec("\n".join(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)), {})


@pytest.mark.parametrize("name", ["maxout", "reglu"])
def test_the_worked_example_runs_and_is_causal(namespace: dict[str, Any], name: str) -> None:
    config = namespace[name]
    assert type(config.feed_forward).__module__ == __name__, "the page's own class"
    model = config.build(VOCAB_SIZE)
    tokens_BT = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, 7)), jnp.int32)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(1), tokens_BT))["params"]

    apply = jax.jit(lambda tokens_BT: model.apply({"params": params}, tokens_BT)[0])

    def logits(tokens_BT: jax.Array) -> np.ndarray:
        return np.asarray(apply(tokens_BT))

    unchanged_BTV = logits(tokens_BT)
    assert np.isfinite(unchanged_BTV).all()
    for place in range(tokens_BT.shape[1]):
        changed_BTV = logits(tokens_BT.at[:, place].add(1) % VOCAB_SIZE)
        np.testing.assert_array_equal(changed_BTV[:, :place], unchanged_BTV[:, :place])
        differs_BT = (changed_BTV != unchanged_BTV).any(axis=-1)
        assert differs_BT[:, place:].all(), "a token reaches itself and every later one"


def test_the_table_of_parameters_is_the_models() -> None:
    documented = {
        name: (tuple(SIZES[letter] for letter in shape.split(", ")), tuple(axes.split(", ")))
        for name, shape, axes, _ in _table_of_parameters()
    }
    found = {}
    for norm in (LayerNorm(), Sandwich(norm=RmsNorm())):
        model = replace(EVERYTHING, norm=norm).build(VOCAB_SIZE)
        tokens_BT = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        params = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
        boxes = jax.tree.leaves_with_path(
            params, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
        )
        for path, box in boxes:
            name = "/".join(key.key for key in path)
            found[name] = (box.value.shape, tuple(box.names))
    assert documented == found


def _table_of_parameters() -> list[tuple[str, str, str, str]]:
    """(name, shape, axes, standard deviation) of each row."""
    row = r"^\| `([\w/]+)` \| \[([\w, ]+)\] \| ([\w, ]+) \| ([^|]+) \|"
    return re.findall(row, PAGE.read_text(), re.M)


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_start_with_the_standard_deviations_of_the_table(tied: bool) -> None:
    config = replace(EVERYTHING, norm=LayerNorm(), head=LanguageModelHead(tied=tied))
    config = replace(config, initialization=Initialization(std=0.05))
    tokens_BT = jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(config.build(VOCAB_SIZE).init)(jax.random.key(0), tokens_BT)["params"]
    found = {
        "/".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(nn.unbox(params))
    }
    values = {"std": 0.05, "D": SIZES["D"], "L": SIZES["L"], "sqrt": math.sqrt, "min": min}
    texts = {name: text for name, _, _, text in _table_of_parameters()}
    for name, array in found.items():
        text = texts[name].replace("`", "").replace("2L", "2 * L")
        if text.startswith("all"):
            assert (array == float(text.removeprefix("all"))).all(), name
            continue
        untied, _, with_tied = text.partition("; ")
        formula = with_tied.removesuffix(" if tied") if tied and with_tied else untied
        # Six standard errors of the estimate.
        tolerance = 6 / math.sqrt(2 * array.size)
        assert array.std() == pytest.approx(eval(formula, values), rel=tolerance), name


def test_the_kernels_run_in_a_function_of_arrow_batches() -> None:
    """As PySpark's mapInArrow calls it."""
    page = (REPOSITORY / "docs" / "executors.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(code, {})


@pytest.mark.parametrize("page", ["pipeline"])
def test_the_configs_of_a_page_load(page: str) -> None:
    """Every block of Python of the page runs, and what it calls `config` is one."""
    assert isinstance(_run_blocks(page)["config"], TrainConfig)


@pytest.mark.parametrize("page", ["embedding", "attention", "loss", "optimizer"])
def test_the_formulas_of_a_page_are_those_of_the_code(page: str) -> None:
    """The page's Python writes them out with NumPy and compares."""
    assert "assert_allclose" in (REPOSITORY / "docs" / f"{page}.md").read_text()
    _run_blocks(page)


def _run_blocks(page: str) -> dict[str, Any]:
    """Run the page's blocks of Python one after the other; return the names they define."""
    text = (REPOSITORY / "docs" / f"{page}.md").read_text()
    names: dict[str, Any] = {"__name__": __name__}
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(compile(block[1], page, "exec"), names)
    return names
