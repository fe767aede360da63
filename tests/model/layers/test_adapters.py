"""A fresh adapter changes nothing, a merged one equals itself; gradients by the chain rule."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta

from jaxgpt.config import load_config, replace
from jaxgpt.data.packing import make_rows
from jaxgpt.errors import ConfigError
from jaxgpt.model.adapted import check_targets, join, merge, split
from jaxgpt.model.cost import abstract_params
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layer_stack import Scanned, Unrolled
from jaxgpt.model.layers.adapters import NO_ADAPTER, Adapter, Dora, Lora, LowRank
from jaxgpt.model.layers.projection import Projection
from jaxgpt.runs.config import TrainConfig
from jaxgpt.training.chunked_loss import TokenChunks
from jaxgpt.training.loss import LossConfig, language_model_loss
from tests.model.tiny_model import FAMILIES, PLAIN, VARIANTS, VOCAB_SIZE, init, random_tokens
from tests.tiny import REPOSITORY

TOKENS_BT = random_tokens((2, 9))
ADAPTERS = {
    "lora": Lora(rank=3, alpha=5.0),
    "rslora": Lora(rank=4, alpha=3.0, rank_stabilized=True),
    "dora": Dora(rank=3, alpha=5.0),
    "tokens": Lora(rank=2, alpha=4.0, token_ids=(5, 2)),
    "some": Dora(rank=2, alpha=4.0, targets=("value", "down")),
}
# Tied and untied heads, GPT-2's biases, fewer key/value heads, layers unrolled and as a loop.
CASES = [
    ("lora", replace(PLAIN, layers=Unrolled())),
    ("rslora", replace(FAMILIES["llama3"], layers=Scanned())),
    ("dora", replace(FAMILIES["gpt2"], layers=Scanned())),
    ("some", replace(FAMILIES["llama3"], layers=Scanned())),
    # Learned positions have a table, too, whose rows are no tokens.
    ("tokens", replace(FAMILIES["gpt2"], layers=Scanned(), head=LanguageModelHead(tied=True))),
    ("tokens", replace(PLAIN, layers=Scanned(), head=LanguageModelHead(tied=False))),
]


def _draw(config, adapter: Adapter, scale: float = 0.2):
    """Return the base's model and parameters, the adapted model and those of its own."""
    model, base = init(config)
    adapted = config.build(VOCAB_SIZE, adapter)
    shapes = jax.eval_shape(adapted.init, jax.random.key(0), TOKENS_BT)["params"]
    own, rest = split(meta.unbox(shapes), adapter.is_trainable)
    assert jax.tree.map(jnp.shape, rest) == jax.tree.map(jnp.shape, base)
    rng = np.random.default_rng(1)
    own = jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype), own
    )
    return model, base, adapted, own


def _logits(model, params):
    run = jax.jit(lambda params: model.apply({"params": params}, TOKENS_BT)[0])
    return np.asarray(run(params))[..., :VOCAB_SIZE]


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["lora", "dora", "tokens"])
def test_a_fresh_adapter_is_the_base_bit_for_bit(name: str, dtype: str) -> None:
    config = replace(FAMILIES["llama3"], compute_dtype=dtype)
    model, base, adapted, _ = _draw(config, ADAPTERS[name])
    fresh = adapted.init(jax.random.key(3), TOKENS_BT)["params"]
    own, _ = split(meta.unbox(fresh), adapted.adapter.is_trainable)
    assert np.any(own["blocks"]["attention"]["query"]["lora_a"])
    ours = _logits(adapted, join(own, base))
    np.testing.assert_array_equal(ours, _logits(model, base))


