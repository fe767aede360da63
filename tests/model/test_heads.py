"""Heads: logits, padding columns, soft cap, and which token a classification reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.errors import ConfigError
from jaxgpt.model.heads import PADDING_LOGIT, ClassificationHead, LanguageModelHead
from tests.model import tiny_model
from tests.model.tiny_model import PLAIN, VOCAB_SIZE


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_hidden_states_times_the_kernel(tied):
    config = replace(PLAIN, head=LanguageModelHead(tied=tied, soft_cap=4.0))
    model, params = tiny_model.init(config)
    tokens = tiny_model.random_tokens((2, 5))
    logits, _ = model.apply({"params": params}, tokens)
    hidden, weights = model.apply({"params": params}, tokens, method="hidden_states_and_head")
    kernel = weights.T if tied else weights
    assert kernel.shape == (32, 64)
    expected = 4 * np.tanh(np.asarray(hidden @ kernel) / 4)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits[..., :VOCAB_SIZE], expected[..., :VOCAB_SIZE], atol=1e-5)
    assert ("head" in params) != tied


def test_columns_that_pad_the_vocabulary_have_no_probability_and_no_gradient():
    model, params = tiny_model.init(replace(PLAIN, head=LanguageModelHead(tied=False)))
    tokens = tiny_model.random_tokens((2, 5))

    def loss(params):
        logits, _ = model.apply({"params": params}, tokens)
        return -jnp.mean(jax.nn.log_softmax(logits)[..., 3]), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert logits.shape == (2, 5, 64)
    assert (logits[..., VOCAB_SIZE:] == PADDING_LOGIT).all()
    assert (jax.nn.softmax(logits)[..., VOCAB_SIZE:] == 0).all()
    assert not gradient["head"]["kernel"][:, VOCAB_SIZE:].any()
    assert gradient["head"]["kernel"][:, :VOCAB_SIZE].all()


def test_a_vocabulary_that_needs_no_padding_has_none():
    config = replace(PLAIN, vocab_multiple=10)
    _, params = tiny_model.init(config)
    assert params["embedding"]["table"].shape == (VOCAB_SIZE, 32)


def test_classification_reads_the_last_valid_token_of_each_row():
    config = replace(PLAIN, head=ClassificationHead(num_classes=3))
    model, params = tiny_model.init(config)
    tokens = tiny_model.random_tokens((3, 6))
    lengths = [6, 2, 4]
    segment_ids = jnp.asarray(np.arange(6) < np.array(lengths)[:, None], jnp.int32)
    logits, _ = jax.jit(model.apply)({"params": params}, tokens, segment_ids)
    assert (logits.shape, logits.dtype) == ((3, 3), jnp.float32)
    hidden, _ = jax.jit(model.apply, static_argnames="method")(
        {"params": params}, tokens, method="hidden_states"
    )
    kernel = params["head"]["kernel"]
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(logits[row], hidden[row, length - 1] @ kernel, atol=1e-5)


def test_an_untied_head_may_start_at_zero():
    config = replace(PLAIN, head=LanguageModelHead(tied=False, zero_init=True))
    model = config.build(VOCAB_SIZE)
    tokens = tiny_model.random_tokens((1, 4))
    variables = model.init(jax.random.key(0), tokens)
    logits, _ = model.apply(variables, tokens)
    np.testing.assert_array_equal(logits[..., :VOCAB_SIZE], 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LanguageModelHead(soft_cap=0.0), r"soft_cap must be positive or None, not 0\.0"),
        (lambda: LanguageModelHead(zero_init=True), "zero_init needs tied = False"),
        (lambda: ClassificationHead(num_classes=0), "num_classes must be at least 1, not 0"),
    ],
)
def test_impossible_heads_are_refused_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
