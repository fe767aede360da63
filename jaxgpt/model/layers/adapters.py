"""Adapters: a few trainable numbers next to each frozen kernel of the blocks.

    LoRA   y = x W + s (x A) B                              W' = W + s A B
    DoRA   y = m / |W + s A B| * (x W + s (x A) B)          W' = m / |W + s A B| * (W + s A B)

B starts at zero, so that a fresh adapter changes nothing. The kernel needs no gradient, which is a
third of the products of a training step.

Axes: ... any leading axes, I inputs and O outputs of a projection, R rank of an adapter.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.config import Training, configclass
from jaxgpt.errors import ConfigError, did_you_mean
from jaxgpt.model.layers.low_rank import (
    RANK_AXIS,
    Product,
    contract,
    merge_low_rank,
    multiply_low_rank,
    multiply_merged,
)
from jaxgpt.model.layers.matmul import Axes, Kernel, project
from jaxgpt.model.layers.token_changes import TOKEN_CHANGES

LORA_A = "lora_a"
LORA_B = "lora_b"
# DoRA's m minus the norms of the frozen kernel.
MAGNITUDE_CHANGE = "magnitude_change"

_LEAST_SQUARE = 1e-30

AddParam = Callable[[str, nn.initializers.Initializer, tuple[int, ...], Axes], jax.Array]


class Site(NamedTuple):
    """A projection, as far as an adapter needs to know it.

    Attributes:
        name: of the projection, such as "query".
        inputs: sizes of the contracted axes.
        outputs: sizes of the axes that replace them.
        axes: logical names of `inputs + outputs`.
        is_rounded: see `project`.
        add_param: gives the projection a parameter (name, initialiser, shape, logical axes).
        dropout_key: makes a random key; None while there is no dropout.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axes: tuple[str, ...]
    is_rounded: bool
    add_param: AddParam
    dropout_key: Callable[[], jax.Array] | None

    @property
    def input_axes(self) -> tuple[str, ...]:
        """Names of the contracted axes."""
        return self.axes[: len(self.inputs)]

    @property
    def output_axes(self) -> tuple[str, ...]:
        """Names of the axes that replace them."""
        return self.axes[len(self.inputs) :]

    def multiply(self, x: jax.Array, kernel: Kernel) -> jax.Array:
        """Return x [..., I...] times the kernel [I..., O...]."""
        num_inputs = len(self.inputs)
        return project(x, kernel, num_inputs, axes=self.axes, is_rounded=self.is_rounded)


@configclass
class Adapter:
    """Base of the ways to train a model through a few parameters of its own."""

    @property
    def has_parameters(self) -> bool:
        """Return whether the model's own parameters are frozen, and others trained."""
        return True

    @property
    def changed_ids(self) -> tuple[int, ...]:
        """Ids whose rows of the embedding, and of an untied head, are trained."""
        return ()

    @property
    def leading_shape(self) -> tuple[int, ...]:
        """Sizes of the axes before all others in the adapter's arrays; () for one set of them."""
        return ()

    def check(self, allowed: frozenset[str], of_experts: frozenset[str]) -> None:
        """Refuse a model that cannot have the adapter.

        Args:
            allowed: names of the projections that can be adapted.
            of_experts: names of those in a feed-forward layer with experts, which cannot.

        Raises:
            ConfigError: says which projections to choose from.
        """

    def is_trainable(self, path: tuple[str, ...]) -> bool:
        """Return whether the parameter with this path in the model is trained."""
        raise NotImplementedError(f"{type(self).__name__} has no is_trainable")

    def multiply(self, x: jax.Array, kernel: Kernel, site: Site) -> jax.Array:
        """Return the result of a projection [..., O...] before its bias.

        Args:
            x: [..., I...] in the compute dtype.
            kernel: [I..., O...].
            site: the projection.
        """
        raise NotImplementedError(f"{type(self).__name__} has no multiply")

    def merge(self, kernel: jax.Array, own: Mapping[str, jax.Array]) -> jax.Array:
        """Return the kernel [I..., O...] that does alone what it does with the adapter.

        Args:
            kernel: [I..., O...].
            own: the adapter's parameters at this projection, by name.
        """
        raise NotImplementedError(f"{type(self).__name__} has no merge")


