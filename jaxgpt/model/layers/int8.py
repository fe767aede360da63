"""Numbers in 8 bits: rounded to whole multiples of a scale, and weights that are kept so.

    x ~ code * scale,    scale = max |x| / 127,    code from -127 to 127

The largest is taken over the axes that a product adds up (Dettmers et al. 2022, arXiv:2208.07339,
section 2.1): a scale is then a factor of the whole sum. A product rounds its inputs too, a token at
a time, and multiplies codes with codes: the sums are integers, which have no rounding and no order,
and no weight is ever written out in a wider type.

Axes: ... any leading axes, B batch, T time, D model, I contracted input axes, O output axes.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxgpt.model.layers.dtypes import accumulator_dtype
from jaxgpt.model.layers.matmul import Axes, project

LARGEST_CODE = 127


def round_to_int8(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Return codes, int8 and shaped as `x`, and float32 scales without `axes`.

    A number is restored within half a scale.

    Args:
        x: finite numbers.
        axes: axes along which numbers share a scale.
    """
    x = x.astype(jnp.float32)
    scales = jnp.max(jnp.abs(x), axis=axes, keepdims=True) / LARGEST_CODE
    # The codes of zeros are zeros, whatever they are divided by.
    codes = jnp.round(x / jnp.where(scales > 0, scales, 1.0))
    return codes.astype(jnp.int8), jnp.squeeze(scales, axes)


class Int8Kernel(flax.struct.PyTreeNode):
    """A kernel or table in 8 bits, in place of its array; there is no gradient.

    Attributes:
        codes: int8, [I..., O...], or [O..., I...] if it is multiplied transposed.
        scales: float32 [O...].
    """

    codes: jax.Array
    scales: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that it stands for."""
        return self.codes.shape

    def multiply(
        self, x: jax.Array, num_inputs: int, transposed: bool, axes: Axes, dtype: Any
    ) -> jax.Array:
        """Return x [..., I...] times the kernel, [..., O...] in `dtype`; see `matmul.project`."""
        num_leading = x.ndim - num_inputs
        codes, scales = round_to_int8(x, tuple(range(num_leading, x.ndim)))
        sums = project(codes, self.codes, num_inputs, transposed, axes)
        scales = scales.reshape(*scales.shape, *[1] * (sums.ndim - num_leading))
        return (sums * scales * self.scales.astype(jnp.float32)).astype(dtype)

    def look_up(self, ids_BT: jax.Array, dtype: Any) -> jax.Array:
        """Return rows of a table [V, D], which has a scale for each row: x_BTD in `dtype`."""
        codes_BTD, scales_BT = (
            jnp.take(kept, ids_BT, axis=0, mode="clip") for kept in (self.codes, self.scales)
        )
        wide = accumulator_dtype(dtype)
        return (codes_BTD.astype(wide) * scales_BT[..., None].astype(wide)).astype(dtype)
