"""`OfExperts`: a parameter of all experts, which a layer uses as if it were one expert's.

Axes: P rows, M tiles, E experts, I inputs, O outputs.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.model.layers.grouped_matmul import Tiles, multiply_groups
from jaxgpt.model.layers.placement import placement


class OfExperts:
    """A parameter of all experts in the place of one expert's, for rows that stand in tiles.

    It is no array. `matmul.project` multiplies with it; another parameter (a bias) becomes one of
    each row by `astype`, which a layer calls before it is used.

    Attributes:
        stacked: the parameters of all experts, [E, ...].
        tiles: experts of the rows.
        num_rows: P.
        rules: the names of axes that split them, outside of what is split by hand already.
    """

    def __init__(self, stacked: jax.Array, tiles: Tiles, num_rows: int, rules: Any) -> None:
        self.stacked, self.tiles, self.num_rows, self.rules = stacked, tiles, num_rows, rules

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one expert's parameter."""
        return self.stacked.shape[1:]

    @property
    def dtype(self) -> Any:
        """Type of the parameter."""
        return self.stacked.dtype

    def multiply(
        self,
        x: jax.Array,
        num_inputs: int,
        transposed: bool,
        axes: tuple[str | None, ...],
        dtype: Any,
    ) -> jax.Array:
        """Multiply each row with its expert's kernel.

        Args:
            x: [..., I...], of P rows in all.
            num_inputs: number of contracted axes.
            transposed: whether the kernel's input axes come last.
            axes: names of the kernel's axes.
            dtype: type of the result.
        """
        num_first = len(self.shape) - num_inputs if transposed else num_inputs
        num_leading = x.ndim - num_inputs
        outputs = self.shape[:num_first] if transposed else self.shape[num_first:]
        kernels = self.stacked.reshape(self.stacked.shape[0], math.prod(self.shape[:num_first]), -1)
        with nn.logical_axis_rules(self.rules):
            placed = placement(self.shape, axes) or (None,) * len(self.shape)
        # Of several axes that become one, the first can be split.
        spec = (placed[0], placed[num_first])
        x_PI = x.reshape(self.num_rows, -1)
        y_PO = multiply_groups(x_PI, kernels, self.tiles, transposed, dtype, spec)
        return y_PO.reshape(*x.shape[:num_leading], *outputs)

    def astype(self, dtype: Any) -> jax.Array:
        """Return the parameter of each row's expert, [P, ...]; of a row without one, zeros."""
        num_tiles = self.tiles.experts_M.shape[0]
        is_of_ME = self.tiles.experts_M[:, None] == jnp.arange(self.stacked.shape[0])
        is_of = is_of_ME.reshape(*is_of_ME.shape, *[1] * len(self.shape))
        # Sums, not a lookup: its gradient would add up in whatever order.
        of_tiles = jnp.sum(jnp.where(is_of, self.stacked.astype(dtype), 0), axis=1)
        return jnp.repeat(of_tiles, self.num_rows // num_tiles, axis=0)