@configclass
class NoAdapter(Adapter):
    """No adapter: all parameters of the model are trained."""

    @property
    def has_parameters(self) -> bool:
        return False

    def is_trainable(self, path: tuple[str, ...]) -> bool:
        return True

    def multiply(self, x: jax.Array, kernel: Kernel, site: Site) -> jax.Array:
        return site.multiply(x, kernel)


NO_ADAPTER = NoAdapter()


@configclass
class LowRank(Adapter):
    """Base of the adapters that add a product of two thin matrices to each kernel."""

    rank: int = 16
    """Rank of the change of each kernel."""
    alpha: float = 32.0
    """Factor of the change, which is multiplied with alpha / rank."""
    rank_stabilized: bool = False
    """Division of alpha by the square root of the rank instead, so that large ranks learn as fast
    as small ones (rsLoRA, arXiv:2312.03732)."""
    targets: tuple[str, ...] | None = None
    """Names of the adapted projections, such as ("query", "value"); None for all projections of the
    blocks."""
    dropout: Training[float] = 0.0
    """Dropout rate of the adapter's inputs."""
    token_ids: tuple[int, ...] | None = None
    """Ids whose rows of the embedding, and of an untied head, are trained as well; None: those of
    the chat template, if the base has read documents only; () for none."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        if self.targets is not None and not self.targets:
            raise ValueError("targets must name at least one projection; None is all of them")
        ids = self.changed_ids
        if len(set(ids)) != len(ids) or min(ids, default=0) < 0:
            raise ValueError(f"token_ids must be different ids from 0 on, not {ids}")

    @property
    def changed_ids(self) -> tuple[int, ...]:
        return self.token_ids or ()

    @property
    def scale(self) -> float:
        """Factor of A B."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def check(self, allowed: frozenset[str], of_experts: frozenset[str]) -> None:
        listed = ", ".join(map(repr, sorted(allowed)))
        if of_experts and (self.targets is None or of_experts & set(self.targets) - allowed):
            raise ConfigError(
                f"a feed-forward layer with experts cannot be adapted; choose from the other "
                f"projections: adapter.targets=({listed})"
            )
        for name in self.targets or ():
            if name not in allowed:
                raise ConfigError(
                    f"adapter.targets names {name!r}, which is no projection of this model's "
                    f"blocks; they are {listed}{did_you_mean(name, allowed)}"
                )

    def is_target(self, name: str) -> bool:
        """Return whether the projections of a name are adapted."""
        return self.targets is None or name in self.targets

    def is_trainable(self, path: tuple[str, ...]) -> bool:
        return path[-1] in (LORA_A, LORA_B, MAGNITUDE_CHANGE, TOKEN_CHANGES)

    def _add_matrices(self, site: Site) -> tuple[jax.Array, jax.Array]:
        """Give a projection A [I..., R] and B [R, O...].

        A is uniform within 1 / sqrt(number of inputs), as in PEFT.
        """
        init = nn.initializers.variance_scaling(
            1 / 3, "fan_in", "uniform", in_axis=tuple(range(len(site.inputs))), out_axis=-1
        )
        shapes = (*site.inputs, self.rank), (self.rank, *site.outputs)
        axes = (*site.input_axes, RANK_AXIS), (RANK_AXIS, *site.output_axes)
        a = site.add_param(LORA_A, init, shapes[0], axes[0])
        return a, site.add_param(LORA_B, nn.initializers.zeros, shapes[1], axes[1])

    def _add_product(
        self, x: jax.Array, kernel: Kernel, a: jax.Array, b: jax.Array, site: Site
    ) -> jax.Array:
        """Return x W + s (x A) B [..., O...].

        A kernel that loses nothing by it is merged for the product: what remains of the adapter's
        cost is the gradient of A and B.
        """
        dropout_key = site.dropout_key if self.dropout > 0 else None
        if isinstance(kernel, jax.Array) and x.dtype == a.dtype and dropout_key is None:
            how = Product(site.axes, len(site.inputs), site.is_rounded, self.scale)
            return multiply_merged(x, kernel, a, b, how)
        y = site.multiply(x, kernel)
        if dropout_key is not None:
            is_kept = jax.random.bernoulli(dropout_key(), 1 - self.dropout, x.shape)
            x = jnp.where(is_kept, x / (1 - self.dropout), 0)
        return y + multiply_low_rank(x, a, b, site.axes, self.scale).astype(y.dtype)


