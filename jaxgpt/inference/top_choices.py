"""XTC ("Exclude Top Choices"): now and then the likeliest tokens are left out, for livelier text.

With a given probability for each draw, all tokens that are at least as likely as a threshold are
left out, but for the least likely of them. By p-e-w for text-generation-webui (its pull request
6335); the fields are those of llama.cpp, where tokens that end a text are no exception either.

Axes: B rows, V padded vocabulary.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

# Apart from what draws the token with the same key.
_STREAM = 0x585443


def exclude_top_choices(
    scores_BV: Array, probability_B: ArrayLike, threshold_B: ArrayLike, keys_B: Array
) -> Array:
    """Return scores whose likeliest tokens have -inf in the rows where chance says so.

    Args:
        scores_BV: float32, after all other filters.
        probability_B: float32, of leaving them out; rows with 0 keep their scores, bit for bit.
        threshold_B: float32.
        keys_B: of each row's draw.
    """
    shares_BV = jax.nn.softmax(scores_BV, axis=-1)
    is_high_BV = (shares_BV >= jnp.asarray(threshold_B)[:, None]) & (scores_BV > -jnp.inf)
    least_B1 = jnp.min(scores_BV, axis=-1, keepdims=True, where=is_high_BV, initial=jnp.inf)
    # Among equal scores the lower id counts as the likelier one.
    places_V = jnp.arange(scores_BV.shape[-1])
    kept_B1 = jnp.max(
        jnp.where(is_high_BV & (scores_BV == least_B1), places_V, -1), axis=-1, keepdims=True
    )
    chance_B = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _STREAM)))(keys_B)
    acts_B1 = (chance_B < jnp.asarray(probability_B))[:, None]
    return jnp.where(acts_B1 & is_high_BV & (places_V != kept_B1), -jnp.inf, scores_BV)
