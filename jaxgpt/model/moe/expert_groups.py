"""Experts on the tokens that chose them, all at once, as grouped products on a GPU.

The choices are sorted by expert and stand in tiles of one expert each, as in `dropless.py`,
but no loop goes over them: each of the expert's products is one kernel
(`model/layers/grouped_matmul.py`), and what the backward pass keeps is the business of `remat`, as
of any other layer. Tokens and results are looked up in both directions, so no sum has an order of
its own.

Axes: N tokens, D model, K chosen experts, E experts here, A = N K choices, P rows in tiles, M
tiles of R rows.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxgpt.model.layers.grouped_matmul import FEWEST_ROWS, Tiles
from jaxgpt.model.layers.of_experts import OfExperts
from jaxgpt.model.moe.dropless import ApplyExpert, look_up, make_blocks

# Rows of a tile of a kernel at most: more do not fit into a multiprocessor's registers.
_MOST_ROWS = 128
# The name by which what the experts return is kept for the gradient of the gates.
OUTPUTS = "outputs of experts"


def apply_in_groups(
    apply_expert: ApplyExpert,
    params: Any,
    x_ND: jax.Array,
    gates_NK: jax.Array,
    experts_A: jax.Array,
    block_size: int,
    num_parts: int = 1,
    rules: Any = (),
) -> jax.Array:
    """Return the gated sum of each token's experts, [N, D] in the dtype of the gates.

    Args:
        apply_expert: one expert, whose parameters are `OfExperts` here; captures no array.
        params: leaves [E, ...].
        x_ND: tokens.
        gates_NK: factors of the outputs, float32.
        experts_A: expert of choice `n * K + k`, the k-th of token n; E or more for none here.
        block_size: rows of a tile at most.
        num_parts: parts of the rows that are computed one after another, and again in the backward
            pass. Of rows that mostly have no choice, the hidden units take memory all the same.
        rules: that say which mesh axes split an expert's kernels.
    """
    num_experts = jax.tree.leaves(params)[0].shape[0]
    # A token chooses an expert once, so no more than E of its choices are here.
    most_choices = gates_NK.shape[0] * min(gates_NK.shape[1], num_experts)
    tiles, choices_P = _make_tiles(experts_A, num_experts, block_size, most_choices, num_parts)
    size = choices_P.shape[0]
    rows_A = jnp.full(experts_A.shape, size, jnp.int32)
    rows_A = rows_A.at[choices_P].set(jnp.arange(size, dtype=jnp.int32), mode="drop")
    rows_NK = rows_A.reshape(gates_NK.shape)

    def apply_to_part(params: Any, tiles: Tiles, x_QD: jax.Array) -> jax.Array:
        of_experts = jax.tree.map(lambda leaf: OfExperts(leaf, tiles, x_QD.shape[0], rules), params)
        return apply_expert(of_experts, x_QD[None])[0]

    def apply(params: Any, x_ND: jax.Array, gates_NK: jax.Array) -> jax.Array:
        x_PD = _hand_out(x_ND, choices_P, rows_NK)
        if num_parts == 1:
            y_PD = apply_to_part(params, tiles, x_PD)
        else:
            again = jax.checkpoint(apply_to_part)
            parts = (_split(tiles, num_parts), x_PD.reshape(num_parts, -1, x_PD.shape[1]))
            y_PD = jax.lax.map(lambda part: again(params, *part), parts).reshape(x_PD.shape)
        y_PD = checkpoint_name(y_PD, OUTPUTS)
        return cast(jax.Array, _gated_sum(y_PD, gates_NK, choices_P, rows_NK))

    if num_parts > 1:
        keep_outputs = jax.checkpoint_policies.save_only_these_names(OUTPUTS)
        apply = jax.checkpoint(apply, policy=keep_outputs)
    return apply(params, x_ND, gates_NK)


def _make_tiles(
    experts_A: jax.Array, num_experts: int, block_size: int, most_choices: int, num_parts: int
) -> tuple[Tiles, jax.Array]:
    """Return the tiles, a multiple of `num_parts`, and the choice in each of their rows; or A."""
    num_choices = experts_A.shape[0]
    # What other devices' experts get is a share of the choices, too.
    num_rows = _count_rows(num_choices // num_parts, num_experts, block_size)
    blocks = make_blocks(experts_A, num_experts, num_rows, most_choices)
    more = -blocks.experts_M.shape[0] % num_parts
    choices_MR = jnp.pad(blocks.choices_MR, ((0, more), (0, 0)), constant_values=num_choices)
    is_used_M = jnp.arange(choices_MR.shape[0]) < blocks.num_blocks
    experts_M = jnp.where(is_used_M, jnp.pad(blocks.experts_M, (0, more)), num_experts)
    starts_F = jnp.sum(experts_M < jnp.arange(num_experts + 1)[:, None], axis=1)
    return Tiles(experts_M, starts_F.astype(jnp.int32)), choices_MR.ravel()


def _split(tiles: Tiles, num_parts: int) -> Tiles:
    """Return the tiles of equal parts, stacked."""
    experts_SM = tiles.experts_M.reshape(num_parts, -1)
    size = experts_SM.shape[1]
    first_S1 = size * jnp.arange(num_parts, dtype=jnp.int32)[:, None]
    return Tiles(experts_SM, jnp.clip(tiles.starts_F - first_S1, 0, size))


def _count_rows(num_choices: int, num_experts: int, block_size: int) -> int:
    """Return the rows of a tile, a power of two: no more than an expert's even share fills."""
    most = max(FEWEST_ROWS, min(_MOST_ROWS, block_size))
    rows = FEWEST_ROWS
    while 2 * rows <= min(most, num_choices // num_experts):
        rows *= 2
    return rows


@jax.custom_vjp
def _hand_out(x_ND: jax.Array, choices_P: jax.Array, rows_NK: jax.Array) -> jax.Array:
    """Return each row's token, [P, D]; zeros for a row without a choice."""
    return look_up(x_ND, choices_P // rows_NK.shape[1])


def _hand_out_forward(x_ND: jax.Array, choices_P: jax.Array, rows_NK: jax.Array) -> Any:
    return _hand_out(x_ND, choices_P, rows_NK), rows_NK


def _hand_out_backward(rows_NK: jax.Array, dx_PD: jax.Array) -> Any:
    dx_NKD = look_up(dx_PD, rows_NK)
    dx_ND = jnp.sum(dx_NKD, axis=1, dtype=jnp.promote_types(dx_PD.dtype, jnp.float32))
    return dx_ND.astype(dx_PD.dtype), None, None


_hand_out.defvjp(_hand_out_forward, _hand_out_backward)


@jax.custom_vjp
def _gated_sum(
    y_PD: jax.Array, gates_NK: jax.Array, choices_P: jax.Array, rows_NK: jax.Array
) -> jax.Array:
    """Return the gated sum of each token's rows, [N, D] in the dtype of the gates."""
    return jnp.sum(look_up(y_PD, rows_NK) * gates_NK[..., None], axis=1)


def _gated_sum_forward(
    y_PD: jax.Array, gates_NK: jax.Array, choices_P: jax.Array, rows_NK: jax.Array
) -> Any:
    inputs = (y_PD, gates_NK, choices_P, rows_NK)
    return _gated_sum(*inputs), inputs


def _gated_sum_backward(inputs: Any, dsum_ND: jax.Array) -> Any:
    y_PD, gates_NK, choices_P, rows_NK = inputs
    gates_P1 = look_up(gates_NK.ravel(), choices_P)[:, None]
    dy_PD = look_up(dsum_ND, choices_P // rows_NK.shape[1]) * gates_P1
    dgates_NK = jnp.sum(look_up(y_PD, rows_NK) * dsum_ND[:, None], axis=-1)
    return dy_PD.astype(y_PD.dtype), dgates_NK.astype(gates_NK.dtype), None, None


_gated_sum.defvjp(_gated_sum_forward, _gated_sum_backward)
