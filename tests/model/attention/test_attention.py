"""Causality and windows by gradient and by perturbation, for every variant of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.config import replace
from jaxgpt.errors import ConfigError
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.layer_stack import Scanned, Unrolled
from jaxgpt.model.layers.norms import RmsNorm
from jaxgpt.model.layers.positions import Learned, NoPosition, Rotary, Sinusoidal
from tests.model import tiny_model
from tests.model.tiny_model import FAMILIES, PLAIN, VARIANTS

T = 9
# A loop over layers compiles in half the time; test_layer_stack.py says that it is the same model.
LOOPED = {name: replace(config, layers=Scanned()) for name, config in VARIANTS.items()}


def influence(config, segment_ids=None):
    """[T, T]: largest |d hidden state t / d embedding of token s|, by gradient.

    Each position holds another id, so the gradient by row s of the table is that by token s.
    """
    model, params = tiny_model.init(config)
    tokens = jnp.arange(T)[None]
    segments = None if segment_ids is None else jnp.asarray([segment_ids])
    rng = np.random.default_rng(1)
    direction = jnp.asarray(rng.standard_normal(config.d_model), jnp.float32)

    @jax.jit
    @jax.jacrev
    def by_table(table):
        changed = params | {"embedding": {"table": table}}
        hidden, _ = model.apply({"params": changed}, tokens, segments, method="hidden_states")
        return hidden[0] @ direction

    gradient_TVD = by_table(params["embedding"]["table"])
    return np.max(np.abs(gradient_TVD[:, :T]), axis=-1)


@pytest.mark.parametrize("config", LOOPED.values(), ids=LOOPED)
def test_no_token_depends_on_a_later_one(config):
    gradient = influence(config)
    assert not gradient[np.triu_indices(T, 1)].any()
    assert gradient[np.diag_indices(T)].all()
    assert np.isfinite(gradient).all()


ATTENTIONS = {
    "multi-head": GroupedQueryAttention(num_heads=4),
    "grouped, window": GroupedQueryAttention(num_heads=4, num_kv_heads=2, windows=(4, None)),
    "multi-query, soft cap": GroupedQueryAttention(
        num_heads=4, num_kv_heads=1, soft_cap=3.0, qkv_bias=True
    ),
}
POSITIONS = (Rotary(), Sinusoidal(), Learned(max_length=T), NoPosition())


def _pairs():
    """Each attention with each position; each of them with both kinds of layers."""
    for i, (name, attention) in enumerate(ATTENTIONS.items()):
        for j, position in enumerate(POSITIONS):
            layers = (Unrolled(), Scanned())[(i + j) % 2]
            names = (type(position).__name__, name, type(layers).__name__)
            yield pytest.param(attention, position, layers, id="-".join(names))


@pytest.mark.optimized
@pytest.mark.parametrize(("attention", "position", "layers"), _pairs())
def test_later_tokens_change_no_bit_of_earlier_outputs(attention, position, layers):
    config = replace(PLAIN, attention=attention, position=position, layers=layers)
    model, params = tiny_model.init(config)
    tokens = tiny_model.random_tokens((1, T))
    # Row 0 is the original; in row s + 1 token s is another.
    rows = jnp.tile(tokens, (T + 1, 1)).at[jnp.arange(1, T + 1), jnp.arange(T)].add(1)
    logits, _ = jax.jit(model.apply)({"params": params}, rows % tiny_model.VOCAB_SIZE)
    for s in range(T):
        np.testing.assert_array_equal(logits[s + 1, :s], logits[0, :s])
        assert (logits[s + 1, s] != logits[0, s]).any()


def test_one_layer_sees_exactly_its_window():
    for window in (1, 3, T):
        attention = GroupedQueryAttention(num_heads=4, windows=(window,))
        gradient = influence(replace(PLAIN, num_layers=1, attention=attention))
        t, s = np.indices((T, T))
        np.testing.assert_array_equal(gradient > 0, (s <= t) & (t - s < window))


def test_windows_of_layers_add_up():
    attention = GroupedQueryAttention(num_heads=4, windows=(3, 2))
    gradient = influence(replace(PLAIN, num_layers=2, attention=attention))
    t, s = np.indices((T, T))
    np.testing.assert_array_equal(gradient > 0, (s <= t) & (t - s < 3 + 2 - 1))


@pytest.mark.parametrize("name", FAMILIES)
def test_segments_do_not_see_each_other(name):
    segment_ids = [1, 1, 1, 2, 2, 5, 5, 0, 0]
    gradient = influence(LOOPED[name], segment_ids)
    for t in range(T):
        for s in range(T):
            if t != s and (segment_ids[t] != segment_ids[s] or segment_ids[t] == 0):
                assert gradient[t, s] == 0, (t, s)
    assert gradient[4, 3] > 0
    assert np.isfinite(gradient).all()


def test_grouped_heads_are_repeated_heads():
    """Grouped-query attention is multi-head attention whose key/value heads are copies."""
    grouped = replace(PLAIN, attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2))
    model, params = tiny_model.init(grouped)
    copied = jax.tree.map(lambda leaf: leaf, params)
    for name in ("key", "value"):
        kernel = params["blocks"]["attention"][name]["kernel"]
        copied["blocks"]["attention"][name] = {"kernel": jnp.repeat(kernel, 2, axis=2)}
    tokens = tiny_model.random_tokens((2, T))
    expected, _ = model.apply({"params": params}, tokens)
    found, _ = PLAIN.build(tiny_model.VOCAB_SIZE).apply({"params": copied}, tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_query_scale_and_soft_cap_act_on_scores():
    """A huge cap is no cap; a vanishing scale makes attention the mean of the values."""
    tokens = tiny_model.random_tokens((1, T))
    model, params = tiny_model.init(PLAIN)
    plain, _ = model.apply({"params": params}, tokens)

    def with_attention(**changes):
        config = replace(PLAIN, attention=replace(PLAIN.attention, **changes))
        return config.build(tiny_model.VOCAB_SIZE).apply({"params": params}, tokens)[0]

    np.testing.assert_allclose(with_attention(soft_cap=1e5), plain, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(with_attention(query_scale=8**-0.5), plain, rtol=1e-5, atol=1e-4)
    assert np.max(np.abs(with_attention(soft_cap=0.5) - plain)) > 0.1
    flat = with_attention(query_scale=1e-9)
    np.testing.assert_allclose(flat, with_attention(soft_cap=1e-7), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["query", "key"])
def test_with_a_norm_the_size_of_heads_does_not_matter(name):
    config = replace(PLAIN, attention=replace(PLAIN.attention, qk_norm=RmsNorm(eps=1e-12)))
    model, params = tiny_model.init(config)
    tokens = tiny_model.random_tokens((1, T))
    apply = jax.jit(model.apply)
    expected, _ = apply({"params": params}, tokens)
    params["blocks"]["attention"][name]["kernel"] *= 3.0
    found, _ = apply({"params": params}, tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    params["blocks"]["attention"][f"{name}_norm"]["scale"] *= 3.0
    changed, _ = apply({"params": params}, tokens)
    assert np.max(np.abs(changed - expected)) > 0.1


def test_parameters_have_the_shapes_and_names_of_the_config():
    attention = GroupedQueryAttention(
        num_heads=6, num_kv_heads=3, head_dim=4, qkv_bias=True, output_bias=True
    )
    config = replace(PLAIN, attention=attention)
    variables = jax.eval_shape(
        config.build(10).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
    )
    params = meta.unbox(variables)["params"]["blocks"]["attention"]
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    assert shapes == {
        "query": {"kernel": (2, 32, 6, 4), "bias": (2, 6, 4)},
        "key": {"kernel": (2, 32, 3, 4), "bias": (2, 3, 4)},
        "value": {"kernel": (2, 32, 3, 4), "bias": (2, 3, 4)},
        "output": {"kernel": (2, 6, 4, 32), "bias": (2, 32)},
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 0}, "num_heads must be at least 1, not 0"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads must be a multiple of num_kv_heads"),
        ({"num_heads": 4, "num_kv_heads": -2}, "num_kv_heads must be at least 1, not -2"),
        ({"head_dim": 0}, "head_dim must be at least 1, not 0"),
        ({"windows": ()}, "windows must name at least one layer"),
        ({"windows": (None, 0)}, "windows must be at least 1, not 0"),
        ({"soft_cap": 0.0}, "soft_cap must be positive or None, not 0.0"),
        ({"query_scale": -1.0}, "query_scale must be positive or None, not -1.0"),
    ],
)
def test_impossible_attention_is_refused_in_one_line(fields, message):
    with pytest.raises(ConfigError, match=message):
        GroupedQueryAttention(**fields)
