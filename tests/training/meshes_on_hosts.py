"""One of two processes that train on every family of mesh; see test_meshes_on_hosts.py.

meshes_on_hosts.py COORDINATOR HOST_ID      prints {mesh: losses} as JSON
"""

import json
import sys

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxgpt.batch import Batch
from jaxgpt.config import replace
from jaxgpt.data.packing import make_rows
from jaxgpt.distributed.hosts import HostsConfig, is_first_host, joined_hosts
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.moe.dispatch import Dropless
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from jaxgpt.model.pipeline import Pipelined
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, to_devices
from jaxgpt.training.loss import LossConfig, language_model_loss
from jaxgpt.training.state import init_parameters, init_state, plan_state
from jaxgpt.training.step import compile_step, make_train_step

VOCAB, NUM_STEPS = 48, 3
DENSE = GptConfig(
    num_layers=2,
    d_model=16,
    attention=GroupedQueryAttention(num_heads=8, num_kv_heads=8, head_dim=2),
    feed_forward=SwiGlu(hidden=32),
    layers=Scanned(),
    vocab_multiple=16,
)
EXPERTS = replace(
    DENSE,
    feed_forward=MixtureOfExperts(
        num_experts=8, expert=SwiGlu(hidden=16), dispatch=Dropless(block_size=16)
    ),
)
STAGES = replace(DENSE, layers=Pipelined(num_micro_batches=2))
# The outermost axis goes across the hosts; of one axis alone, that axis does. Each does once.
MESHES = {
    "fsdp": (DENSE, MeshConfig(data=1, fsdp=8)),
    "tensor": (DENSE, MeshConfig(data=1, tensor=8)),
    "context": (DENSE, MeshConfig(data=1, context=8)),
    "expert": (EXPERTS, MeshConfig(data=1, expert=8)),
    "pipeline, fsdp, tensor": (STAGES, MeshConfig(data=1, pipeline=2, fsdp=2, tensor=2)),
    "data, expert, context": (EXPERTS, MeshConfig(data=2, expert=2, context=2)),
}


def train(config: GptConfig, mesh: Mesh) -> list[float]:
    """Losses of some steps on the same rows, whatever the mesh."""
    model, rules = config.build(VOCAB), ShardingRules()
    plan, optimizer = plan_state(model, lambda axes: optax.sgd(0.5), rules, mesh)
    loss = language_model_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig())
    step = compile_step(make_train_step(loss, optimizer, 1), plan.abstract, mesh)
    losses = []
    with on_mesh(mesh, rules):
        params = init_parameters(model, rules, mesh, seed=0)
        state = init_state(params, optimizer, plan, seed=0)
        for seed in range(NUM_STEPS):
            state, metrics = step(state, to_devices(_batch(seed), mesh))
            losses.append(float(metrics.loss))
    return losses


def _batch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    tokens_BT = rng.integers(3, VOCAB, (8, 33))
    return make_rows(tokens_BT, rng.random(tokens_BT.shape) < 0.1)


if __name__ == "__main__":
    with joined_hosts(HostsConfig(coordinator=sys.argv[1], num_hosts=2, host_id=int(sys.argv[2]))):
        losses = {name: train(config, make_mesh(sizes)) for name, (config, sizes) in MESHES.items()}
        if is_first_host():
            print(json.dumps(losses))
