"""Flash attention on NVIDIA GPUs: cuDNN's, and Pallas' for rows that hold several documents.

Axes: B batch, T query time, S key time, N query heads, K key/value heads, H head.
"""

import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.model.attention.kernel import AttentionInputs, AttentionKernel
from jaxgpt.model.attention.sharding import attend_on_shards, is_time_split
from jaxgpt.model.layers.placement import is_in_stage
from jaxgpt.runtime.target import compile_target

# Tokens of a tile; a row must be whole tiles, as Pallas' kernel reads whole ones.
_TILE = 128


@configclass
class Cudnn(AttentionKernel):
    """cuDNN's flash attention, on NVIDIA GPUs from compute capability 8.0 on."""

    def refuses(self, inputs: AttentionInputs) -> str | None:
        q_BTNH, mask, capability = inputs.q_BTNH, inputs.mask, compile_target().compute_capability
        head_dim = q_BTNH.shape[-1]
        largest_head = 256 if capability >= 9.0 else 128
        reasons = {
            "there is no NVIDIA GPU of compute capability 8.0 or above": capability < 8.0,
            f"queries are {q_BTNH.dtype}, not bfloat16": q_BTNH.dtype != jnp.bfloat16,
            # Its mask argument would become a dense [T, S] bias with a gradient of its own.
            "rows are packed, and it does not support segments": mask.segment_ids_BT is not None,
            "queries stand in the slots of a cache": mask.query_slots_BT is not None,
            # JAX refuses their gradient.
            f"rows of {q_BTNH.shape[1]} tokens are of odd length": q_BTNH.shape[1] % 2 != 0,
            # The rule by which JAX divides it among devices fails there.
            "it does not work inside a pipeline's stages": is_in_stage(),
            "the tokens of a row lie on several devices": is_time_split(q_BTNH),
            "scores are soft-capped": inputs.scores.soft_cap is not None,
            "dropout of probabilities is not used with it": inputs.dropout is not None,
            f"head_dim {head_dim} is not a multiple of 8 up to {largest_head}": (
                head_dim % 8 != 0 or head_dim > largest_head
            ),
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        window = inputs.mask.window
        return jax.nn.dot_product_attention(
            inputs.q_BTNH,
            inputs.k_BSKH,
            inputs.v_BSKH,
            scale=inputs.scores.scale,
            is_causal=True,
            # Keys to the left, the query itself not counted.
            local_window_size=None if window is None else (window - 1, 0),
            implementation="cudnn",
        )


@configclass
class Pallas(AttentionKernel):
    """JAX's own flash attention in Triton: knows segments, which cuDNN's public interface does not.

    Memory O(T). Tiles that a segment hides are still computed, so packed rows cost what full ones
    do (`jax.experimental.pallas.ops.gpu.attention`).
    """

    def refuses(self, inputs: AttentionInputs) -> str | None:
        q_BTNH, mask, capability = inputs.q_BTNH, inputs.mask, compile_target().compute_capability
        num_tokens, head_dim = q_BTNH.shape[1], q_BTNH.shape[-1]
        reasons = {
            "there is no NVIDIA GPU of compute capability 8.0 or above": capability < 8.0,
            f"queries are {q_BTNH.dtype}, not bfloat16": q_BTNH.dtype != jnp.bfloat16,
            f"rows of {num_tokens} tokens are not a multiple of {_TILE}": num_tokens % _TILE != 0,
            f"head_dim {head_dim} is above 128": head_dim > 128,
            "it does not support windows": mask.window is not None,
            "queries stand in the slots of a cache": mask.query_slots_BT is not None,
            # Its gradient is not marked as different in each stage, which JAX asks for there.
            "it does not work inside a pipeline's stages": is_in_stage(),
            "the tokens of a row lie on several devices": is_time_split(q_BTNH),
            "scores are soft-capped": inputs.scores.soft_cap is not None,
            "it has no dropout of probabilities": inputs.dropout is not None,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def compute(self, inputs: AttentionInputs) -> jax.Array:
        segments_BT, scale = inputs.mask.segment_ids_BT, inputs.scores.scale
        return pallas_attention(inputs.q_BTNH, inputs.k_BSKH, inputs.v_BSKH, segments_BT, scale)


def pallas_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segment_ids_BT: jax.Array | None,
    scale: float,
    interpreted: bool = False,
) -> jax.Array:
    """Compute causal attention within segments by Pallas' kernel; out_BTNH.

    Args:
        q_BTNH: T is a multiple of 128, unless interpreted.
        k_BSKH: S = T.
        v_BSKH: likewise.
        segment_ids_BT: see `AttentionMask`.
        scale: factor of each product of a query and a key.
        interpreted: run the kernel's program in Python, on any device, for tests.
    """
    # Pallas takes a second to import, and only a GPU needs it.
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    groups = q_BTNH.shape[2] // k_BSKH.shape[2]
    k_BSNH, v_BSNH = (jnp.repeat(x_BSKH, groups, axis=2) for x_BSKH in (k_BSKH, v_BSKH))
    tile = min(_TILE, q_BTNH.shape[1])
    # Four tiles of the backward pass are in registers at once; 32 is what Pallas itself takes.
    small = min(32, tile)
    sizes = BlockSizes(tile, tile, small, small, small, small)

    def attend(
        q_BTNH: jax.Array, k_BSNH: jax.Array, v_BSNH: jax.Array, segment_ids_BT: jax.Array | None
    ) -> jax.Array:
        return mha(
            q_BTNH,
            k_BSNH,
            v_BSNH,
            segment_ids_BT,
            sm_scale=scale,
            causal=True,
            block_sizes=sizes,
            interpret=interpreted,
        )

    out_BTNH = attend_on_shards(attend, q_BTNH, k_BSNH, v_BSNH, segment_ids_BT)
    if segment_ids_BT is not None:
        # Padding sees padding in the kernel.
        out_BTNH = jnp.where(segment_ids_BT[:, :, None, None] != 0, out_BTNH, 0)
    return out_BTNH
