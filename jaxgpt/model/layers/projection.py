"""`Projection`, the only weight matmul of the model, and what its parts are built with.

A kernel keeps the axes of what it maps between, `[D, N, H]` rather than `[D, N * H]`, so that the
model never reshapes and every axis can be named and placed on a mesh.

Axes: ... any leading axes (B batch, T time), I contracted input axes, O output axes, D model.
"""

import dataclasses
import functools
import math
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxgpt.config import configclass
from jaxgpt.model.cpu.small_batch_matmul import TransposedKernel
from jaxgpt.model.layers.of_experts import OfExperts
from jaxgpt.model.layers.placement import (
    constrain_saved,
    constrain_storage,
    gather_for_use,
    placement,
)
from jaxgpt.runtime.target import compile_target

# One row is multiplied as this many on a GPU; its tiles have no fewer.
_FEWEST_GPU_ROWS = 8
# The name that rematerialisation policies know the results of weight matmuls by.
PROJECTION = "projection"


@configclass
class Initialization:
    """Scales of the initial weights (Radford et al. 2019, section 2.3).

    Every kernel and table is N(0, std^2), but for the head and a table tied to it
    (`model/heads.py`); the two projections of a layer that write to the residual stream are divided
    by sqrt(2 * num_layers), so that its variance after all layers does not grow with their number.
    Biases start at 0 and norms at the identity.
    """

    std: float = 0.02
    """Standard deviation of the initial weights."""
    zero_output: bool = False
    """Start of the projections that write to the residual stream at zero, so that layers begin as
    the identity."""

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be positive, not {self.std}")