@pytest.mark.parametrize(("name", "config"), CASES)
def test_the_merged_model_is_the_adapted_one(name: str, config) -> None:
    model, base, adapted, own = _draw(config, ADAPTERS[name])
    whole = join(own, base)
    ours = _logits(adapted, whole)
    merged = merge(adapted, whole)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, base)
    theirs = _logits(model, merged)
    assert np.abs(ours - _logits(model, base)).max() > 0.1 * np.abs(ours).max()
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_tokens_learn_as_those_of_a_trained_table(tied: bool) -> None:
    adapter = ADAPTERS["tokens"]
    config = replace(PLAIN, layers=Scanned(), head=LanguageModelHead(tied=tied))
    model, base, adapted, own = _draw(config, adapter)
    batch = make_rows(np.asarray(random_tokens((2, 10))), np.zeros((2, 10), bool))
    sizes_V = jnp.ones(VOCAB_SIZE, jnp.int32)

    def loss(model, params):
        # In several chunks, each of which adds to the gradient of the head.
        settings = LossConfig(logits=TokenChunks(num_tokens=5))
        return language_model_loss(model, sizes_V, settings)(params, batch, None).objective

    ours = jax.jit(jax.grad(lambda own: loss(adapted, join(own, base))))(own)
    dense = jax.jit(jax.grad(functools.partial(loss, model)))(merge(adapted, join(own, base)))
    assert [name for name in ("embedding", "head") if name in ours] == (
        ["embedding"] if tied else ["embedding", "head"]
    )
    rows = np.array(adapter.token_ids)
    expected = {"token_changes": dense["embedding"]["table"][rows]}
    _assert_close(ours["embedding"], expected, 2e-5)
    if not tied:
        expected = {"token_changes": dense["head"]["kernel"][:, rows].T}
        _assert_close(ours["head"], expected, 2e-5)


def test_ids_that_the_tokenizer_does_not_have_are_refused() -> None:
    adapted = PLAIN.build(VOCAB_SIZE, Lora(token_ids=(VOCAB_SIZE,)))
    with pytest.raises(ConfigError, match=f"ids end at {VOCAB_SIZE - 1}"):
        check_targets(adapted, init(PLAIN)[1])
    with pytest.raises(ConfigError, match="different ids"):
        Lora(token_ids=(3, 3))


def _chain_rule(adapter: LowRank, kernel, own, gradient):
    """Gradients of one layer's adapter from that of its merged kernel, in float64."""
    w, a, b, g = (
        np.asarray(each, np.float64) for each in (kernel, own["lora_a"], own["lora_b"], gradient)
    )
    inputs, scale = tuple(range(a.ndim - 1)), adapter.scale
    expected = {}
    if isinstance(adapter, Dora):
        direction = w + scale * np.tensordot(a, b, 1)
        length = np.sqrt(np.sum(direction**2, inputs))
        expected["magnitude_change"] = np.sum(g * direction / length, inputs)
        m = np.sqrt(np.sum(w**2, inputs)) + np.asarray(own["magnitude_change"], np.float64)
        g = g * m / length  # The length is a constant to the gradient (section 4.3).
    outputs = g.ndim - len(inputs)
    expected["lora_b"] = scale * np.tensordot(a, g, (inputs, inputs))
    last = tuple(range(1, 1 + outputs)), tuple(range(len(inputs), g.ndim))
    expected["lora_a"] = scale * np.moveaxis(np.tensordot(b, g, last), 0, -1)
    return expected


def test_gradients_follow_from_those_of_the_merged_kernels() -> None:
    adapter = ADAPTERS["dora"]
    model, base, adapted, own = _draw(replace(FAMILIES["llama3"], layers=Scanned()), adapter)

    def loss(model, params):
        logits = model.apply({"params": params}, TOKENS_BT)[0]
        return -jax.nn.log_softmax(logits)[..., 7].mean()

    ours = jax.jit(jax.grad(lambda own: loss(adapted, join(own, base))))(own)
    dense = jax.jit(jax.grad(functools.partial(loss, model)))(merge(adapted, join(own, base)))
    for part in ("attention", "feed_forward"):
        for place, gradients in ours["blocks"][part].items():
            kernels, of_kernels = (tree["blocks"][part][place]["kernel"] for tree in (base, dense))
            for layer in range(2):
                of_layer = {key: leaf[layer] for key, leaf in own["blocks"][part][place].items()}
                expected = _chain_rule(adapter, kernels[layer], of_layer, of_kernels[layer])
                gradient = {key: leaf[layer] for key, leaf in gradients.items()}
                _assert_close(gradient, expected, 2e-5)


