"""The published families are what they claim: logits equal those of transformers' own classes."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from jaxgpt.model.gpt import make_cache
from jaxgpt.model.moe.router import Choice, count_load, load_balance_loss
from tests.parity import mapping
from tests.parity.families import FAMILIES, VOCAB_SIZE, Family, published_logits, random_tokens

_REASON = "the published models need: pip install -e '.[parity]'"
torch = pytest.importorskip("torch", reason=_REASON)
pytest.importorskip("transformers", reason=_REASON)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_logits_equal_those_of_transformers(family: Family) -> None:
    published = family.build_published()
    tokens_BT = random_tokens(2, 24)
    expected = published_logits(published, tokens_BT)
    found = family.logits(family.map_weights(published), tokens_BT)
    difference = np.abs(found - expected).max()
    print(f"max |difference| {difference:.1e}, logits of std {expected.std():.2f}")
    # Flat logits would agree whatever the layers do.
    assert expected.std() > 0.5
    assert difference < 1e-4


def test_the_load_balance_loss_is_that_of_transformers() -> None:
    """Theirs counts the K choices of a token as K, ours as shares of 1."""
    modeling = importlib.import_module("transformers.models.mixtral.modeling_mixtral")
    logits_BTE = np.random.default_rng(0).standard_normal((1, 20, 5)).astype(np.float32)
    valid_BT = np.arange(20)[None, :] < 13
    theirs = modeling.load_balancing_loss_func(
        (torch.tensor(logits_BTE[0]),), 5, 3, attention_mask=torch.tensor(valid_BT, dtype=torch.int)
    )
    _, experts_BTK = jax.lax.top_k(logits_BTE, 3)
    choice = Choice(experts_BTK, jnp.ones(experts_BTK.shape), jnp.asarray(valid_BT))
    ours_B = load_balance_loss(jnp.asarray(logits_BTE), count_load(choice, 5), choice.valid_BT)
    np.testing.assert_allclose(3 * ours_B[0], float(theirs), rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mixtral"])
def test_greedy_tokens_equal_those_of_generate(name: str) -> None:
    family, new_tokens = FAMILIES[name], 8
    published = family.build_published()
    prompts_BT = random_tokens(2, 9)
    ids = torch.tensor(prompts_BT, dtype=torch.long)
    expected = published.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens
    )[:, prompts_BT.shape[1] :].numpy()
    assert expected.shape == (2, new_tokens)

    params = unflatten_dict(family.map_weights(published), sep="/")
    step = jax.jit(family.config.build(VOCAB_SIZE).apply)
    cache = make_cache(family.config, batch_size=2, max_length=prompts_BT.shape[1] + new_tokens)
    logits, cache = step({"params": params}, prompts_BT, cache=cache)
    found = [jnp.argmax(logits[:, -1:], axis=-1)]
    for _ in range(new_tokens - 1):
        logits, cache = step({"params": params}, found[-1], cache=cache)
        found.append(jnp.argmax(logits[:, -1:], axis=-1))
    np.testing.assert_array_equal(np.concatenate(found, axis=1), expected)


def test_a_weight_that_nothing_takes_is_noticed() -> None:
    family = FAMILIES["qwen3"]
    weights = {"unheard.of": np.zeros(1)}
    weights |= {
        name: value.detach().numpy() for name, value in family.build_published().named_parameters()
    }
    with pytest.raises(ValueError, match=r"no parameter took: \['unheard.of'\]"):
        mapping.map_weights(family.table, weights, family.shapes)
    with pytest.raises(ValueError, match=r"one side only.*query_norm/scale"):
        mapping.map_weights(mapping.LLAMA, weights, family.shapes)
