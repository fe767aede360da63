"""`Projection`, a weight matmul with its parameters, and what the model's parts are built with.

A kernel keeps the axes of what it maps between, `[D, N, H]` rather than `[D, N * H]`, so that the
model never reshapes and every axis can be named and placed on a mesh.

Axes: D model, N heads, H head.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta
from jax.ad_checkpoint import checkpoint_name

from jaxgpt.config import configclass
from jaxgpt.model.layers.adapters import NO_ADAPTER, Adapter, Site
from jaxgpt.model.layers.matmul import Axes

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
    """Settings that every part of a model is built with, in all variants."""

    d_model: int
    num_layers: int
    param_dtype: str
    compute_dtype: str
    initialization: Initialization
    dropout: Dropout
    adapter: Adapter = NO_ADAPTER

    @property
    def without_adapter(self) -> "LayerSettings":
        """Return the same settings for parts that are not adapted."""
        return dataclasses.replace(self, adapter=NO_ADAPTER)

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


def kept_param(module: nn.Module, name: str, init: Callable[..., Any], *arguments: Any) -> Any:
    """Return a tree of parameters as it is given to `apply`, or one from `init(key, *arguments)`.

    `module.param` would compare it leaf by leaf with what `init` returns, and refuse a kernel that
    is more than one array. The shape of each kernel is compared where a layer uses it.
    """
    if module.has_variable("params", name):
        return meta.unbox(module.get_variable("params", name))
    return module.param(name, init, *arguments)


def add_param(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    shape: tuple[int, ...],
    axes: Axes,
    settings: LayerSettings,
) -> jax.Array:
    """Give `module` a parameter whose axes have logical names; return its array."""
    dtype = jnp.dtype(settings.param_dtype)
    # No rules: linen would apply those of activations to a parameter while it is made.
    named = nn.with_logical_partitioning(init, axes, rules=())
    return cast(jax.Array, module.param(name, named, shape, dtype))


class Projection(nn.Module):
    """`y = x kernel (+ bias)`, from the last axes of `x` to new axes; adapted, if settings say so.

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
        x = x.astype(compute_dtype)
        y = self.settings.adapter.multiply(x, kernel, self._site())
        if self.use_bias:
            axes = self.axes[len(self.inputs) :]
            zeros = nn.initializers.zeros
            bias = add_param(self, "bias", zeros, self.outputs, axes, self.settings)
            y = y + bias.astype(y.dtype)
        return checkpoint_name(y.astype(compute_dtype), PROJECTION)

    def _site(self) -> Site:
        """Return what an adapter needs to know."""
        return Site(
            name=self.name or "",
            inputs=self.inputs,
            outputs=self.outputs,
            axes=self.axes,
            is_rounded=not self.use_bias,
            add_param=functools.partial(add_param, self, settings=self.settings),
            dropout_key=self._dropout_key if self.has_rng("dropout") else None,
        )

    def _dropout_key(self) -> jax.Array:
        return self.make_rng("dropout")