@pytest.mark.parametrize("dropout", [0.0, 1e-12], ids=["merged", "apart"])
@pytest.mark.parametrize("name", ["lora", "rslora", "dora"])
def test_one_projection_computes_and_learns_as_in_float64(name: str, dropout: float) -> None:
    # With dropout, however rare, the adapter has products of its own.
    adapter, rng = replace(ADAPTERS[name], dropout=dropout), np.random.default_rng(2)
    layer = Projection(
        inputs=(2, 3),
        outputs=(5,),
        axes=("heads", "head_dim", "embed"),
        settings=dataclasses.replace(PLAIN.settings, adapter=adapter),
        kernel_init=PLAIN.settings.kernel_init,
        use_bias=True,
        name="output",
    )
    x, dy = rng.standard_normal((4, 7, 2, 3)), rng.standard_normal((4, 7, 5))
    params = meta.unbox(layer.init(jax.random.key(0), jnp.zeros((1, 1, 2, 3)))["params"])
    params = {key: rng.standard_normal(leaf.shape) for key, leaf in params.items()}
    narrow = jax.tree.map(jnp.float32, (params, x, dy))

    def objective(params, x, dy):
        y = layer.apply({"params": params}, x, rngs={"dropout": jax.random.key(0)})
        return jnp.sum(y * dy), y

    (_, y), (gradients, dx) = jax.value_and_grad(objective, (0, 1), has_aux=True)(*narrow)
    own = {key: params[key] for key in params.keys() - {"kernel", "bias"}}
    merged = _merge_in_float64(adapter, params["kernel"], own)
    _assert_close({"y": y}, {"y": np.einsum("btnh,nho->bto", x, merged) + params["bias"]}, 1e-6)
    _assert_close({"dx": dx}, {"dx": np.einsum("bto,nho->btnh", dy, merged)}, 2e-6)
    of_merged = np.einsum("btnh,bto->nho", x, dy)
    expected = _chain_rule(adapter, params["kernel"], own, of_merged)
    _assert_close({key: gradients[key] for key in own}, expected, 2e-6)
    optimizer = optax.adamw(0.1, b1=0.9, b2=0.95, weight_decay=0.0)
    trained = {key: narrow[0][key] for key in own}
    updates, _ = optimizer.update(
        {key: gradients[key] for key in own}, optimizer.init(trained), trained
    )
    # The first step of Adam, whose moments are the gradient and its square.
    first = {key: -0.1 * g / (np.abs(g) + 1e-8) for key, g in expected.items()}
    _assert_close(updates, first, 1e-5)


def _merge_in_float64(adapter: LowRank, kernel, own):
    merged = kernel + adapter.scale * np.tensordot(own["lora_a"], own["lora_b"], 1)
    if isinstance(adapter, Dora):
        lengths = [np.sqrt(np.sum(w**2, (0, 1))) for w in (kernel, merged)]
        merged = merged * (lengths[0] + own["magnitude_change"]) / lengths[1]
    return merged


def _assert_close(ours, expected, limit: float) -> None:
    """Norm of the difference over the norm, of each array."""
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert np.linalg.norm(ours[key] - value) <= limit * np.linalg.norm(value), key


def test_dropout_drops_the_inputs_of_adapters_in_training_alone() -> None:
    config = replace(PLAIN, layers=Scanned())
    _, base, adapted, own = _draw(config, Lora(rank=3, alpha=5.0, dropout=0.5))
    without = config.build(VOCAB_SIZE, Lora(rank=3, alpha=5.0))

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def run(model, own, key, deterministic):
        params = {"params": join(own, base)}
        rngs = {"dropout": key}
        return model.apply(params, TOKENS_BT, deterministic=deterministic, rngs=rngs)[0]

    key, nothing = jax.random.key(0), jax.tree.map(jnp.zeros_like, own)
    np.testing.assert_array_equal(run(adapted, own, key, True), run(without, own, key, True))
    one, two = (run(adapted, own, jax.random.key(seed), False) for seed in (0, 1))
    np.testing.assert_array_equal(run(adapted, own, key, False), one)
    assert not np.allclose(one, two)
    base_alone = run(adapted, nothing, key, True)
    np.testing.assert_allclose(run(adapted, nothing, key, False), base_alone, rtol=1e-6)


