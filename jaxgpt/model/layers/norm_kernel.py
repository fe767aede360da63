"""A norm, and the gradients of it and of the residual stream, as kernels for NVIDIA GPUs.

XLA reads the gradients twice, once for the input's gradient and once for the scale's. Here one
kernel does each pass, and reads and writes every array once. The kernels are after those of Liger
Kernel (arXiv:2410.10989, section 3.2): a program has one row forward and several backward, and adds
up the gradient of the scale over its rows.

Axes: N tokens of all rows, D width, C the width filled up to a power of two, P programs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxgpt.model.layers.placement import is_in_stage, mesh_axes, placement
from jaxgpt.runtime.target import compile_target

# Names of the kernels in a compiled program.
NORM, NORM_GRADIENT = "norm", "norm_gradient"
# Widest rows: a program holds one of each array in its registers.
_WIDEST = 8192
# Rows of a program of the backward pass: fewer write more sums, more leave multiprocessors idle.
_FEWEST_ROWS, _MOST_ROWS = 8, 64
# Warps that the programs of the backward pass have in all, where there are rows enough: 32 for each
# of the 132 multiprocessors of an H100, half of what it can hold.
_WARPS = 132 * 32
_DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)
# Axes of the rows; no device has a part of one. What all rows share is everywhere.
_AXES, _SHARED = ("batch", "time", None), PartitionSpec()


class NormSettings(NamedTuple):
    """Static settings of the kernels.

    Attributes:
        centred: whether the mean is subtracted.
        eps: constant added to the mean square.
        has_bias: whether a bias is added.
        dtype: type of the normalised rows.
    """

    centred: bool
    eps: float
    has_bias: bool
    dtype: Any


def refuses_norm_kernel(x: jax.Array) -> bool:
    """Return whether the kernels cannot normalise `x` where the program is to run."""
    target, mesh = compile_target(), jax.sharding.get_abstract_mesh()
    runs = target.compute_capability >= 8.0 or target.interprets_kernels
    return (
        not runs
        or x.ndim != 3
        or x.shape[-1] > _WIDEST
        or x.dtype not in _DTYPES
        # The kernels are not marked as different in each stage, which JAX asks for there.
        or is_in_stage()
        # Without rules nobody says where rows lie.
        or (mesh.size > 1 and placement(x.shape, _AXES) is None)
    )


def normalise(
    settings: NormSettings, x: jax.Array, scale_D: jax.Array, bias_D: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Return `x`, and its norm in the type of the settings.

    Args:
        settings: the norm's.
        x: [B, T, D].
        scale_D: factor of the normalised rows.
        bias_D: added to the result; None for none.
    """

    def run(x: jax.Array, scale_D: jax.Array, bias_D: Any) -> tuple[jax.Array, jax.Array]:
        # XLA lets cuBLAS add a product to `x` where `x` lies, and copies it before that, unless it
        # sees that one and the same array has other readers. A reshape of its own hides them.
        x_ND = lax.optimization_barrier(_flat(x))
        y_ND = _forward(settings, x_ND, scale_D, bias_D)
        return x_ND.reshape(x.shape), y_ND.reshape(x.shape)

    rows = _rows(x)
    run = _on_shards(run, x, (rows, _SHARED, _SHARED), (rows, rows))
    return run(x, scale_D, bias_D)


def normalise_backward(
    settings: NormSettings,
    x: jax.Array,
    scale_D: jax.Array,
    added: jax.Array | None,
    dy: jax.Array,
) -> tuple[jax.Array, ...]:
    """Return gradients: of `x`, and float32 ones of the scale and, if there is one, the bias.

    Args:
        settings: the norm's.
        x: as for `normalise`.
        scale_D: as for `normalise`.
        added: gradient of `x` from elsewhere, which is added; None for none.
        dy: gradient of the norm.
    """

    def run(x: jax.Array, scale_D: jax.Array, added: Any, dy: jax.Array) -> Any:
        dx_ND, *terms = _backward(settings, _flat(x), scale_D, _flat(added), _flat(dy))
        return dx_ND.reshape(x.shape), *terms

    rows = _rows(x)
    parts = (PartitionSpec(mesh_axes(rows) or None),) * (1 + settings.has_bias)
    run = _on_shards(run, x, (rows, _SHARED, rows, rows), (rows, *parts))
    dx, *terms = run(x, scale_D, added, dy)
    return dx, *(jnp.sum(terms_PD, axis=0) for terms_PD in terms)


def _rows(x: jax.Array) -> PartitionSpec:
    """Return where rows lie on the mesh."""
    return placement(x.shape, _AXES) or PartitionSpec()


