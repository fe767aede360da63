"""`TrainState`: all arrays that a step reads and writes, created sharded.

One state serves pretraining (`frozen` is empty) and any later method that trains a part.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from jaxgpt.model.adapted import Path, split, take
from jaxgpt.model.cpu.threefry import in_one_pass, key_of_seed
from jaxgpt.model.moe.mixture_of_experts import is_rounded
from jaxgpt.parallel.sharding import (
    AnyMesh,
    ShardingRules,
    logical_axes,
    parameter_shardings,
    replicated,
)
from jaxgpt.training.recovery import NoSkipping, Recovery


class TrainState(flax.struct.PyTreeNode):
    """State of a run at one moment: arrays, or `ShapeDtypeStruct` in a plan.

    Attributes:
        step: int32 scalar, optimiser steps done.
        trainable: parameters that gradients flow to.
        frozen: parameters that stay as they are.
        opt_state: the optimiser's, shaped and placed like `trainable`.
        rng: key from which every step's dropout key is derived by folding in the step.
        memory: values that `Recovery.accept` passes from step to step; a few small arrays, or none.
    """

    step: Any
    trainable: Any
    frozen: Any
    opt_state: Any
    rng: Any
    memory: Any = flax.struct.field(default_factory=dict)


class StatePlan(flax.struct.PyTreeNode):
    """Shapes and places of a state before it exists.

    Attributes:
        abstract: `TrainState` of `ShapeDtypeStruct`, each with its sharding.
        axes: logical axis names per trainable parameter.
        frozen_axes: those of the other parameters.
    """

    abstract: TrainState
    axes: Any = flax.struct.field(pytree_node=False)
    frozen_axes: Any = flax.struct.field(pytree_node=False, default_factory=dict)


def abstract_parameters(model: nn.Module, rules: ShardingRules, mesh: AnyMesh) -> tuple[Any, Any]:
    """Return (`ShapeDtypeStruct` with shardings, logical axes) of a model's parameters."""
    boxed = jax.eval_shape(_initialiser(model), jax.random.key(0))
    shardings = parameter_shardings(boxed, rules, mesh)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nn.unbox(boxed),
        shardings,
    )
    return abstract, logical_axes(boxed)


def frozen_parameters(model: nn.Module, rules: ShardingRules, mesh: AnyMesh) -> Any:
    """Return shapes and places of a model that is not trained, in the types that it uses them in.

    Args:
        model: a `Gpt`.
        rules: of the run that reads its outputs.
        mesh: of that run.
    """
    return _in_compute_dtype(abstract_parameters(model, rules, mesh)[0], model)


def init_parameters(model: nn.Module, rules: ShardingRules, mesh: Mesh, seed: int) -> Any:
    """Initialise a model's parameters, each created on its own devices.

    The values depend on the seed alone, not on the mesh.
    """
    return make_parameters(model, abstract_parameters(model, rules, mesh)[0], seed)


def make_parameters(model: nn.Module, abstract: Any, seed: int) -> Any:
    """Initialise parameters that `abstract_parameters` or a plan describes, or a part of them."""
    initialise = _initialiser(model)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)

    def make(key: jax.Array) -> Any:
        return take(nn.unbox(initialise(key)), abstract)

    return jax.jit(make, out_shardings=shardings)(key_of_seed(seed))


def plan_state(
    model: nn.Module,
    make_optimizer: Any,
    rules: ShardingRules,
    mesh: AnyMesh,
    recovery: Recovery | None = None,
    is_trainable: Callable[[Path], bool] | None = None,
) -> tuple[StatePlan, optax.GradientTransformation]:
    """Work out a state without allocating it.

    Args:
        model: a linen module with logical axes on its parameters.
        make_optimizer: from the trained parameters' logical axes to an optax transformation.
        recovery: decides about updates; None: as `NoSkipping`.
        is_trainable: whether the parameter with a path is trained; None: all are. The others are
            kept in the type that the model, a `Gpt`, uses them in.
    """
    params, axes = abstract_parameters(model, rules, mesh)
    frozen, frozen_axes = {}, {}
    if is_trainable is not None:
        params, frozen = split(params, is_trainable)
        axes, frozen_axes = split(axes, is_trainable)
        frozen = _in_compute_dtype(frozen, model)
    optimizer = make_optimizer(axes)
    scalar = replicated(mesh)
    opt_state = _like_parameters(jax.eval_shape(optimizer.init, params), params, scalar)
    key = jax.eval_shape(lambda: jax.random.key(0))
    abstract = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=scalar),
        trainable=params,
        frozen=frozen,
        opt_state=opt_state,
        rng=jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=scalar),
        memory=jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=scalar),
            jax.eval_shape((recovery or NoSkipping()).init),
        ),
    )
    return StatePlan(abstract=abstract, axes=axes, frozen_axes=frozen_axes), optimizer


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    plan: StatePlan,
    seed: int,
    frozen: Mapping[str, Any] = MappingProxyType({}),
) -> TrainState:
    """Make the state of step 0 around given parameters, trained ones and frozen ones."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, plan.abstract.opt_state)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    scalar = plan.abstract.step.sharding
    return TrainState(
        step=jax.device_put(jnp.zeros((), jnp.int32), scalar),
        trainable=params,
        frozen=dict(frozen),
        opt_state=opt_state,
        rng=jax.device_put(jax.random.fold_in(key_of_seed(seed), 1), scalar),
        memory=jax.tree.map(
            lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding),
            plan.abstract.memory,
        ),
    )


def _initialiser(model: nn.Module) -> Any:
    tokens_BT = jnp.zeros((1, 2), jnp.int32)
    return lambda key: model.init(in_one_pass(key), tokens_BT)["params"]


def _in_compute_dtype(frozen: Any, model: Any) -> Any:
    """Return the shapes of frozen parameters, of those that the model rounds in the rounded type.

    The model does the same with each at every use.
    """
    dtype = jnp.dtype(model.config.compute_dtype)

    def narrow(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        return leaf.update(dtype=dtype) if is_rounded(path) else leaf

    return jax.tree_util.tree_map_with_path(narrow, frozen)


def _like_parameters(opt_state: Any, params: Any, default: NamedSharding) -> Any:
    """Give each optimiser array the sharding of the parameter it belongs to.

    An array belongs to the parameter whose path ends its own path and whose shape it has.
    """
    by_path = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = default
        for start in range(len(path)):
            owner = by_path.get(jax.tree_util.keystr(path[start:]))
            if owner is not None and owner.shape == leaf.shape:
                sharding = owner.sharding
                break
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, opt_state)
