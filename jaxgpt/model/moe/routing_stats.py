"""Statistics of routers in one forward pass, for reports and auxiliary losses. All values are kept
by row, because micro-batches, devices and hosts divide rows; a sum over rows does not depend on the
division.

Axes: B rows, L layers, E experts.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

# The collection that a model writes its `Routing` to, for callers that ask for it:
# `model.apply(variables, tokens, mutable=[ROUTING])`.
ROUTING = "routing"
_NAME = "rows"


@flax.struct.dataclass
class RoutingOfLayer:
    """One layer's share of `Routing`.

    Attributes:
        auxiliary_B: the auxiliary losses times their weights: added to the loss of every
            predicted token of the row.
        balance_B: load-balance loss; 1 if every expert gets as much as any other.
        z_loss_B: mean squared log-normaliser of the router.
        load_BE: choices of the row's tokens that fell on each expert.
        dropped_B: choices that found no place.
    """

    auxiliary_B: jax.Array
    balance_B: jax.Array
    z_loss_B: jax.Array
    load_BE: jax.Array
    dropped_B: jax.Array


@flax.struct.dataclass
class Routing:
    """All layers together, float32.

    Attributes:
        auxiliary_B: sum over layers; see `RoutingOfLayer`, also for the rest.
        balance_B, z_loss_B: sums over layers.
        load_BLE, dropped_BL: by layer.
    """

    auxiliary_B: jax.Array
    balance_B: jax.Array
    z_loss_B: jax.Array
    load_BLE: jax.Array
    dropped_BL: jax.Array

    def add_layer(self, layer: int | jax.Array, one: RoutingOfLayer) -> "Routing":
        """Return this with what one layer did."""
        return Routing(
            auxiliary_B=self.auxiliary_B + one.auxiliary_B,
            balance_B=self.balance_B + one.balance_B,
            z_loss_B=self.z_loss_B + one.z_loss_B,
            load_BLE=self.load_BLE.at[:, layer].set(one.load_BE),
            dropped_BL=self.dropped_BL.at[:, layer].set(one.dropped_B),
        )

    def sum_rows(self, weights_B: jax.Array) -> "RoutingSums":
        """Add up the rows, losses times each row's number of predicted tokens."""
        return RoutingSums(
            auxiliary=jnp.sum(self.auxiliary_B * weights_B),
            balance=jnp.sum(self.balance_B * weights_B),
            z_loss=jnp.sum(self.z_loss_B * weights_B),
            load_LE=jnp.sum(self.load_BLE, axis=0),
            dropped_L=jnp.sum(self.dropped_BL, axis=0),
        )


@flax.struct.dataclass
class RoutingSums:
    """`Routing` summed over rows; sums of parts of a batch add up to that of the batch.

    Attributes:
        auxiliary, balance, z_loss: times the rows' numbers of predicted tokens.
        load_LE, dropped_L: counts.
    """

    auxiliary: jax.Array
    balance: jax.Array
    z_loss: jax.Array
    load_LE: jax.Array
    dropped_L: jax.Array

    def metrics(self, weight: jax.Array) -> dict[str, jax.Array]:
        """Return the metrics to report; `weight` is the number of predicted tokens.

        Returns:
            load_balance, router_z_loss: means over predicted tokens and layers.
            dropped: share of choices that found no place.
            load: [E], each expert's share of the choices times E, over all layers; 1 is even.
            max_load: the largest such share of one expert in one layer.
        """
        num_layers, num_experts = self.load_LE.shape
        choices_L1 = jnp.maximum(jnp.sum(self.load_LE, axis=1, keepdims=True), 1.0)
        load_LE = num_experts * self.load_LE / choices_L1
        return {
            "load_balance": self.balance / (weight * num_layers),
            "router_z_loss": self.z_loss / (weight * num_layers),
            "dropped": jnp.sum(self.dropped_L) / jnp.sum(choices_L1),
            "load": jnp.mean(load_LE, axis=0),
            "max_load": jnp.max(load_LE),
        }


def no_routing(num_rows: int, num_layers: int, num_experts: int) -> Routing:
    """Return the `Routing` of no layer."""
    zero_B = jnp.zeros(num_rows, jnp.float32)
    return Routing(
        auxiliary_B=zero_B,
        balance_B=zero_B,
        z_loss_B=zero_B,
        load_BLE=jnp.zeros((num_rows, num_layers, num_experts), jnp.float32),
        dropped_BL=jnp.zeros((num_rows, num_layers), jnp.float32),
    )


def publish_routing(module: nn.Module, routing: RoutingOfLayer | Routing) -> None:
    """Write into the collection `ROUTING`, if the caller of `apply` asks for it."""
    module.sow(ROUTING, _NAME, routing, reduce_fn=lambda _, new: new, init_fn=lambda: routing)


def published_routing(module: nn.Module) -> Any:
    """Return what a part of the model has written, to the module that called it."""
    return module.get_variable(ROUTING, _NAME)


def routing_of(variables: Any) -> Any:
    """Return what a model wrote, from what `apply` returned; None if it has no experts."""
    return variables.get(ROUTING, {}).get(_NAME)
