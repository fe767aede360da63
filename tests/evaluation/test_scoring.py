"""Scores equal those of one forward pass a request: no padding, sharing or mesh shows in them."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.errors import ConfigError, DivergedError, MismatchError
from jaxgpt.evaluation import token_scores
from jaxgpt.evaluation.scoring import Request, Scorer
from jaxgpt.evaluation.windows import encode_pair
from jaxgpt.model.heads import ClassificationHead
from jaxgpt.model.layers.positions import Learned
from jaxgpt.model.moe.dispatch import Dropless
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh
from tests.evaluation.tiny_scoring import load_tiny
from tests.model.tiny_model import PLAIN
from tests.tiny import make_texts

CONTEXTS = ["", "the cat", "one quick dog sees the old stone and", *make_texts(3, seed=4)]
REQUESTS = [
    Request(context, continuation)
    for context in CONTEXTS
    for continuation in (" the", " bird", " a slow tree keeps near the red house", "\nüñ")
]


@functools.lru_cache
def forward(loaded, length: int = 256):
    apply = jax.jit(lambda ids: jax.nn.log_softmax(
        loaded.model.apply({"params": loaded.params}, ids)[0]))  # fmt: skip

    def log_probs(ids: Sequence[int]) -> np.ndarray:
        padded = np.zeros((1, length), np.int32)
        padded[0, : len(ids)] = ids
        return np.asarray(apply(padded))[0, : len(ids)]

    return log_probs


def expected(loaded, context: Sequence[int], continuation: Sequence[int]) -> list[float]:
    """Return the log-probability of each token, read with as much context as fits."""
    ids = [*context, *continuation][-loaded.context_length - 1 :]
    scores = forward(loaded)(ids[:-1])
    places = range(len(ids) - 1 - len(continuation), len(ids) - 1)
    return [float(scores[place, ids[place + 1]]) for place in places]


def test_scores_are_those_of_one_forward_pass_each() -> None:
    loaded = load_tiny()
    scores = Scorer(loaded, 3, silent=True).score(REQUESTS)
    assert len({score.num_tokens for score in scores}) > 2
    for request, score in zip(REQUESTS, scores, strict=True):
        context, continuation = encode_pair(loaded.tokenizer, *request, add_bos=True)
        wanted = expected(loaded, context, continuation)
        np.testing.assert_allclose(score.log_probs_N, wanted, atol=1e-5)
        assert score.log_likelihood == pytest.approx(sum(wanted), abs=1e-5)
        assert score.num_tokens == len(continuation)
        length = len(context) + len(continuation)
        assert score.num_cut == max(0, length - loaded.context_length - 1)
    assert any(score.num_cut for score in scores)


def test_greedy_means_that_no_token_is_more_probable() -> None:
    loaded = load_tiny()
    context = [loaded.tokenizer.bos_id]
    greedy: list[int] = []
    for _ in range(3):
        greedy.append(int(forward(loaded)(context + greedy)[-1].argmax()))
    wrong = [*greedy[:2], (greedy[2] + 1) % loaded.tokenizer.vocab_size]
    scores = Scorer(loaded, silent=True).score_tokens([(context, greedy), (context, wrong)])
    assert [score.is_greedy for score in scores] == [True, False]


def test_choices_of_one_token_share_a_forward_pass() -> None:
    windows = [((1, 7, 9, last), 1) for last in (4, 5, 6)] + [((1, 7, 8, 4), 2)]
    rows, found_at = token_scores._share_rows([token_scores.Window(*each) for each in windows])
    assert [row.inputs for row in rows] == [(1, 7, 9), (1, 7, 8)]
    assert rows[0].targets == [4, 5, 6]
    assert rows[1].places == [1, 2]
    assert found_at == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_few_shapes_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = token_scores.TokenScorer(load_tiny(context_length=1024), 8, silent=True)
    rows = [token_scores._Row(tuple(range(length))) for length in range(1000, 0, -1)]
    batches = list(scorer._batches(rows, range(len(rows))))
    assert len({(batch.num_rows, batch.length) for batch in batches}) <= 14
    used = sum(len(row.inputs) for row in rows)
    assert sum(batch.num_rows * batch.length for batch in batches) < 1.4 * used
    assert [index for batch in batches for index in batch.indices] == list(range(1000))


@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2, "fsdp": 2, "context": 2},
        pytest.param({"data": 2, "context": 2, "tensor": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_mesh_changes_nothing(mesh: dict) -> None:
    alone = Scorer(load_tiny(), silent=True).score(REQUESTS)
    loaded = load_tiny(make_mesh(MeshConfig(**mesh)))
    with on_mesh(loaded.mesh, ShardingRules()):
        together = Scorer(loaded, 3, silent=True).score(REQUESTS)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.log_probs_N, other.log_probs_N, atol=1e-5)
        assert one.is_greedy == other.is_greedy


def test_documents_are_scored_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_tiny()
    texts = ["", *make_texts(3, seed=9), " ".join(make_texts(3, seed=3))]
    whole = Scorer(loaded, silent=True).score_documents(texts)
    # Logits of few places at a time are the same logits.
    monkeypatch.setattr(token_scores, "_PLACES_AT_ONCE", 32)
    chunked = Scorer(loaded, silent=True).score_documents(texts)
    for text, score, again in zip(texts, whole, chunked, strict=True):
        ids, wanted = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode(text)], []
        for start in range(1, len(ids), loaded.context_length):
            stop = min(start + loaded.context_length, len(ids))
            wanted += expected(loaded, ids[:start], ids[start:stop])
        np.testing.assert_allclose(score.log_probs_N, wanted, atol=1e-5)
        np.testing.assert_allclose(again.log_probs_N, wanted, atol=1e-5)
        assert score.num_tokens == len(ids) - 1
    assert whole[0].log_likelihood == 0


@pytest.mark.slow
def test_padding_takes_no_place_of_an_expert() -> None:
    experts = MixtureOfExperts(num_experts=4, dispatch=Dropless(block_size=4))
    loaded = load_tiny(config=replace(PLAIN, num_layers=1, feed_forward=experts))
    scores = Scorer(loaded, silent=True).score(REQUESTS[:6])
    alone = [Scorer(loaded, 1, silent=True).score([request])[0] for request in REQUESTS[:6]]
    for one, other in zip(scores, alone, strict=True):
        np.testing.assert_allclose(one.log_probs_N, other.log_probs_N, atol=1e-5)


def test_what_cannot_be_scored_is_refused() -> None:
    loaded = load_tiny()
    params = jax.tree.map(lambda leaf: leaf * np.nan, loaded.params)
    broken = dataclasses.replace(loaded, params=params)
    with pytest.raises(DivergedError, match="not finite"):
        Scorer(broken, silent=True).score(REQUESTS[:1])
    with pytest.raises(ConfigError, match="learned positions"):
        load_tiny(config=replace(PLAIN, position=Learned(max_length=16)))
    classifier = load_tiny(config=replace(PLAIN, head=ClassificationHead(num_classes=2)))
    with pytest.raises(MismatchError, match="ClassificationHead"):
        Scorer(classifier, silent=True)
