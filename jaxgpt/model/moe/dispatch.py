"""Dispatch: how the tokens that chose an expert reach it, and what happens when too many did.

Axes: B rows, T tokens, D model, E experts, K chosen experts, C slots an expert has for a row,
S = E C slots of a row, A = T K choices of a row, N tokens of all rows.
"""

import functools
import logging
import math
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.layers.dtypes import rounded_output_dtype
from jaxgpt.model.layers.grouped_matmul import has_grouped_kernels
from jaxgpt.model.layers.placement import is_in_stage, placement
from jaxgpt.model.layers.projection import PROJECTION
from jaxgpt.model.moe.dropless import ApplyExpert, apply_in_blocks, make_blocks, vary_alike
from jaxgpt.model.moe.expert_groups import OUTPUTS, apply_in_groups
from jaxgpt.model.moe.expert_parallel import ARRIVED, Peers, on_each_device
from jaxgpt.model.moe.router import Choice

logger = logging.getLogger(__name__)


@configclass
class Dispatch:
    """Base of the ways to bring tokens to experts."""

    def run(
        self, apply_expert: ApplyExpert, params: Any, x_BTD: jax.Array, choice: Choice
    ) -> tuple[jax.Array, jax.Array]:
        """Apply the chosen experts.

        Args:
            apply_expert: one expert, [B, T, D] to [B, T, D]; captures no array.
            params: of all experts, leaves [E, ...].
            x_BTD: tokens.
            choice: of their experts.

        Returns:
            The gated sum [B, T, D] in the dtype of `x_BTD`, zeros for padding, and how many of
            each row's choices were dropped, float32 [B].
        """
        raise NotImplementedError(f"{type(self).__name__} has no run")

    def exchanged_per_token(
        self, num_tokens: int, num_experts: int, num_active: int, num_peers: int
    ) -> float:
        """Return the vectors of width D that a device sends forward for each of its tokens, if
        `num_tokens` tokens per row choose `num_active` of experts divided over `num_peers`
        devices."""
        raise NotImplementedError(f"{type(self).__name__} has no exchanged_per_token")

    def results_to_keep(self, num_experts: int) -> tuple[str, ...]:
        """Return names of results to keep where the rest is computed again in the backward pass."""
        return (PROJECTION, ARRIVED)


@configclass
class Capacity(Dispatch):
    """Every expert has a fixed number of slots for each row; who comes too late is dropped.

    An expert takes the first C tokens of the row, in their order, that chose it, padding not
    counted; C = factor * K * T / E, rounded up, at least 1 and at most T. A dropped choice adds
    nothing, and the gates of the token's other choices stay as they are.

    Earlier tokens come first, so no token's fate depends on a later one. (Switch and GShard serve
    all first choices before any second one: there a later token can take an earlier one's place.)
    The rows are GShard's groups (arXiv:2006.16668, algorithm 1): no row's fate depends on another
    row, so neither on micro-batches and devices. Documents packed into one row do share its slots.
    """

    factor: float = 1.25
    """Slots per expert, as a multiple of what an even load needs; num_experts / num_active always
    suffices."""

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor must be positive, not {self.factor}")

    def count_slots(self, num_tokens: int, num_experts: int, num_active: int) -> int:
        """Return C."""
        even = num_active * num_tokens / num_experts
        # Less than a rounding error: 1.2 * 10 is not 13 slots.
        return min(num_tokens, max(1, math.ceil(self.factor * even - 1e-9)))

    def exchanged_per_token(
        self, num_tokens: int, num_experts: int, num_active: int, num_peers: int
    ) -> float:
        """Count all slots there and back, without the device's own share."""
        slots = num_experts * self.count_slots(num_tokens, num_experts, num_active)
        return 2 * slots / num_tokens * (num_peers - 1) / num_peers

    def run(
        self, apply_expert: ApplyExpert, params: Any, x_BTD: jax.Array, choice: Choice
    ) -> tuple[jax.Array, jax.Array]:
        num_experts = jax.tree.leaves(params)[0].shape[0]
        _, num_tokens, num_active = choice.experts_BTK.shape
        num_slots = self.count_slots(num_tokens, num_experts, num_active)

        def run_own(
            params: Any, x_BTD: jax.Array, choice: Choice, peers: Peers
        ) -> tuple[jax.Array, jax.Array]:
            slots_BTK = assign_slots(choice, num_experts, num_slots)
            shape = slots_BTK.shape
            slots_BA = slots_BTK.reshape(shape[0], -1)
            choices_BS = _invert(slots_BA, num_experts * num_slots)
            x_BAD = jnp.repeat(x_BTD, shape[2], axis=1)
            x_BSD = _move(x_BAD, choices_BS, slots_BA)
            x_BECD = peers.send(x_BSD.reshape(shape[0], num_experts, num_slots, -1))
            inputs = vary_alike((params, x_BECD))
            y_BECD = jax.vmap(apply_expert, in_axes=(0, 1), out_axes=1)(*inputs)
            y_BSD = peers.send_back(y_BECD).reshape(x_BSD.shape)
            y_BTKD = _move(y_BSD, slots_BA, choices_BS).reshape(*shape, -1)
            y_BTD = jnp.sum(y_BTKD * choice.gates_BTK[..., None], axis=2)
            is_dropped_BTK = (slots_BTK == num_experts * num_slots) & choice.valid_BT[..., None]
            dropped_B = jnp.sum(is_dropped_BTK, axis=(1, 2)).astype(jnp.float32)
            return y_BTD.astype(x_BTD.dtype), dropped_B

        return on_each_device(run_own, params, x_BTD, choice, split_time=False)


