"""Extraction: the loss and the scores of packed texts, against NumPy."""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.batch import Batch
from jaxgpt.errors import BadInputError, ConfigError
from jaxgpt.finetuning import ExamplesConfig, Extraction, SingleLabel, Spans
from jaxgpt.finetuning.batches import PackedRows
from jaxgpt.finetuning.examples import Examples, read_examples
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, to_devices
from jaxgpt.training.loss import LossConfig
from jaxgpt.training.state import init_parameters
from jaxgpt.training.step import accumulate
from tests.finetuning.small_tokenizer import small_tokenizer

TOKENIZER = small_tokenizer()
WORDS = ("zürich", "the", "user", "東京", "asks", "how", "7")
LABELS = ("city", "number")
LENGTH, ROWS = 48, 8
OBJECTIVE = Extraction(labels=LABELS)


def _row(rng: np.random.Generator) -> dict[str, Any]:
    text, spans = "", []
    for word in rng.choice(WORDS, rng.integers(1, 5)):
        text += " " if text and rng.random() < 0.8 else ""
        label = {"zürich": "city", "東京": "city", "7": "number"}.get(word)
        if label:
            spans.append({"start": len(text), "end": len(text) + len(word), "label": label})
        text += word
    return {"text": text, "spans": spans}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    found = {row["text"]: row for row in (_row(rng) for _ in range(60))}
    return list(found.values())