def test_a_fresh_adapter_begins_as_in_peft() -> None:
    _, _, adapted, _ = _draw(PLAIN, Dora(rank=8))
    own, _ = split(
        meta.unbox(jax.jit(adapted.init)(jax.random.key(0), TOKENS_BT)["params"]),
        adapted.adapter.is_trainable,
    )
    for place, num_inputs in (("query", 32), ("output", 32)):
        leaves = own["blocks"]["attention"][place]
        bound = 1 / math.sqrt(num_inputs)
        assert 0.9 * bound < float(jnp.abs(leaves["lora_a"]).max()) <= bound
        assert abs(float(leaves["lora_a"].std()) - bound / math.sqrt(3)) < 0.05 * bound
        assert not np.any(leaves["lora_b"])
        assert not np.any(leaves["magnitude_change"])
    assert own["blocks"]["attention"]["output"]["lora_a"].shape == (2, 4, 8, 8)
    assert own["blocks"]["attention"]["query"]["lora_b"].shape == (2, 8, 4, 8)


def test_an_output_without_weights_stays_zero() -> None:
    adapter = Dora(rank=2)
    own = {"lora_a": jnp.ones((4, 2)), "lora_b": jnp.zeros((2, 3)), "magnitude_change": jnp.ones(3)}
    kernel = jnp.zeros((4, 3)).at[:, 0].set(2.0)
    merged = np.asarray(adapter.merge(kernel, own))
    np.testing.assert_allclose(merged[:, 0], 2.0 * 5 / 4)  # Length 4, and 1 more.
    np.testing.assert_array_equal(merged[:, 1:], 0)


def test_less_than_two_percent_of_the_base_config_are_trained_at_rank_8() -> None:
    config = load_config(REPOSITORY / "configs" / "base.py", TrainConfig).model
    adapted = replace(config, layers=Scanned()).build(32_000, Lora(rank=8))
    shapes = meta.unbox(jax.eval_shape(adapted.init, jax.random.key(0), TOKENS_BT)["params"])
    own, rest = split(shapes, adapted.adapter.is_trainable)
    assert jax.tree.structure(rest) == jax.tree.structure(abstract_params(config, 32_000))
    count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))  # noqa: E731
    # Four square projections, and two between 768 and 3,072.
    assert count(own) == 8 * 12 * (4 * (768 + 768) + 2 * (768 + 3072))
    assert count(own) < 0.02 * count(shapes)


def _check(config, adapter: Adapter) -> None:
    check_targets(config.build(VOCAB_SIZE, adapter), abstract_params(config, VOCAB_SIZE))


def test_targets_that_a_model_does_not_have_are_refused_by_name() -> None:
    _check(PLAIN, NO_ADAPTER)
    _check(PLAIN, Lora())
    _check(PLAIN, Lora(targets=("query", "gate")))
    with pytest.raises(ConfigError, match=r"'qery'.*'gate', 'key'.*did you mean 'query'"):
        _check(PLAIN, Lora(targets=("value", "qery")))
    with pytest.raises(ConfigError, match="'gate', which is no projection"):
        _check(FAMILIES["gpt2"], Lora(targets=("gate",)))
    for experts in ("experts, dropless", "experts, capacity"):
        allowed = ("key", "output", "query", "value")
        _check(VARIANTS[experts], Lora(targets=allowed))
        for targets in (None, ("value", "up")):
            with pytest.raises(ConfigError, match=r"experts cannot be adapted.*'key', 'output'"):
                _check(VARIANTS[experts], Lora(targets=targets))


def test_experts_have_no_adapters() -> None:
    config = replace(VARIANTS["experts, capacity"], layers=Scanned())
    _, _, _, own = _draw(config, Lora(rank=2, targets=("query",)))
    assert jax.tree.structure(own) == jax.tree.structure(
        {"blocks": {"attention": {"query": {"lora_a": 0, "lora_b": 0}}}}
    )


@pytest.mark.parametrize(
    "fields",
    [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": ()}],
    ids=lambda fields: next(iter(fields)),
)
def test_settings_out_of_range_are_refused(fields: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Dora(**fields)
