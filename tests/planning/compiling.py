"""A training step compiled for simulated devices, without any array."""

import math

import jax
import jax.numpy as jnp

from jaxgpt.batch import Batch
from jaxgpt.experiment import TrainConfig
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.parallel.sharding import batch_sharding, on_mesh
from jaxgpt.training.loss import language_model_loss
from jaxgpt.training.state import plan_state
from jaxgpt.training.step import compile_step, make_train_step


def compile_step_of(config: TrainConfig, vocab_size: int):
    """The step of a config, for the devices of its mesh."""
    mesh = make_mesh(config.mesh, jax.devices()[: math.prod(config.mesh.sizes.values())])
    model, schedule = config.model.build(vocab_size), config.schedule.build()
    plan, optimizer = plan_state(
        model, lambda axes: config.optimizer.build(schedule, axes), config.sharding, mesh
    )
    loss = language_model_loss(model, jnp.ones(vocab_size, jnp.int32), config.loss)
    train_step = make_train_step(loss, optimizer, config.batch.num_micro_batches)
    shape = (config.batch.global_batch_size, config.batch.sequence_length)
    ids, weights = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for dtype in (jnp.int32, jnp.float32)
    )
    with on_mesh(mesh, config.sharding):
        step = compile_step(train_step, plan.abstract, mesh)
        return step.lower(plan.abstract, Batch(ids, ids, ids, ids, weights)).compile()
