"""Experts on the tokens that chose them, block by block: no token dropped, no slot wasted.

The choices are sorted by expert and cut into blocks of R, each of one expert alone (MegaBlocks,
Gale et al. 2022, arXiv:2211.15841). A loop takes a block's tokens, applies the expert, and adds the
results to their tokens; on a CPU it ends after the last block that has a token. There
`jax.lax.ragged_dot` would multiply every token with every expert (jax 0.10.2). On a GPU the loop is
for pipeline stages only, see `expert_groups.py`.

The backward pass computes a block again rather than keep its hidden units: memory grows with the
tokens, not with tokens x K x hidden width. Within a block each token stands once, and blocks follow
one another, so sums have one order on any device.

Axes: N tokens, D model, K chosen experts, E experts here, A = N K choices, M blocks, R choices of
a block.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxgpt.runtime.target import compile_target

# (parameters of one expert, x [..., D]) -> y [..., D]
ApplyExpert = Callable[[Any, jax.Array], jax.Array]


class Blocks(NamedTuple):
    """Blocks of choices that are computed together.

    Attributes:
        choices_MR: int32 numbers of choices, A where a block has none.
        experts_M: int32, the block's expert.
        num_blocks: int32 scalar, blocks with a choice; they stand first.
    """

    choices_MR: jax.Array
    experts_M: jax.Array
    num_blocks: jax.Array


def make_blocks(
    experts_A: jax.Array, num_experts: int, block_size: int, most_choices: int | None = None
) -> Blocks:
    """Sort choices by expert; a choice of expert `num_experts` or more is left out.

    Args:
        experts_A: expert of each choice.
        num_experts: E.
        block_size: R.
        most_choices: of those that are not left out there are no more; None for A.
    """
    num_choices = experts_A.shape[0]
    most = num_choices if most_choices is None else most_choices
    order_A = jnp.argsort(experts_A, stable=True)
    counts_E = jnp.bincount(experts_A, length=num_experts)
    blocks_E = -(-counts_E // block_size)
    ends_E, block_ends_E = jnp.cumsum(counts_E), jnp.cumsum(blocks_E)
    # Every block that is used has a choice.
    blocks_M = jnp.arange(min(most, most // block_size + num_experts))
    experts_M = jnp.sum(block_ends_E <= blocks_M[:, None], axis=1)
    expert_M = jnp.minimum(experts_M, num_experts - 1)
    within_M = blocks_M - (block_ends_E - blocks_E)[expert_M]
    first_M = (ends_E - counts_E)[expert_M] + within_M * block_size
    places_MR = first_M[:, None] + jnp.arange(block_size)
    is_used_MR = (places_MR < ends_E[expert_M][:, None]) & (experts_M < num_experts)[:, None]
    sorted_MR = order_A[jnp.minimum(places_MR, num_choices - 1)]
    return Blocks(
        choices_MR=jnp.where(is_used_MR, sorted_MR, num_choices).astype(jnp.int32),
        experts_M=expert_M.astype(jnp.int32),
        num_blocks=block_ends_E[-1].astype(jnp.int32),
    )


def apply_in_blocks(
    apply_expert: ApplyExpert, params: Any, x_ND: jax.Array, gates_NK: jax.Array, blocks: Blocks
) -> jax.Array:
    """Return the gated sum of each token's experts, [N, D] in the dtype of the gates.

    Args:
        apply_expert: one expert; captures no array.
        params: leaves [E, ...].
        x_ND: tokens.
        gates_NK: factors of the outputs, float32.
        blocks: of the choices, choice `n * K + k` being the k-th of token n.
    """
    inputs = vary_alike((params, x_ND, gates_NK, blocks))
    return cast(jax.Array, _apply(apply_expert, *inputs))


def vary_alike(tree: Any) -> Any:
    """Give every array the mesh axes of `shard_map` that any of them varies over.

    A gradient written by hand returns its parts as it finds them; where an array is the same on
    several devices, this is what adds up the gradients of each.
    """
    axes = frozenset().union(*map(_varying, jax.tree.leaves(tree)))

    def vary(leaf: jax.Array) -> jax.Array:
        missing = tuple(axes - _varying(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply(
    apply_expert: ApplyExpert, params: Any, x_ND: jax.Array, gates_NK: jax.Array, blocks: Blocks
) -> jax.Array:
    num_chosen = gates_NK.shape[1]

    def add_block(block: jax.Array, sum_ND: jax.Array) -> jax.Array:
        choices_R = blocks.choices_MR[block]
        tokens_R = choices_R // num_chosen
        one = _of_expert(params, blocks.experts_M[block])
        y_RD = (
            apply_expert(one, look_up(x_ND, tokens_R))
            * look_up(gates_NK.ravel(), choices_R)[:, None]
        )
        return _add(sum_ND, tokens_R, y_RD)

    zero_ND, _ = vary_alike((jnp.zeros(x_ND.shape, gates_NK.dtype), x_ND))
    return jax.lax.fori_loop(0, _count_rounds(blocks), add_block, zero_ND)


def _apply_forward(
    apply_expert: ApplyExpert, params: Any, x_ND: jax.Array, gates_NK: jax.Array, blocks: Blocks
) -> Any:
    inputs = (params, x_ND, gates_NK, blocks)
    return _apply(apply_expert, *inputs), inputs


def _apply_backward(apply_expert: ApplyExpert, inputs: Any, dsum_ND: jax.Array) -> Any:
    params, x_ND, gates_NK, blocks = inputs
    num_chosen = gates_NK.shape[1]

    def add_block(block: jax.Array, sums: Any) -> Any:
        dparams, dx_ND, dgates_A = sums
        choices_R, expert = blocks.choices_MR[block], blocks.experts_M[block]
        tokens_R = choices_R // num_chosen
        y_RD, transpose = jax.vjp(apply_expert, _of_expert(params, expert), look_up(x_ND, tokens_R))
        dsum_RD = look_up(dsum_ND, tokens_R)
        dy_RD = dsum_RD * look_up(gates_NK.ravel(), choices_R)[:, None]
        dparams_of_expert, dx_RD = transpose(dy_RD.astype(y_RD.dtype))
        return (
            jax.tree.map(lambda sums, one: sums.at[expert].add(one), dparams, dparams_of_expert),
            _add(dx_ND, tokens_R, dx_RD),
            _add(dgates_A, choices_R, jnp.sum(dsum_RD * y_RD, axis=-1)),
        )

    def zeros(like: jax.Array) -> jax.Array:
        dtype = jnp.promote_types(like.dtype, gates_NK.dtype)
        return vary_alike((jnp.zeros(like.shape, dtype), like))[0]

    sums = (jax.tree.map(zeros, params), zeros(x_ND), zeros(gates_NK.ravel()))
    dparams, dx_ND, dgates_A = jax.lax.fori_loop(0, _count_rounds(blocks), add_block, sums)
    dparams = jax.tree.map(lambda total, leaf: total.astype(leaf.dtype), dparams, params)
    return dparams, dx_ND.astype(x_ND.dtype), dgates_A.reshape(gates_NK.shape), None


_apply.defvjp(_apply_forward, _apply_backward)


def _count_rounds(blocks: Blocks) -> int | jax.Array:
    """Return the rounds of the loop: on a GPU all blocks, or it would wait to be told at each."""
    return blocks.num_blocks if compile_target().is_cpu else blocks.experts_M.shape[0]


def _varying(leaf: jax.Array) -> frozenset[str]:
    return jax.typeof(leaf).mat.varying


def _of_expert(params: Any, expert: jax.Array) -> Any:
    return jax.tree.map(lambda leaf_E: leaf_E[expert], params)


def look_up(array: jax.Array, numbers: jax.Array) -> jax.Array:
    """Return rows by number, of the shape of `numbers`; zeros for a number beyond the last."""
    return array.at[numbers].get(mode="fill", fill_value=0)


def _add(array: jax.Array, numbers_R: jax.Array, rows: jax.Array) -> jax.Array:
    """Add to rows by number, each at most once; a number beyond the last is ignored."""
    return array.at[numbers_R].add(rows.astype(array.dtype), mode="drop")
