"""Training steps compiled for devices that are not here, and what their text says."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.config import replace
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.parallel.sharding import batch_sharding, on_mesh
from jaxgpt.planning.planned_run import PlannedRun
from jaxgpt.runs.setup import build_step
from jaxgpt.training.recovery import NoSkipping


def compile_step_of(run: PlannedRun):
    """The step of a run, for the devices of its mesh."""
    config, vocab_size = run.config, run.vocab_size
    mesh = make_mesh(config.mesh, jax.devices()[: math.prod(config.mesh.sizes.values())])
    # Without the few numbers that recovery keeps.
    config = replace(config, recovery=NoSkipping())
    about = mesh, vocab_size, jnp.ones(vocab_size, jnp.int32), run.num_segments
    parts = build_step(config, *about)
    rows = run.rows(config.batch.global_batch_size)
    batch = jax.tree.map(lambda part: part.update(sharding=batch_sharding(mesh)), rows)
    with on_mesh(mesh, config.sharding):
        step: Any = parts.step
        return step.lower(parts.plan.abstract, batch).compile()


def types_of_gelu(text: str) -> set[str]:
    """Types in which a compiled program multiplies with the constant of GELU, 0.044715."""
    return set(re.findall(r"(\w+)\[\](?:\{\})? constant\(0\.044\d*\)", text))
