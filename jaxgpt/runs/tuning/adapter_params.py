"""Parameters of a run that trained an adapter: those it trained, and all, merged into the base."""

from functools import partial
from typing import Any

import jax

from jaxgpt.model.adapted import is_trained, join, merge, split
from jaxgpt.model.gpt import Gpt
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.runs.run import Run
from jaxgpt.training.state import abstract_parameters


def own_parameters(model: Gpt, rules: ShardingRules, like: Any) -> Any:
    """Return the shapes and places of the parameters that a run with an adapter trains.

    Args:
        model: with the adapter.
        rules: of the run.
        like: shapes of the model's other parameters, on the mesh that is wanted.
    """
    mesh = jax.tree.leaves(like)[0].sharding.mesh
    abstract, _ = abstract_parameters(model, rules, mesh)
    return split(abstract, partial(is_trained, model))[0]


def merge_into(model: Gpt, own: Any, base: Run, step: int, abstract: Any) -> Any:
    """Return parameters of the model without adapter that do the same as with it.

    Args:
        model: with the adapter.
        own: the parameters that were trained.
        base: the run that the adapter was made for.
        step: of that run.
        abstract: shapes, types and places of the result.
    """
    dtype = jax.tree.leaves(own)[0].dtype
    _, frozen = split(abstract, partial(is_trained, model))
    params = base.read_params(step, jax.tree.map(lambda leaf: leaf.update(dtype=dtype), frozen))

    def run(own: Any, params: Any) -> Any:
        merged = merge(model, join(params, own))
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), merged, abstract)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(run, out_shardings=shardings, donate_argnums=1)(own, params)
