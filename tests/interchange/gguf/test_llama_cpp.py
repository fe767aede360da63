"""The real llama.cpp computes, writes, cuts text and ends a chat as we do."""

import dataclasses
from pathlib import Path
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import pytest

from jaxgpt.config import replace
from jaxgpt.errors import MismatchError
from jaxgpt.interchange.gguf.export_gguf import export_gguf
from jaxgpt.interchange.gguf.gguf_file import GgufDtype
from jaxgpt.interchange.gguf.llama_cpp import (
    LlamaCpp,
    WritingPlan,
    comparable_texts,
    compare_writing,
)
from jaxgpt.model.layers.positions import Learned
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import Run
from jaxgpt.tokenizer.chat_template import ChatTemplate, Message
from jaxgpt.tokenizer.sentencepiece_model import CONTROL_PIECES, SPACE_SYMBOL
from jaxgpt.tokenizer.tool_calls import Turn, plain_messages, read_call
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.interchange.exported import CONFIGS, TEXTS, make_run_of
from tests.tiny import REPOSITORY, make_dataset

for _package in ("gguf", "xllamacpp"):
    pytest.importorskip(_package, reason="needs: pip install -e '.[parity]'")
pytestmark = pytest.mark.slow

CONTEXT = 64
PLAN = WritingPlan(prompt=8, written=48, compared=6)
MODELS = {
    **{name: CONFIGS[name] for name in ("llama", "llama3", "llama_linear", "qwen3")},
    "qwen2": replace(
        CONFIGS["llama"], attention=replace(CONFIGS["llama"].attention, qkv_bias=True)
    ),
    "gpt2": replace(CONFIGS["gpt2"], position=Learned(max_length=CONTEXT)),
    "gemma2": replace(
        CONFIGS["gemma2"], attention=replace(CONFIGS["gemma2"].attention, query_scale=None)
    ),
}
# llama.cpp takes GELU from a table of float16.
TOLERANCES = {"gpt2": 1e-2, "gemma2": 1e-2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose texts are pages of the docs, in a vocabulary of 1,000 pieces."""
    texts = [path.read_text() for path in sorted((REPOSITORY / "docs").glob("*.md"))]
    parts = [part for text in texts for part in text.split("\n\n")]
    tokenizer = train_tokenizer(parts, TokenizerConfig(vocab_size=1000))
    return make_dataset(tmp_path_factory.mktemp("llama_cpp") / "data", tokenizer=tokenizer)


def _make(name: str, folder: Path, dataset: Path) -> Run:
    """Make a run with room for the tokens that are written."""
    run = make_run_of(MODELS[name], folder / "run", dataset)
    batch = replace(run.config.batch, sequence_length=CONTEXT)
    return dataclasses.replace(run, config=replace(run.config, batch=batch))


def _open(run: Run, folder: Path, dtype: GgufDtype = "F32") -> LlamaCpp:
    parity = export_gguf(run, 3, folder, dtype, 10**9)[1]
    assert parity.ids_equal
    return LlamaCpp(folder / "model.gguf", CONTEXT)


@pytest.mark.parametrize("name", ["llama3", "llama_linear", "qwen3", "qwen2", "gpt2", "gemma2"])
def test_log_probabilities_and_greedy_tokens_are_equal(
    name: str, tmp_path: Path, dataset: Path
) -> None:
    run = _make(name, tmp_path, dataset)
    server = _open(run, tmp_path / "out")
    params = run.restore_params(3, single_device_mesh())
    difference, num_equal = compare_writing(server, run.config.model, params, run.tokenizer, PLAN)
    assert difference < TOLERANCES.get(name, 1e-4)
    assert num_equal == PLAN.written


@pytest.mark.parametrize(("dtype", "tolerance"), [("F16", 1e-2), ("Q8_0", 0.5)])
def test_fewer_bits_are_close(
    dtype: GgufDtype, tolerance: float, tmp_path: Path, dataset: Path
) -> None:
    run = _make("qwen3", tmp_path, dataset)
    server = _open(run, tmp_path / "out", dtype)
    params = run.restore_params(3, single_device_mesh())
    difference, _ = compare_writing(server, run.config.model, params, run.tokenizer, PLAN)
    assert difference < tolerance


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(MismatchError, match=r"llama.cpp does not read .*model.gguf"):
        LlamaCpp(tmp_path / "model.gguf", CONTEXT)


class _EndingRun(Run):
    """A run whose model writes one control token after any text."""

    token = "end"

    def restore_params(self, step: int, mesh: jax.sharding.Mesh) -> Any:
        params = jax.tree.map(jnp.zeros_like, super().restore_params(step, mesh))
        params["embedding"]["table"] += 1
        params["final_norm"]["scale"] += 1
        column = params["head"]["kernel"].at[:, self.tokenizer.special_ids[self.token]]
        params["head"]["kernel"] = column.set(1)
        return params


@pytest.mark.parametrize("token", ["end", "eos"])
def test_a_chat_stops_by_itself(token: str, tmp_path: Path, dataset: Path) -> None:
    run = _EndingRun(**vars(_make("llama", tmp_path, dataset)))
    object.__setattr__(run, "token", token)
    server = _open(run, tmp_path / "out")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi you"}]
    body = {"messages": messages, "max_tokens": 20, "temperature": 0}
    answer = server.post("/v1/chat/completions", body)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == ""
    ids = ChatTemplate(run.tokenizer).render_prompt([Message(**each) for each in messages])  # type: ignore[arg-type]
    assert answer["usage"]["prompt_tokens"] == len(ids)
    rendered = server.post("/apply-template", {"messages": messages})["prompt"]
    body = {"content": rendered, "add_special": True, "parse_special": True}
    assert server.post("/tokenize", body)["tokens"] == ids.tolist()


TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add 'two' <numbers>",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
ADD = {"name": "add", "arguments": '{"a": 1}'}
CALLED = [
    {"role": "user", "content": "1 + 2?"},
    {"role": "assistant", "content": "I add.", "tool_calls": [
        {"id": name, "type": "function", "function": ADD} for name in "xy"
    ]},
    {"role": "tool", "tool_call_id": "x", "content": "3"},
    {"role": "tool", "tool_call_id": "y", "content": "three"},
]  # fmt: skip


def test_a_conversation_with_tools_is_rendered_alike(tmp_path: Path, dataset: Path) -> None:
    run = _make("llama", tmp_path, dataset)
    server = _open(run, tmp_path / "out")
    turns = [
        Turn(
            each["role"],
            each["content"],
            calls=tuple(read_call(call) for call in each.get("tool_calls", ())),
        )
        for each in CALLED
    ]
    rendered = server.post("/apply-template", {"messages": CALLED, "tools": [TOOL]})["prompt"]
    ids = ChatTemplate(run.tokenizer).render_prompt(plain_messages(turns, [TOOL]))
    body = {"content": rendered, "add_special": True, "parse_special": True}
    assert server.post("/tokenize", body)["tokens"] == ids.tolist()


def _is_comparable(text: str) -> bool:
    return not any(each in text for each in (SPACE_SYMBOL, *CONTROL_PIECES.values()))


def test_ids_are_equal_for_any_text(tmp_path: Path, dataset: Path) -> None:
    run = _make("llama", tmp_path, dataset)
    server = _open(run, tmp_path / "out")

    @hypothesis.settings(max_examples=700, database=None, deadline=None)
    @hypothesis.given(TEXTS.filter(_is_comparable))
    def check(text: str) -> None:
        assert server.encode(text) == run.tokenizer.encode(text)

    check()
    for text in comparable_texts(300, seed=1):
        check.hypothesis.inner_test(text)