@pytest.fixture(scope="module")
def examples(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Examples:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ExamplesConfig(files=(str(path),), held_out_share=0.0)
    return read_examples(config, TOKENIZER, LENGTH)


@pytest.fixture(scope="module")
def batch(examples: Examples) -> Batch:
    packed = PackedRows(OBJECTIVE.prepare(examples.training, LABELS, LENGTH), LENGTH)
    assert len(packed) >= ROWS
    return packed.batch([*range(ROWS - 1), None])


def test_tags_mark_the_text_of_the_spans(examples: Examples, rows: list[dict[str, Any]]) -> None:
    assert examples.label_names == LABELS
    tags_N, offsets = examples.training.token_labels["spans"], examples.training.offsets
    for row, start, stop in zip(rows, offsets[:-1], offsets[1:], strict=True):
        tokens, tags = examples.training.tokens_N[start:stop], tags_N[start:stop]
        (first,) = np.nonzero((tags > 0) & (tags % 2 == 1))
        assert [LABELS[tags[place] // 2] for place in first] == [
            span["label"] for span in row["spans"]
        ]
        for place, span in zip(first, row["spans"], strict=True):
            size = 1 + int(np.cumprod(tags[place + 1 :] == tags[place] + 1).sum())
            text = TOKENIZER.decode(tokens[place : place + size].tolist())
            assert row["text"][span["start"] : span["end"]] in text
    described = examples.description
    counts = {label: sum(s["label"] == label for r in rows for s in r["spans"]) for label in LABELS}
    assert described.label_counts == counts
    assert f"{len(rows)} marked texts" in described.lines()[0]


def test_of_a_text_that_is_given_twice_the_second_copy_is_marked(
    examples: Examples, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    twice = ExamplesConfig(files=(str(path),), form=Spans(twice=True), held_out_share=0.0)
    found = read_examples(twice, TOKENIZER, 2 * LENGTH).training
    for index in range(len(rows)):
        (tokens, tags), (once, marks) = (
            (
                each.sequence(index)[0],
                each.token_labels["spans"][slice(*each.offsets[index : index + 2])],
            )
            for each in (found, examples.training)
        )
        assert tokens.tolist() == [*once, *once[1:]]
        assert tags.tolist() == [-1] * (len(once) - 1) + marks.tolist()


def test_a_text_that_does_not_fit_twice_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "texts.jsonl"
    texts = ["the user asks", "the user asks how the user asks how the user asks"]
    path.write_text("".join(json.dumps({"text": text, "spans": []}) + "\n" for text in texts))
    config = ExamplesConfig(files=(str(path),), form=Spans(twice=True), held_out_share=0.0)
    caplog.set_level(logging.INFO)
    fitting = read_examples(config, TOKENIZER, 4 * LENGTH).training
    assert "left out" not in caplog.text
    found = read_examples(config, TOKENIZER, int(fitting.lengths_E[1]) - 1)
    assert found.training.tokens_N.tolist() == fitting.select(np.array([0])).tokens_N.tolist()
    assert found.description.num_dropped == 1
    assert "1 examples of 2 are left out" in caplog.text


@pytest.fixture(scope="module")
def model() -> Gpt:
    config = GptConfig(
        num_layers=1,
        d_model=16,
        attention=GroupedQueryAttention(num_heads=2, num_kv_heads=2),
        feed_forward=SwiGlu(hidden=16),
        vocab_multiple=8,
    )
    return OBJECTIVE.adapt_model(config).build(TOKENIZER.vocab_size)


@pytest.fixture(scope="module")
def params(model: Gpt) -> Any:
    made = init_parameters(model, ShardingRules(), make_mesh(MeshConfig()), seed=0)
    # The first logits are small; larger ones predict many tags.
    return made | {"head": jax.tree.map(lambda leaf: 30 * leaf, made["head"])}


def _loss(model: Gpt) -> Any:
    return OBJECTIVE.build_loss(model, jnp.ones(1, jnp.int32), LossConfig(), 0)


def test_every_token_of_text_has_one_share_of_the_loss(
    model: Gpt, params: Any, batch: Batch
) -> None:
    inputs = batch.tokens_BT, batch.segment_ids_BT, batch.positions_BT
    logits, _ = jax.jit(lambda *each: model.apply({"params": params}, *each))(*inputs)
    logits = np.asarray(logits, np.float64)
    assert batch.extras is not None
    is_text = (batch.segment_ids_BT > 0) & (batch.tokens_BT != TOKENIZER.bos_id)
    tags = batch.extras["spans"][is_text]
    chosen = logits[is_text]
    losses = np.log(np.exp(chosen).sum(1)) - chosen[np.arange(len(tags)), tags]
    loss = jax.jit(_loss(model))
    result = OBJECTIVE.measure(lambda each: loss(params, each, None), [batch], TOKENIZER)
    assert result["tokens"] == len(tags)
    assert result["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert result["token_accuracy"] == pytest.approx((chosen.argmax(1) == tags).mean())
    assert result["majority_token_accuracy"] == pytest.approx(np.bincount(tags).max() / len(tags))
    assert result["spans"] == sum(each["spans"] for each in result["labels"].values())
    assert result["spans"] == np.count_nonzero(tags % 2)
    assert result["span_f1_low"] <= result["span_f1"] <= result["span_f1_high"]
    assert f"over {result['spans']} spans" in OBJECTIVE.describe(result)


def test_micro_batches_and_devices_change_nothing(model: Gpt, params: Any, batch: Batch) -> None:
    loss = _loss(model)

    def gradients(num_micro_batches: int) -> Any:
        def scored(params: Any, batch: Batch, rng: Any) -> Any:
            sums = loss(params, batch, None)
            return sums.objective, sums

        def run(params: Any, batch: Batch) -> Any:
            return accumulate(scored, params, batch, jax.random.key(0), num_micro_batches)

        return jax.jit(run)

    expected = gradients(1)(params, batch)
    found = [gradients(8)(params, batch)]
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with on_mesh(mesh, ShardingRules()):
        found.append(jax.device_get(gradients(1)(params, to_devices(batch, mesh))))
    for each in found:
        for ours, theirs in zip(jax.tree.leaves(each), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_other_examples_and_heads_are_refused(examples: Examples, model: Gpt) -> None:
    with pytest.raises(BadInputError, match="label 'city' is not listed"):
        Extraction(labels=("x",)).prepare(examples.training, LABELS, LENGTH)
    with pytest.raises(BadInputError, match="SingleLabel needs examples with 'label'"):
        SingleLabel(labels=LABELS).prepare(examples.training, LABELS, LENGTH)
    zeros = np.zeros(1, np.int64)
    plain = TokenizedExamples(zeros, zeros, zeros)
    with pytest.raises(BadInputError, match="Extraction needs examples with 'spans'"):
        OBJECTIVE.prepare(plain, (), LENGTH)
    with pytest.raises(ConfigError, match="cannot mark 1 labels; set it to TokenClassification"):
        Extraction(labels=("x",)).build_loss(model, jnp.ones(1), LossConfig(), 0)
