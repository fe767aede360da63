"""Products of rows, sorted by expert, each with its expert's matrix, as kernels for NVIDIA GPUs.

Rows stand in tiles of one expert each. A kernel takes a tile of rows and the matrix of its expert
from where it lies: no matrix is copied, and the operations are those of the experts that were
chosen. XLA's own product of groups (`jax.lax.ragged_dot`) multiplies every row with every expert's
matrix on an NVIDIA GPU (jax 0.10.2 and 0.11.2).

Every sum has one order: a kernel adds up a tile of its result alone, term after term.

Axes: P rows, M tiles, R rows of a tile, E experts, I inputs, O outputs.
"""

import functools
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxgpt.model.layers.dtypes import accumulator_dtype
from jaxgpt.runtime.target import compile_target

# Mesh axes that split the rows and the columns of a matrix.
Spec = tuple[Any, Any]
# Names of the kernels in a compiled program.
PRODUCT, OUTER_PRODUCT = "grouped_product", "grouped_outer_product"
# Fewest rows and columns that the matrix units of a GPU multiply.
FEWEST_ROWS = 16
# Most rows and columns of a result that a kernel adds up, and bytes of the terms that it takes at a
# time: three times that for each row and column fits into the shared memory of any card.
_MOST, _STEP_BYTES = 128, 128


class Tiles(NamedTuple):
    """Experts of the tiles of rows.

    Attributes:
        experts_M: int32, in ascending order; E for a tile without rows, whose products are 0.
        starts_F: int32 [E + 1], the first tile of each expert and the end of the last one's.
    """

    experts_M: jax.Array
    starts_F: jax.Array


def has_grouped_kernels() -> bool:
    """Return whether the program is for a device that these kernels run on."""
    target = compile_target()
    return target.compute_capability >= 8.0 or target.interprets_kernels


def multiply_groups(
    x_PI: jax.Array,
    kernels_EIO: jax.Array,
    tiles: Tiles,
    transposed: bool,
    dtype: Any,
    spec: Spec = (None, None),
) -> jax.Array:
    """Multiply each row with the matrix of its tile's expert; return [P, O] in `dtype`.

    The product takes operands in the dtype of `x_PI` and adds up in float32, and so does its
    gradient, as `matmul.project` does. The gradient of the matrices is never rounded below their
    own dtype.

    Args:
        x_PI: rows; P is a multiple of the number of tiles.
        kernels_EIO: matrices of any float dtype, or int8 like `x_PI`; [E, O, I] if `transposed`.
        tiles: of the rows.
        transposed: whether the matrices have their inputs last.
        dtype: type of the result.
        spec: mesh axes that split a matrix's rows and columns; the compiler cannot split a kernel's
            program, so each device runs its own on its part.
    """
    result = _multiply(x_PI, kernels_EIO, tiles, transposed, jnp.dtype(dtype), spec)
    return cast(jax.Array, result)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _multiply(
    x_PI: jax.Array,
    kernels_EIO: jax.Array,
    tiles: Tiles,
    transposed: bool,
    dtype: Any,
    spec: Spec,
) -> jax.Array:
    run = _on_shards(
        functools.partial(_product, transposed=transposed, dtype=dtype), spec, transposed
    )
    return run(x_PI, kernels_EIO.astype(x_PI.dtype), tiles)


def _multiply_forward(
    x_PI: jax.Array,
    kernels_EIO: jax.Array,
    tiles: Tiles,
    transposed: bool,
    dtype: Any,
    spec: Spec,
) -> Any:
    saved = (x_PI, kernels_EIO, tiles)
    return _multiply(x_PI, kernels_EIO, tiles, transposed, dtype, spec), saved


def _multiply_backward(
    transposed: bool, dtype: Any, spec: Spec, saved: Any, dy_PO: jax.Array
) -> Any:
    x_PI, kernels_EIO, tiles = saved
    dy_PO = dy_PO.astype(x_PI.dtype)
    dx_PI = _multiply(dy_PO, kernels_EIO, tiles, not transposed, x_PI.dtype, spec)
    first, second = (dy_PO, x_PI) if transposed else (x_PI, dy_PO)
    run = functools.partial(_outer_product, dtype=kernels_EIO.dtype)
    if any(spec):
        specs = (PartitionSpec(None, spec[0]), PartitionSpec(None, spec[1]), PartitionSpec())
        run = _shard(run, spec, specs, PartitionSpec(None, *spec))
    return dx_PI, run(first, second, tiles), None


_multiply.defvjp(_multiply_forward, _multiply_backward)


def _on_shards(run: Any, spec: Spec, transposed: bool) -> Any:
    """Let each device run a product on its part of the matrices, and add up what they share."""
    if not any(spec):
        return run
    inputs, outputs = reversed(spec) if transposed else spec

    def run_here(x_PI: jax.Array, kernels: jax.Array, tiles: Tiles) -> jax.Array:
        y_PO = run(x_PI, kernels, tiles)
        return y_PO if inputs is None else lax.psum(y_PO, inputs)

    specs = (PartitionSpec(None, inputs), PartitionSpec(None, *spec), PartitionSpec())
    return _shard(run_here, spec, specs, PartitionSpec(None, outputs))


def _shard(run: Any, spec: Spec, in_specs: Any, out_specs: Any) -> Any:
    names = {name for one in spec if one for name in ((one,) if isinstance(one, str) else one)}
    return jax.shard_map(
        run, in_specs=in_specs, out_specs=out_specs, axis_names=names, check_vma=False
    )


