"""Whole answers in one program: those of the decoder, with their log-probabilities."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.sampling import SamplingConfig, row_keys
from jaxgpt.inference.whole_answers import DRAWN, GREEDY, Answers, answer_prompts
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.positions import Learned
from jaxgpt.model.layers.projection import Initialization
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.training.state import init_parameters

VOCAB, MOST, PLACES = 13, 8, 16
ENDS = (3, 5, 6, 9)
PROMPTS = [[1, 9, 4], [1], [1, *range(2, 10)], [1, 7, 7, 2]]
# No position beyond the row: an answer needs none.
MODEL = GptConfig(
    num_layers=1,
    d_model=16,
    attention=GroupedQueryAttention(num_heads=2, num_kv_heads=1),
    position=Learned(max_length=PLACES),
    initialization=Initialization(std=0.3),
).build(VOCAB)
SEED = 4


@pytest.fixture(scope="module")
def params() -> Any:
    return init_parameters(MODEL, ShardingRules(), make_mesh(MeshConfig()), seed=0)


def _answer(params: Any, sampling: SamplingConfig, rows: list[int]) -> Answers:
    tokens_BT = np.zeros((len(rows), PLACES), np.int32)
    for place, row in enumerate(rows):
        tokens_BT[place, : len(PROMPTS[row])] = PROMPTS[row]
    lengths_B = np.array([len(PROMPTS[row]) for row in rows], np.int32)
    keys_B = row_keys(SEED, jnp.asarray(rows, jnp.uint32))
    is_end_V = jnp.isin(jnp.arange(VOCAB), jnp.array(ENDS))
    call = jax.jit(answer_prompts, static_argnums=(0, 5, 7))
    found = call(MODEL, params, tokens_BT, lengths_B, is_end_V, MOST, keys_B, sampling)
    return jax.device_get(found)


@pytest.mark.parametrize("sampling", [DRAWN, GREEDY])
def test_answers_are_those_of_the_decoder(params: Any, sampling: SamplingConfig) -> None:
    answers = _answer(params, sampling, [0, 1, 2, 3])
    decoder = Decoder(
        model=MODEL, params=params, stop_ids=ENDS, forbidden_ids=(), context_length=PLACES
    )
    drawn: list[list[int]] = [[] for _ in PROMPTS]
    ended = [False] * len(PROMPTS)
    for news in decoder.generate(PROMPTS, MOST, sampling, SEED):
        for new in news:
            drawn[new.row] += new.ids
            ended[new.row] = new.finish == "stop"
    assert any(ended)
    assert answers.ended_B.tolist() == ended
    for row, length in enumerate(answers.lengths_B):
        ids = answers.ids_BN[row, :length].tolist()
        assert ids[: len(drawn[row])] == drawn[row]
        assert len(ids) == len(drawn[row]) + ended[row]
        assert not ended[row] or ids[-1] in ENDS
        assert not answers.ids_BN[row, length:].any()


def test_log_probabilities_are_those_of_a_forward_pass(params: Any) -> None:
    answers = _answer(params, DRAWN, [0, 1, 2, 3])
    whole_BT = np.zeros((len(PROMPTS), PLACES), np.int32)
    written = [ids[:length] for ids, length in zip(answers.ids_BN, answers.lengths_B, strict=True)]
    for row_T, prompt, ids in zip(whole_BT, PROMPTS, written, strict=True):
        row_T[: len(prompt) + len(ids) - 1] = [*prompt, *ids[:-1]]
    logits_BTV = jax.jit(MODEL.apply)({"params": params}, whole_BT)[0][..., :VOCAB]
    expected_BTV = np.asarray(jax.nn.log_softmax(logits_BTV))
    for row, (prompt, ids) in enumerate(zip(PROMPTS, written, strict=True)):
        places = np.arange(len(prompt) - 1, len(prompt) - 1 + len(ids))
        found = answers.log_probabilities_BN[row]
        np.testing.assert_allclose(found[: len(ids)], expected_BTV[row, places, ids], atol=1e-5)
        assert not found[len(ids) :].any()


def test_an_answer_depends_on_its_number_and_not_on_other_rows(params: Any) -> None:
    together, alone = _answer(params, DRAWN, [0, 1, 2, 3]), _answer(params, DRAWN, [2, 3])
    np.testing.assert_array_equal(together.ids_BN[2:], alone.ids_BN)


def test_scores_that_are_not_finite_are_told(params: Any) -> None:
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params)
    assert (_answer(broken, DRAWN, [0, 1]).ids_BN[:, 0] == -1).all()
