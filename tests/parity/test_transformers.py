"""The published families are what they claim: logits equal those of transformers' own classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from jaxgpt.model.gpt import make_cache
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


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
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
