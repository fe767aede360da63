"""The model as a whole: first loss, padding, packed rows, dtypes, names of axes, refusals."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import configclass, from_json, replace, to_json
from jaxgpt.errors import ConfigError
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.attention.kernel import AttentionKernel
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import ClassificationHead, LanguageModelHead
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.norms import RmsNorm
from jaxgpt.model.layers.projection import Initialization
from tests.model import tiny_model
from tests.model.tiny_model import FAMILIES, PLAIN, VARIANTS, VOCAB_SIZE

# A loop over layers compiles in half the time; test_layer_stack.py says that it is the same model.
LOOPED = {name: replace(config, layers=Scanned()) for name, config in FAMILIES.items()}


def first_loss_over_uniform(config, vocab_size):
    """The first loss on random tokens as a multiple of ln(vocab_size)."""
    model = replace(config, layers=Scanned()).build(vocab_size)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, vocab_size, (4, 32)))

    @jax.jit
    def first_loss(key):
        logits, _ = model.apply(model.init(key, tokens), tokens[:, :-1])
        targets = tokens[:, 1:, None]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), targets, axis=-1))

    # This generator compiles several times faster than the default one.
    return float(first_loss(jax.random.key(0, impl="rbg"))) / np.log(vocab_size)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_first_loss_is_that_of_a_uniform_guess(config):
    assert first_loss_over_uniform(replace(config, d_model=128), 1000) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("width", "vocab_size", "tied", "zero_output"),
    [(384, 65, True, False), (384, 65, False, True), (640, 2000, True, True),
     (640, 2000, False, False)],
)  # fmt: skip
def test_first_loss_is_uniform_at_any_width_and_vocabulary(width, vocab_size, tied, zero_output):
    initialization, head = Initialization(zero_output=zero_output), LanguageModelHead(tied=tied)
    config = replace(PLAIN, d_model=width, head=head, initialization=initialization)
    assert first_loss_over_uniform(config, vocab_size) == pytest.approx(1, abs=0.02)


def test_first_classification_loss_is_that_of_a_uniform_guess():
    model = replace(PLAIN, d_model=64, head=ClassificationHead(num_classes=10)).build(50)
    tokens = tiny_model.random_tokens((64, 8))
    key = jax.random.key(0, impl="rbg")
    logits, _ = jax.jit(lambda key: model.apply(model.init(key, tokens), tokens))(key)
    normaliser = float(jnp.mean(jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)))
    assert normaliser == pytest.approx(np.log(10), rel=0.02)


def test_layers_start_different_and_may_start_as_nothing():
    key = jax.random.key(0, impl="rbg")
    variables = nn.meta.unbox(PLAIN.build(50).init(key, jnp.zeros((1, 1), int)))
    kernel = variables["params"]["blocks"]["attention"]["query"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1])
    config = replace(PLAIN, initialization=Initialization(zero_output=True))
    model = config.build(50)
    tokens = tiny_model.random_tokens((1, 5))
    variables = nn.meta.unbox(model.init(key, tokens))
    blocks = variables["params"]["blocks"]
    assert not blocks["attention"]["output"]["kernel"].any()
    assert not blocks["feed_forward"]["down"]["kernel"].any()
    hidden, _ = model.apply(variables, tokens, method="hidden_states")
    embedded = variables["params"]["embedding"]["table"][tokens]
    expected = embedded / jnp.sqrt(jnp.mean(embedded**2, axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(hidden, expected, rtol=1e-5)


@configclass
class NeverReached(AttentionKernel):
    """A kernel that raises wherever it is asked."""

    def attend(self, inputs):
        raise AssertionError("attention was traced")


def test_initialisation_traces_no_attention():
    # Layers are made under vmap, where JAX's cuDNN attention raises.
    attention = replace(PLAIN.attention, kernel=NeverReached())
    model, tokens = replace(PLAIN, attention=attention).build(50), jnp.zeros((1, 4), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    expected = jax.eval_shape(PLAIN.build(50).init, jax.random.key(0), tokens)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)
    with pytest.raises(AssertionError, match="attention was traced"):
        jax.eval_shape(model.apply, variables, tokens)


@pytest.mark.parametrize("config", LOOPED.values(), ids=LOOPED)
def test_a_packed_row_equals_its_documents_alone(config):
    # Weights of 0.3 magnify rounding, which differs between processors, beyond the bound.
    model, params = tiny_model.init(config, scale=0.1)
    apply = jax.jit(functools.partial(model.apply, {"params": params}))
    lengths = [4, 1, 6]
    tokens = tiny_model.random_tokens((1, 13))
    segment_ids = jnp.asarray([[1] * 4 + [2] + [3] * 6 + [0] * 2])
    positions = jnp.asarray([[*range(4), 0, *range(6), 0, 0]])
    packed, _ = apply(tokens, segment_ids, positions)
    start = 0
    rows = np.zeros((3, 6), np.int32)
    for row, length in enumerate(lengths):
        rows[row, :length] = tokens[0, start : start + length]
        start += length
    alone, _ = apply(jnp.asarray(rows))
    start = 0
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            packed[0, start : start + length], alone[row, :length], atol=1e-5, rtol=1e-5
        )
        start += length
    assert np.isfinite(packed[..., :VOCAB_SIZE]).all()


@pytest.mark.optimized
@pytest.mark.parametrize("config", LOOPED.values(), ids=LOOPED)
def test_what_stands_in_padding_changes_no_bit(config):
    model, params = tiny_model.init(config)
    segment_ids = jnp.asarray([[1, 1, 1, 0, 0], [1, 2, 2, 2, 0]])
    tokens = tiny_model.random_tokens((2, 5))
    other = jnp.where(segment_ids == 0, (tokens + 7) % VOCAB_SIZE, tokens)

    @jax.jit
    @jax.value_and_grad
    def loss(params, tokens):
        logits, _ = model.apply({"params": params}, tokens, segment_ids)
        valid = segment_ids[..., None] != 0
        return jnp.sum(jnp.where(valid, logits[..., :VOCAB_SIZE], 0.0) ** 2)

    (first, gradient), (second, other_gradient) = loss(params, tokens), loss(params, other)
    assert first == second
    jax.tree.map(np.testing.assert_array_equal, gradient, other_gradient)


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_bfloat16_costs_no_more_than_rounding_the_weights_twice(name):
    config = LOOPED[name]
    _, params = tiny_model.init(config, scale=0.1)
    tokens = tiny_model.random_tokens((2, 8))

    def gradient_of(config, params):
        def loss(params):
            logits, _ = config.build(VOCAB_SIZE).apply({"params": params}, tokens)
            assert logits.dtype == jnp.float32
            return -jnp.mean(jax.nn.log_softmax(logits)[..., 5])

        gradient = jax.jit(jax.grad(loss))(params)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
        return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])

    exact = gradient_of(config, params)
    rounded = jax.tree.map(lambda leaf: leaf.astype("bfloat16").astype("float32"), params)
    rounding = np.linalg.norm(gradient_of(config, rounded) - exact)
    found = gradient_of(replace(config, compute_dtype="bfloat16"), params)
    assert np.linalg.norm(found - exact) < 2 * rounding < 0.1 * np.linalg.norm(exact)


def test_parameters_take_their_dtype():
    config = replace(PLAIN, param_dtype="bfloat16")
    shapes = jax.eval_shape(config.build(9).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_every_axis_of_every_parameter_has_a_name(config):
    shapes = jax.eval_shape(config.build(50).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    specs = nn.get_partition_spec(shapes)
    known = {
        "layers",
        "vocab",
        "embed",
        "heads",
        "kv_heads",
        "head_dim",
        "mlp",
        "expert",
        "router",
        "norm",
        "positions",
    }
    leaves = jax.tree.leaves_with_path(nn.meta.unbox(shapes))
    names = jax.tree.leaves(
        specs, is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec)
    )
    assert len(names) == len(leaves)
    for (path, leaf), axes in zip(leaves, names, strict=True):
        assert len(axes) == leaf.ndim
        assert set(axes) <= known
        assert (axes[0] == "layers") == (path[1].key == "blocks")


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_json_round_trip(config):
    assert from_json(to_json(config), GptConfig) == config


def test_scaled_embeddings_are_multiplied_by_the_root_of_the_width():
    # With a large eps the norm does not undo the scale.
    config = replace(PLAIN, norm=RmsNorm(eps=1.0), scale_embedding=True)
    model, params = tiny_model.init(config)
    params["blocks"] = jax.tree.map(jnp.zeros_like, params["blocks"])
    params["final_norm"]["scale"] = jnp.ones(32)
    scaled, _ = model.apply({"params": params}, jnp.asarray([[3]]), method="hidden_states")
    x = np.asarray(params["embedding"]["table"][3] * 32**0.5)
    np.testing.assert_allclose(scaled[0, 0], x / np.sqrt((x**2).mean() + 1.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(PLAIN, num_layers=0), "num_layers must be at least 1, not 0"),
        (lambda: replace(PLAIN, d_model=-4), "d_model must be at least 1, not -4"),
        (lambda: replace(PLAIN, vocab_multiple=0), "vocab_multiple must be at least 1, not 0"),
        (
            lambda: replace(PLAIN, attention=GroupedQueryAttention(num_heads=5)),
            "d_model must be a multiple of attention.num_heads, not 32 and 5",
        ),
        (lambda: replace(PLAIN, compute_dtype="float17"), "compute_dtype = 'float17'"),
        (lambda: replace(PLAIN, head=LanguageModelHead), "GptConfig.head"),
    ],
)
def test_impossible_models_are_refused_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
