"""A training step compiled for simulated devices, without any array."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.batch import Batch
from jaxgpt.config import replace
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.parallel.sharding import batch_sharding, on_mesh
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.setup import build_step
from jaxgpt.training.recovery import NoSkipping


def compile_step_of(config: TrainConfig, vocab_size: int):
    """The step of a config, for the devices of its mesh."""
    mesh = make_mesh(config.mesh, jax.devices()[: math.prod(config.mesh.sizes.values())])
    # Without the few numbers that recovery keeps.
    config = replace(config, recovery=NoSkipping())
    parts = build_step(config, mesh, vocab_size, jnp.ones(vocab_size, jnp.int32))
    shape = (config.batch.global_batch_size, config.batch.sequence_length)
    ids, weights = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for dtype in (jnp.int32, jnp.float32)
    )
    with on_mesh(mesh, config.sharding):
        step: Any = parts.step
        return step.lower(parts.plan.abstract, Batch(ids, ids, ids, ids, weights)).compile()
