"""Cosines and sines that XLA's CPU backend evaluates once."""

import jax
import jax.numpy as jnp


def cos_and_sin(angles: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the cosines and the sines of angles, from a loop of two turns.

    The backend keeps the results of a loop. Left alone it would evaluate them again wherever they
    are used, for every head of every layer, which takes a tenth of a training step.
    """
    cos, sin = jax.lax.map(
        lambda phase: jax.lax.switch(phase, (jnp.cos, jnp.sin), angles), jnp.arange(2)
    )
    return cos, sin