def _product(
    x_PI: jax.Array, kernels: jax.Array, tiles: Tiles, transposed: bool, dtype: Any
) -> jax.Array:
    """Return [P, O]; `kernels` [E, I, O], or [E, O, I] if `transposed`, in the dtype of `x_PI`."""
    # Pallas takes a second to import, and only a GPU needs it.
    from jax.experimental import pallas as pl

    num_experts, num_outputs = kernels.shape[0], kernels.shape[1 if transposed else 2]
    x_PI, kernels = _whole_tiles(x_PI, 1), _whole_tiles(kernels, 1, 2)
    num_rows, num_inputs = x_PI.shape
    num_tiles, padded_outputs = tiles.experts_M.shape[0], kernels.shape[1 if transposed else 2]
    rows, columns = num_rows // num_tiles, _columns(padded_outputs)
    step = math.gcd(num_inputs, _STEP_BYTES // x_PI.dtype.itemsize)

    def run(experts_M: Any, x_RI: Any, kernels: Any, y_RO: Any) -> None:
        expert, outputs = experts_M[pl.program_id(1)], pl.ds(pl.program_id(0) * columns, columns)

        def add(place: Any, sum_RO: jax.Array) -> jax.Array:
            inputs = pl.ds(place * step, step)
            kernel = (
                kernels[expert, outputs, inputs] if transposed else kernels[expert, inputs, outputs]
            )
            return sum_RO + _dot(x_RI[:, inputs], kernel, 1, 1 if transposed else 0)

        zero_RO = jnp.zeros((rows, columns), accumulator_dtype(x_PI.dtype))

        num_steps = (expert < num_experts).astype(jnp.int32) * (num_inputs // step)
        sum_RO = lax.fori_loop(0, num_steps, add, zero_RO)
        y_RO[...] = sum_RO.astype(y_RO.dtype)

    y_PO = pl.pallas_call(
        run,
        grid=(padded_outputs // columns, num_tiles),
        in_specs=[
            pl.BlockSpec(),
            pl.BlockSpec((rows, num_inputs), lambda column, tile: (tile, 0)),
            pl.BlockSpec(),
        ],
        out_specs=pl.BlockSpec((rows, columns), lambda column, tile: (tile, column)),
        out_shape=jax.ShapeDtypeStruct((num_rows, padded_outputs), dtype),
        name=PRODUCT,
        **_how_to_compile(),
    )(tiles.experts_M, x_PI, kernels)
    return y_PO[:, :num_outputs]


def _outer_product(x_PI: jax.Array, dy_PO: jax.Array, tiles: Tiles, dtype: Any) -> jax.Array:
    """Sum `x dy` over the rows of each expert: [E, I, O] in `dtype`."""
    from jax.experimental import pallas as pl

    num_inputs, num_outputs = x_PI.shape[1], dy_PO.shape[1]
    x_PI, dy_PO = _whole_tiles(x_PI, 1), _whole_tiles(dy_PO, 1)
    num_experts, num_tiles = tiles.starts_F.shape[0] - 1, tiles.experts_M.shape[0]
    rows = x_PI.shape[0] // num_tiles
    inputs, outputs = _columns(x_PI.shape[1]), _columns(dy_PO.shape[1])
    step = math.gcd(rows, _STEP_BYTES // x_PI.dtype.itemsize)

    def run(starts_F: Any, x_PI: Any, dy_PO: Any, sum_IO: Any) -> None:
        expert = pl.program_id(2)

        def add(place: Any, total_IO: jax.Array) -> jax.Array:
            here = pl.ds(place * step, step)
            return total_IO + _dot(x_PI[here, :], dy_PO[here, :], 0, 0)

        first, end = (starts_F[expert + one] * (rows // step) for one in (0, 1))
        zero_IO = jnp.zeros((inputs, outputs), jnp.float32)
        sum_IO[...] = lax.fori_loop(first, end, add, zero_IO).astype(sum_IO.dtype)

    sums_EIO = pl.pallas_call(
        run,
        grid=(dy_PO.shape[1] // outputs, x_PI.shape[1] // inputs, num_experts),
        in_specs=[
            pl.BlockSpec(),
            pl.BlockSpec((x_PI.shape[0], inputs), lambda column, row, expert: (0, row)),
            pl.BlockSpec((x_PI.shape[0], outputs), lambda column, row, expert: (0, column)),
        ],
        out_specs=pl.BlockSpec(
            (None, inputs, outputs), lambda column, row, expert: (expert, row, column)
        ),
        out_shape=jax.ShapeDtypeStruct((num_experts, x_PI.shape[1], dy_PO.shape[1]), dtype),
        name=OUTER_PRODUCT,
        **_how_to_compile(),
    )(tiles.starts_F, x_PI, dy_PO)
    return sums_EIO[:, :num_inputs, :num_outputs]


def _dot(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    contracted = (((left_axis,), (right_axis,)), ((), ()))
    dtype = accumulator_dtype(left.dtype)
    return lax.dot_general(left, right, contracted, preferred_element_type=dtype)


def _how_to_compile() -> dict[str, Any]:
    """Return arguments of `pallas_call`."""
    from jax.experimental.pallas import triton

    if compile_target().interprets_kernels:
        return {"interpret": True}
    return {"compiler_params": triton.CompilerParams(num_warps=8, num_stages=3)}


def _whole_tiles(array: jax.Array, *axes: int) -> jax.Array:
    """Fill axes up with zeros to what the matrix units take."""
    missing = [
        -array.shape[axis] % FEWEST_ROWS if axis in axes else 0 for axis in range(array.ndim)
    ]
    return jnp.pad(array, [(0, more) for more in missing]) if any(missing) else array


def _columns(size: int) -> int:
    return math.gcd(size, _MOST)