def _on_shards(run: Any, x: jax.Array, in_specs: Any, out_specs: Any) -> Any:
    """Let each device normalise its own rows: the compiler cannot split a kernel's program."""
    if placement(x.shape, _AXES) is None:
        return run
    return jax.shard_map(run, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _flat(x: Any) -> Any:
    return None if x is None else x.reshape(-1, x.shape[-1])


class _Row:
    """A row of the arrays of a kernel: its columns in registers, and those that there are."""

    def __init__(self, settings: NormSettings, number: Any, shape: tuple[int, int]) -> None:
        self.settings, self.number, (num_rows, self.width) = settings, number, shape
        self.num_columns = _filled_up(self.width)
        self.is_column_C = jnp.arange(self.num_columns) < self.width
        self.mask_C = self.is_column_C & (number < num_rows)

    def load(self, array_ND: Any) -> jax.Array:
        """Return the row of an array, float32 [C], with zeros where there is nothing."""
        return _load(array_ND.at[self.number, self._columns()], self.mask_C)

    def load_shared(self, array_D: Any) -> jax.Array:
        """Return what all rows share, float32 [C]."""
        return _load(array_D.at[self._columns()], self.is_column_C)

    def store(self, array_ND: Any, values_C: jax.Array) -> None:
        """Write the row of an array, rounded to the array's type."""
        from jax.experimental.pallas import triton

        here = array_ND.at[self.number, self._columns()]
        triton.store(here, values_C.astype(array_ND.dtype), mask=self.mask_C)

    def normalise(self, x_C: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the row with mean square 1, and the factor that gave it."""
        if self.settings.centred:
            x_C = jnp.where(self.mask_C, x_C - jnp.sum(x_C) / self.width, 0.0)
        factor = lax.rsqrt(jnp.sum(x_C * x_C) / self.width + self.settings.eps)
        return x_C * factor, factor

    def _columns(self) -> Any:
        from jax.experimental import pallas as pl

        return pl.ds(0, self.num_columns)


def _load(here: Any, mask_C: jax.Array) -> jax.Array:
    from jax.experimental.pallas import triton

    return triton.load(here, mask=mask_C, other=0).astype(jnp.float32)


def _forward(settings: NormSettings, x_ND: jax.Array, scale_D: jax.Array, bias_D: Any) -> jax.Array:
    """Return the norm [N, D]."""
    # Pallas takes a second to import, and only a GPU needs it.
    from jax.experimental import pallas as pl

    def run(x_ND: Any, scale_D: Any, *others: Any) -> None:
        row = _Row(settings, pl.program_id(0), x_ND.shape)
        y_C = row.normalise(row.load(x_ND))[0] * row.load_shared(scale_D)
        if settings.has_bias:
            y_C = y_C + row.load_shared(others[0])
        row.store(others[-1], y_C)

    return pl.pallas_call(
        run,
        grid=(x_ND.shape[0],),
        out_shape=jax.ShapeDtypeStruct(x_ND.shape, settings.dtype),
        name=NORM,
        **_how_to_compile(x_ND.shape[1]),
    )(*_present(x_ND, scale_D, bias_D))


def _backward(
    settings: NormSettings, x_ND: jax.Array, scale_D: jax.Array, added_ND: Any, dy_ND: jax.Array
) -> Any:
    """Return the gradient of `x` [N, D], and terms of those of scale and bias [P, D]."""
    from jax.experimental import pallas as pl

    num_tokens, width = x_ND.shape
    num_rows = rows_of_program(num_tokens, width)
    num_programs = -(-num_tokens // num_rows)
    has_added, num_sums = added_ND is not None, 1 + settings.has_bias

    def run(x_ND: Any, scale_D: Any, dy_ND: Any, *others: Any) -> None:
        added_ND, dx_ND = (others if has_added else (None, *others))[:2]
        program, columns = pl.program_id(0), _Row(settings, 0, x_ND.shape)
        scale_C = columns.load_shared(scale_D)

        def add(place: Any, so_far: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            row = _Row(settings, program * num_rows + place, x_ND.shape)
            y_C, factor = row.normalise(row.load(x_ND))
            dy_C = row.load(dy_ND)
            dn_C = dy_C * scale_C
            dx_C = dn_C - y_C * (jnp.sum(dn_C * y_C) / width)
            if settings.centred:
                dx_C = dx_C - jnp.sum(dn_C) / width
            dx_C = dx_C * factor
            row.store(dx_ND, dx_C if added_ND is None else dx_C + row.load(added_ND))
            # Terms of the scale's gradient, and of the bias'.
            return tuple(map(jnp.add, so_far, (dy_C * y_C, dy_C)))

        zeros_C = jnp.zeros(columns.num_columns, jnp.float32)
        sums = lax.fori_loop(0, num_rows, add, (zeros_C,) * num_sums)
        for terms_PD, sum_C in zip(others[-num_sums:], sums, strict=True):
            _Row(settings, program, terms_PD.shape).store(terms_PD, sum_C)

    terms = (jax.ShapeDtypeStruct((num_programs, width), jnp.float32),) * num_sums
    return pl.pallas_call(
        run,
        grid=(num_programs,),
        out_shape=(jax.ShapeDtypeStruct(x_ND.shape, x_ND.dtype), *terms),
        name=NORM_GRADIENT,
        **_how_to_compile(width),
    )(*_present(x_ND, scale_D, dy_ND, added_ND))


def rows_of_program(num_tokens: int, width: int) -> int:
    """Return how many rows a program of the backward pass takes."""
    enough = -(-num_tokens * _num_warps(width) // _WARPS)
    return min(max(enough, _FEWEST_ROWS), _MOST_ROWS)


def _num_warps(width: int) -> int:
    # A thread has 8 numbers of each array, 16 bytes of bfloat16, or 16 of a wide row.
    return max(1, min(16, _filled_up(width) // (8 * 32)))


def _filled_up(width: int) -> int:
    return 1 << (width - 1).bit_length()


def _present(*arrays: Any) -> list[Any]:
    return [array for array in arrays if array is not None]


def _how_to_compile(width: int) -> dict[str, Any]:
    """Return arguments of `pallas_call`."""
    from jax.experimental.pallas import triton

    if compile_target().interprets_kernels:
        return {"interpret": True}
    params = triton.CompilerParams(num_warps=_num_warps(width), num_stages=1)
    return {"compiler_params": params}