@configclass
class Lora(LowRank):
    """A product of two thin matrices, added to each kernel (Hu et al. 2021, arXiv:2106.09685)."""

    def multiply(self, x: jax.Array, kernel: Kernel, site: Site) -> jax.Array:
        if not self.is_target(site.name):
            return site.multiply(x, kernel)
        return self._add_product(x, kernel, *self._add_matrices(site), site)

    def merge(self, kernel: jax.Array, own: Mapping[str, jax.Array]) -> jax.Array:
        return merge_low_rank(kernel, own[LORA_A], own[LORA_B], self.scale)


@configclass
class Dora(LowRank):
    """LoRA for the direction of each output's weights, and a length m for each of them
    (Liu et al. 2024, arXiv:2402.09353).

    m is kept as its difference from the length in the frozen kernel.
    """

    def multiply(self, x: jax.Array, kernel: Kernel, site: Site) -> jax.Array:
        if not self.is_target(site.name):
            return site.multiply(x, kernel)
        if not isinstance(kernel, jax.Array):
            raise TypeError("DoRA needs the lengths of a kernel, which must be an array")
        a, b = self._add_matrices(site)
        zeros = nn.initializers.zeros
        change = site.add_param(MAGNITUDE_CHANGE, zeros, site.outputs, site.output_axes)
        # Rounded to bfloat16, most gains would be 1.
        return self._add_product(x, kernel, a, b, site) * self._gain(kernel, a, b, change)

    def merge(self, kernel: jax.Array, own: Mapping[str, jax.Array]) -> jax.Array:
        gain = self._gain(kernel, own[LORA_A], own[LORA_B], own[MAGNITUDE_CHANGE])
        return gain * merge_low_rank(kernel, own[LORA_A], own[LORA_B], self.scale)

    def _gain(self, kernel: jax.Array, a: jax.Array, b: jax.Array, change: jax.Array) -> jax.Array:
        """Return m / |W + s A B| [O...] in float32; no gradient flows to the lengths (section 4.3).

        `|W + s A B|^2 = |W|^2 + 2 s (W' A) B + s^2 B' (A' A) B`, column by column: no array of the
        kernel's size is made, and where B is zero the result is |W|^2, to the bit.
        """
        kernel, a, b = (jax.lax.stop_gradient(each).astype(change.dtype) for each in (kernel, a, b))
        inputs = tuple(range(a.ndim - 1))
        square = jnp.sum(jnp.square(kernel), inputs)
        products = 2 * contract(a, kernel, (inputs, inputs))
        products += self.scale * contract(contract(a, a, (inputs, inputs)), b, 1)
        adapted = square + self.scale * jnp.sum(b * products, 0)
        # An output whose weights are all zero stays zero.
        before, now = (jnp.sqrt(jnp.maximum(each, _LEAST_SQUARE)) for each in (square, adapted))
        # Exactly 1 at first. To XLA a quotient by a root is a product, which would be about 1.
        return 1 + (before - now + change) / now