@configclass
class Dropout:
    """Shares of activations set to zero while training (Srivastava et al. 2014)."""

    embedding: float = 0.0
    """Dropout rate of the sum of token and position embeddings."""
    attention: float = 0.0
    """Dropout rate of the attention probabilities; rules out the fused kernels."""
    residual: float = 0.0
    """Dropout rate of what attention and feed-forward add to the residual stream."""

    def __post_init__(self) -> None:
        for name in ("embedding", "attention", "residual"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """What every part of a model is built with, whatever its variant."""

    d_model: int
    num_layers: int
    param_dtype: str
    compute_dtype: str
    initialization: Initialization
    dropout: Dropout

    @property
    def residual_output_init(self) -> nn.initializers.Initializer:
        """Initialiser of the projections that write to the residual stream."""
        if self.initialization.zero_output:
            return nn.initializers.zeros
        return nn.initializers.normal(self.initialization.std / math.sqrt(2 * self.num_layers))

    @property
    def kernel_init(self) -> nn.initializers.Initializer:
        """Initialiser of every other kernel of a layer."""
        return nn.initializers.normal(self.initialization.std)


def add_param(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    settings: LayerSettings,
) -> jax.Array:
    """Give `module` a parameter whose axes have logical names; return its array."""
    dtype = jnp.dtype(settings.param_dtype)
    # No rules: linen would apply those of activations to a parameter while it is made.
    named = nn.with_logical_partitioning(init, axes, rules=())
    return cast(jax.Array, module.param(name, named, shape, dtype))


def accumulator_dtype(dtype: Any) -> Any:
    """Type that sums of `dtype` are kept in: float32, or wider if `dtype` is."""
    return jnp.promote_types(dtype, jnp.float32)


def rounded_output_dtype(dtype: Any) -> Any:
    """Return the type that a product comes in whose result is rounded to `dtype` at once.

    A GPU's kernels add up in float32 and round once, at the end; where devices share a sum, they
    exchange half the bytes. XLA's CPU backend is slower unless it returns float32.
    """
    return accumulator_dtype(dtype) if compile_target().is_cpu else jnp.dtype(dtype)


Axes = tuple[str | None, ...]


def project(
    x: jax.Array,
    kernel: jax.Array | TransposedKernel | OfExperts,
    num_inputs: int = 1,
    transposed: bool = False,
    axes: Axes = (),
    is_rounded: bool = False,
) -> jax.Array:
    """Contract the last `num_inputs` axes of `x` with the kernel's input axes.

    The product takes operands in the dtype of `x` and accumulates and returns float32. So does
    its gradient, with the cotangent cast to the dtype of `x`: automatic differentiation would mix
    a float32 cotangent with bfloat16 operands and fall off the fast path. A float32 kernel gets a
    float32 gradient that was never rounded.

    A kernel split over devices is gathered in the dtype of `x`, and again for the backward pass:
    what is saved between the two is the split one.

    Args:
        x: [..., I...].
        kernel: [I..., O...], or [O..., I...] if `transposed`, of any float dtype; as
            `TransposedKernel` where no gradient is needed, as `OfExperts` for the rows of several.
        num_inputs: number of contracted axes.
        transposed: whether the kernel's input axes come last.
        axes: names of the kernel's axes, by which it is placed; empty to leave that open.
        is_rounded: whether the caller rounds the result to the dtype of `x` at once.

    Returns:
        [..., O...], float32 (or wider, if `x` is); of the dtype of `x` where `is_rounded` and that
        is faster.
    """
    if isinstance(kernel, TransposedKernel):
        if kernel.is_faster_for(x, num_inputs):
            return kernel.multiply(x, num_inputs, transposed)
        kernel = kernel.kernel
    dtype = (rounded_output_dtype if is_rounded else accumulator_dtype)(x.dtype)
    if isinstance(kernel, OfExperts):
        return kernel.multiply(x, num_inputs, transposed, axes, dtype)
    return cast(jax.Array, _project(x, kernel, num_inputs, transposed, axes, dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _project(
    x: jax.Array, kernel: jax.Array, num_inputs: int, transposed: bool, axes: Axes, dtype: Any
) -> jax.Array:
    kernel_inputs, _ = _kernel_axes(kernel, num_inputs, transposed)
    num_leading = x.ndim - num_inputs
    inputs, num_rows = x, math.prod(x.shape[:num_leading])
    if num_rows == 1 and not compile_target().is_cpu:
        # XLA's GPU compiler turns the product of one row into a multiplication, whose result is as
        # large as the kernel, and a sum. Rows are read for nothing; the kernel is read once.
        inputs = jnp.broadcast_to(x, (_FEWEST_GPU_ROWS, *x.shape[1:]))
    y = lax.dot_general(
        inputs,
        gather_for_use(kernel, x.dtype, *axes),
        ((tuple(range(num_leading, x.ndim)), kernel_inputs), ((), ())),
        preferred_element_type=dtype,
    )
    return y[:1] if inputs is not x else y


def _kernel_axes(
    kernel: jax.Array, num_inputs: int, transposed: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input axes and output axes of a kernel."""
    if transposed:
        num_outputs = kernel.ndim - num_inputs
        return tuple(range(num_outputs, kernel.ndim)), tuple(range(num_outputs))
    return tuple(range(num_inputs)), tuple(range(num_inputs, kernel.ndim))


def _project_forward(
    x: jax.Array, kernel: jax.Array, num_inputs: int, transposed: bool, axes: Axes, dtype: Any
) -> Any:
    saved = (x, constrain_saved(kernel, *axes))
    return _project(x, kernel, num_inputs, transposed, axes, dtype), saved


def _project_backward(
    num_inputs: int, transposed: bool, axes: Axes, dtype: Any, saved: Any, dy: jax.Array
) -> Any:
    x, kernel = saved
    dy = dy.astype(x.dtype)
    _, kernel_outputs = _kernel_axes(kernel, num_inputs, transposed)
    leading = tuple(range(x.ndim - num_inputs))
    dx = _project_back(dy, gather_for_use(kernel, x.dtype, *axes), kernel_outputs, len(leading))
    x_first = _puts_inputs_first(x, dy, len(leading), transposed)
    first, second = (x, dy) if x_first else (dy, x)
    dkernel = _sum_of_outer_products(first, second, len(leading))
    if x_first == transposed:
        dkernel = lax.optimization_barrier(dkernel)
        num_first = first.ndim - len(leading)
        dkernel = dkernel.transpose(*range(num_first, dkernel.ndim), *range(num_first))
    return dx.astype(x.dtype), constrain_storage(dkernel.astype(kernel.dtype), *axes)


_project.defvjp(_project_forward, _project_backward)


def _project_back(
    dy: jax.Array, kernel: jax.Array, kernel_outputs: tuple[int, ...], num_leading: int
) -> jax.Array:
    """Contract the output axes: [..., O...] to [..., I...].

    Several are made one: of more XLA's CPU backend transposes the kernel.
    """
    num_outputs = len(kernel_outputs)
    dy = dy.reshape(*dy.shape[:num_leading], -1)
    if kernel_outputs[0] == 0:
        kernel, output = kernel.reshape(-1, *kernel.shape[num_outputs:]), 0
    else:
        kernel, output = kernel.reshape(*kernel.shape[:-num_outputs], -1), kernel_outputs[0]
    return lax.dot_general(
        dy,
        kernel,
        (((num_leading,), (output,)), ((), ())),
        preferred_element_type=rounded_output_dtype(dy.dtype),
    )


def _puts_inputs_first(x: jax.Array, dy: jax.Array, num_leading: int, transposed: bool) -> bool:
    """Whether a kernel's gradient is made as [I..., O...].

    What is put first may have to be transposed, and the gradient if it comes out the other way
    than the kernel: the narrower is first where that moves fewer numbers.
    """
    if not compile_target().is_cpu:
        return not transposed
    num_rows = math.prod(x.shape[:num_leading])
    num_inputs, num_outputs = (math.prod(each.shape[num_leading:]) for each in (x, dy))
    if num_rows * abs(num_inputs - num_outputs) > num_inputs * num_outputs:
        return num_inputs <= num_outputs
    return not transposed


def _sum_of_outer_products(first: jax.Array, second: jax.Array, num_leading: int) -> jax.Array:
    """Sum over the leading axes: [..., X...] and [..., Y...] to [X..., Y...].

    XLA's CPU backend multiplies float32 matrices as they lie. Of arrays with more axes it writes
    the first one's transpose, for which it computes all that goes into it anew, column by column;
    of bfloat16 only then is the product a fast one.
    """
    multiply = functools.partial(
        lax.dot_general, preferred_element_type=accumulator_dtype(first.dtype)
    )
    leading = first.shape[:num_leading]
    split = placement(leading, ("batch", "time")) if num_leading == 2 else None
    # Rows whose tokens lie on several devices would have to be brought together.
    if first.dtype == jnp.bfloat16 or (split is not None and split[1] is not None):
        if num_leading == 1 and leading[0] % 2 == 0:
            first, second = (x.reshape(2, -1, *x.shape[1:]) for x in (first, second))
            num_leading = 2
        contracted = tuple(range(num_leading))
        return multiply(first, second, ((contracted, contracted), ((), ())))
    num_rows = math.prod(leading)
    product = multiply(
        first.reshape(num_rows, -1), second.reshape(num_rows, -1), (((0,), (0,)), ((), ()))
    )
    return product.reshape(*first.shape[num_leading:], *second.shape[num_leading:])


class Projection(nn.Module):
    """`y = x kernel (+ bias)`, from the last axes of `x` to new axes.

    Attributes:
        inputs: sizes of the axes of `x` that are contracted.
        outputs: sizes of the axes that replace them.
        axes: logical names of `inputs + outputs`.
        settings: dtypes and scales of the model.
        kernel_init: initialiser of the kernel.
        use_bias: whether to add a bias of shape `outputs`.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axes: tuple[str, ...]
    settings: LayerSettings
    kernel_init: nn.initializers.Initializer
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., *inputs] to [..., *outputs] in the compute dtype."""
        kernel = add_param(
            self, "kernel", self.kernel_init, self.inputs + self.outputs, self.axes, self.settings
        )
        compute_dtype = jnp.dtype(self.settings.compute_dtype)
        y = project(
            x.astype(compute_dtype),
            kernel,
            len(self.inputs),
            axes=self.axes,
            is_rounded=not self.use_bias,
        )
        if self.use_bias:
            axes = self.axes[len(self.inputs) :]
            zeros = nn.initializers.zeros
            bias = add_param(self, "bias", zeros, self.outputs, axes, self.settings)
            y = y + bias.astype(y.dtype)
        return checkpoint_name(y.astype(compute_dtype), PROJECTION)
