"""The router of a mixture of experts: which experts a token goes to, and with what weights.

Everything here is float32, whatever the compute dtype: rounding a router's logits changes which
experts are chosen, and the gradient of a softmax over rounded logits is unstable (Fedus et al.
2021, section 2.4). Each token is judged by itself, so no token's choice depends on a later one.

Axes: B rows, T tokens, D model, E experts, K chosen experts.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.layers.dtypes import accumulator_dtype
from jaxgpt.model.layers.matmul import project
from jaxgpt.model.layers.projection import LayerSettings, add_param


class Choice(NamedTuple):
    """Experts and gates of each token.

    Attributes:
        experts_BTK: int32, K different experts, best first; of equal logits the lower number.
        gates_BTK: float32, factors of the experts' outputs.
        valid_BT: bool, false for padding, which goes nowhere.
    """

    experts_BTK: jax.Array
    gates_BTK: jax.Array
    valid_BT: jax.Array


@configclass
class Gates:
    """Base of the ways to weigh the chosen experts."""

    def weigh(self, logits_BTE: jax.Array, experts_BTK: jax.Array) -> jax.Array:
        """Return gates_BTK."""
        raise NotImplementedError(f"{type(self).__name__} has no weigh")

    def check(self, num_active: int) -> None:
        """Raise ValueError if this number of chosen experts cannot be weighed."""


@configclass
class NormalizedGates(Gates):
    """Softmax over all experts, rescaled to sum to 1 over the chosen ones (Mixtral, Qwen 3).

    The same as a softmax over the chosen logits alone, which is how it is computed. The layer's
    output keeps its scale whatever the router thinks of the others.
    """

    def weigh(self, logits_BTE: jax.Array, experts_BTK: jax.Array) -> jax.Array:
        return jax.nn.softmax(jnp.take_along_axis(logits_BTE, experts_BTK, axis=-1), axis=-1)

    def check(self, num_active: int) -> None:
        if num_active == 1:
            raise ValueError(
                "num_active=1 with NormalizedGates makes every gate 1, and the router learns "
                "nothing from the loss; use gates=SoftmaxGates()"
            )


@configclass
class SoftmaxGates(Gates):
    """Softmax over all experts, taken as it is at the chosen ones (Switch, OLMoE)."""

    def weigh(self, logits_BTE: jax.Array, experts_BTK: jax.Array) -> jax.Array:
        return jnp.take_along_axis(jax.nn.softmax(logits_BTE, axis=-1), experts_BTK, axis=-1)


class Router(nn.Module):
    """`logits = x W`, and the K largest."""

    num_experts: int
    num_active: int
    gates: Gates
    settings: LayerSettings

    @nn.compact
    def __call__(self, x_BTD: jax.Array, valid_BT: jax.Array) -> tuple[Choice, jax.Array]:
        """Return the choice, and the logits [B, T, E] that it was made by."""
        shape = (self.settings.d_model, self.num_experts)
        # Not "expert": every device needs the logits of all experts.
        axes = ("embed", "router")
        kernel = add_param(self, "kernel", self.settings.kernel_init, shape, axes, self.settings)
        logits_BTE = project(x_BTD.astype(accumulator_dtype(x_BTD.dtype)), kernel)
        _, experts_BTK = jax.lax.top_k(logits_BTE, self.num_active)
        gates_BTK = self.gates.weigh(logits_BTE, experts_BTK)
        return Choice(experts_BTK, gates_BTK, valid_BT), logits_BTE


def count_load(choice: Choice, num_experts: int) -> jax.Array:
    """Count the choices of each row's valid tokens by expert: float32 [B, E]."""
    chosen_BTE = jnp.sum(jax.nn.one_hot(choice.experts_BTK, num_experts), axis=2)
    return jnp.sum(chosen_BTE * choice.valid_BT[..., None], axis=1)


def load_balance_loss(logits_BTE: jax.Array, load_BE: jax.Array, valid_BT: jax.Array) -> jax.Array:
    """Return `E sum_e f_e P_e` of each row (Fedus et al. 2021, arXiv:2101.03961, equation 4): [B].

    f_e is the share of the row's choices that fell on expert e, counted before any is dropped,
    P_e the mean probability that the router gave it. 1 if both are even, E if one expert has all.
    Padding counts in neither; a row of padding alone has 0.

    Equation 4 is not linear in the tokens that it is taken over, so these must be said: a row's
    (as in GShard, whose groups are parts of the batch). A mean over rows does not depend on how
    the rows are divided into micro-batches and among devices.
    """
    num_experts = logits_BTE.shape[-1]
    share_BE = load_BE / jnp.maximum(jnp.sum(load_BE, axis=-1, keepdims=True), 1.0)
    probability_BE = _mean_of_valid(jax.nn.softmax(logits_BTE, axis=-1), valid_BT)
    return num_experts * jnp.sum(share_BE * probability_BE, axis=-1)


def router_z_loss(logits_BTE: jax.Array, valid_BT: jax.Array) -> jax.Array:
    """Return the mean of `(log sum_e exp logit_e)^2` over each row's valid tokens: [B].

    Zoph et al. 2022, arXiv:2202.08906, equation 5. Keeps logits small, where float32 is fine.
    """
    normaliser_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
    return _mean_of_valid(jnp.square(normaliser_BT), valid_BT)


def _mean_of_valid(values: jax.Array, valid_BT: jax.Array) -> jax.Array:
    """Return mean over T of [B, T, ...]; 0 for a row without a valid token."""
    valid = valid_BT.reshape(*valid_BT.shape, *[1] * (values.ndim - 2))
    total = jnp.sum(jnp.where(valid, values, 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(valid, axis=1), 1)