@configclass
class Dropless(Dispatch):
    """Every token reaches every expert it chose; the work is cut into blocks of one expert.

    On a mesh that splits the experts, each device gathers its peers' tokens, applies its own
    experts to them and returns the sums: what arrives has a fixed shape however uneven the load.
    """

    block_size: int = 128
    """Tokens per block that one expert is applied to at a time."""

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, not {self.block_size}")

    def exchanged_per_token(
        self, num_tokens: int, num_experts: int, num_active: int, num_peers: int
    ) -> float:
        """Count every token to all peers, and their sums back."""
        return 2.0 * (num_peers - 1)

    def results_to_keep(self, num_experts: int) -> tuple[str, ...]:
        """See `Dispatch.results_to_keep`: hidden units of tokens that may be here are too many."""
        is_split = any(placement((num_experts,), ("expert",)) or ())
        return (OUTPUTS, ARRIVED) if is_split else (PROJECTION, ARRIVED)

    def run(
        self, apply_expert: ApplyExpert, params: Any, x_BTD: jax.Array, choice: Choice
    ) -> tuple[jax.Array, jax.Array]:

        rules, in_groups = nn.get_logical_axis_rules(), _uses_groups()

        def apply_to_block(params: Any, x_RD: jax.Array) -> jax.Array:
            return apply_expert(params, x_RD[None])[0]

        def run_own(
            params: Any, x_BTD: jax.Array, choice: Choice, peers: Peers
        ) -> tuple[jax.Array, jax.Array]:
            own_experts = jax.tree.leaves(params)[0].shape[0]
            num_rows, num_tokens, num_active = choice.experts_BTK.shape
            x_ND = peers.gather(x_BTD.reshape(num_rows * num_tokens, -1))
            gates_NK = peers.gather(choice.gates_BTK.reshape(-1, num_active))
            experts_NK = peers.gather(choice.experts_BTK.reshape(-1, num_active))
            valid_N1 = peers.gather(choice.valid_BT.reshape(-1, 1))
            experts_NK = experts_NK - peers.index * own_experts
            is_own_NK = (experts_NK >= 0) & (experts_NK < own_experts) & valid_N1
            # Padding, and what other devices do, stands behind the experts of this one.
            experts_A = jnp.where(is_own_NK, experts_NK, own_experts).ravel()
            if in_groups:
                y_ND = apply_in_groups(
                    apply_expert,
                    params,
                    x_ND,
                    gates_NK,
                    experts_A,
                    self.block_size,
                    num_parts=peers.num_devices if peers.split_rows else 1,
                    rules=rules,
                )
            else:
                block_size = min(self.block_size, x_ND.shape[0])
                blocks = make_blocks(experts_A, own_experts, block_size)
                y_ND = apply_in_blocks(apply_to_block, params, x_ND, gates_NK, blocks)
            y_ND = y_ND.astype(rounded_output_dtype(x_BTD.dtype))
            y_BTD = peers.sum_and_scatter(y_ND).reshape(x_BTD.shape)
            return y_BTD.astype(x_BTD.dtype), jnp.zeros(num_rows, jnp.float32)

        return on_each_device(run_own, params, x_BTD, choice, split_time=True)


def _uses_groups() -> bool:
    """Return whether grouped products can be used here; log once why not, if a GPU has them."""
    if not has_grouped_kernels():
        return False
    if is_in_stage():
        _log_blocks("kernels of grouped products do not work inside a pipeline's stages")
        return False
    return True


@functools.cache
def _log_blocks(reason: str) -> None:
    logger.info("experts are computed in a loop over blocks: %s", reason)


def assign_slots(choice: Choice, num_experts: int, num_slots: int) -> jax.Array:
    """Give each choice a slot of its row: int32 [B, T, K]; E C if it is dropped.

    Slot `e * C + c` is the c-th of expert e.
    """
    chosen_BTE = jnp.sum(jax.nn.one_hot(choice.experts_BTK, num_experts, dtype=jnp.int32), axis=2)
    chosen_BTE *= choice.valid_BT[..., None]
    # A token chooses an expert at most once: how many came before it is its place in the queue.
    before_BTE = jnp.cumsum(chosen_BTE, axis=1) - chosen_BTE
    place_BTK = jnp.take_along_axis(before_BTE, choice.experts_BTK, axis=2)
    is_kept_BTK = (place_BTK < num_slots) & choice.valid_BT[..., None]
    slots_BTK = choice.experts_BTK * num_slots + place_BTK
    return jnp.where(is_kept_BTK, slots_BTK, num_experts * num_slots)


def _invert(slots_BA: jax.Array, num_slots: int) -> jax.Array:
    """Return the choice in each slot: int32 [B, S]; A where there is none."""
    num_rows, num_choices = slots_BA.shape
    empty_BS = jnp.full((num_rows, num_slots), num_choices, jnp.int32)
    rows_B1 = jnp.arange(num_rows)[:, None]
    numbers_BA = jnp.broadcast_to(jnp.arange(num_choices, dtype=jnp.int32), slots_BA.shape)
    return empty_BS.at[rows_B1, slots_BA].set(numbers_BA, mode="drop")


@jax.custom_vjp
def _move(x: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
    """Move each row's vectors: [B, P, D] to [B, Q, D], where `source` [B, Q] says from which.

    A source of P is nothing, and gives zeros. `target` [B, P] is the inverse, so the gradient is
    moved back rather than added up in whatever order.
    """
    return cast(
        jax.Array, jnp.take_along_axis(x, source[..., None], axis=1, mode="fill", fill_value=0)
    )


def _move_forward(x: jax.Array, source: jax.Array, target: jax.Array) -> Any:
    return _move(x, source, target), (source, target)


def _move_backward(saved: Any, dy: jax.Array) -> Any:
    source, target = saved
    return _move(dy, target, source), None, None


_move.defvjp(_move_forward, _move_backward)
