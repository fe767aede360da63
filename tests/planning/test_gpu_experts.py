"""Mixtures of experts, Muon and evaluation, compiled for NVIDIA GPUs that are not here.

Skipped without the extra `gpu-compile`.
"""

import collections

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.batch import Batch
from jaxgpt.config import replace
from jaxgpt.data.loader import BatchConfig
from jaxgpt.evaluation.eval_step import EvalProgram
from jaxgpt.model.dispatch import Capacity, Dropless
from jaxgpt.model.feed_forward import SwiGlu
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.mixture_of_experts import MixtureOfExperts
from jaxgpt.parallel.mesh import MeshConfig, abstract_mesh, make_mesh
from jaxgpt.parallel.sharding import batch_sharding, on_mesh
from jaxgpt.planning.compiled import compile_train_step, read_compiled
from jaxgpt.planning.cross_compile import (
    COMPILER_OPTIONS,
    compile_only_devices,
    compiling_on,
    has_gpu_compiler,
)
from jaxgpt.planning.memory import plan_memory, plan_run_state
from jaxgpt.planning.products import product_flops
from jaxgpt.planning.program import collectives, custom_kernels, read_program
from jaxgpt.planning.speed import plan_speed
from jaxgpt.training.optimizer import Muon
from tests.planning.test_gpu_programs import CONFIG, H100, PACKED

pytestmark = pytest.mark.skipif(
    not has_gpu_compiler(), reason="XLA's GPU compiler is absent: pip install -e '.[gpu-compile]'"
)
VOCAB_SIZE = 512
L, D, F, E, K = 2, 256, 512, 8, 2
MOE = MixtureOfExperts(
    num_experts=E, num_active=K, expert=SwiGlu(hidden=F), dispatch=Dropless(block_size=128)
)
SHAPE = BatchConfig(sequence_length=384, global_batch_size=16)
BASE = replace(CONFIG, batch=SHAPE, model=replace(CONFIG.model, layers=Scanned()))
EXPERTS = replace(BASE, model=replace(BASE.model, feed_forward=MOE))
TOKENS = 16 * 384
# Rows of the grouped products: all choices, and one tile more for each expert.
ROWS = TOKENS * K + E * 128


def compiled_step(config, num_devices):
    compiled = compile_train_step(config, VOCAB_SIZE, H100, num_devices)
    return compiled, read_program(compiled.as_text())


@pytest.mark.parametrize(
    "config", [EXPERTS, replace(EXPERTS, data=PACKED)], ids=["whole", "packed"]
)
def test_a_token_is_multiplied_with_the_experts_that_it_chose_alone(config) -> None:
    compiled, program = compiled_step(config, 1)
    plan = read_compiled(compiled, config, VOCAB_SIZE, H100, 1, 0.0)
    # The router alone is float32.
    router = 3 * 2 * TOKENS * D * E * L
    dense = 3 * 2 * TOKENS * (4 * D * D * L + VOCAB_SIZE * D)
    experts = 3 * 2 * ROWS * 3 * D * F * L
    assert plan.products == {"bf16 x bf16": dense + experts, "f32 x f32": router}
    kernels = collections.Counter(
        one.kernel for one, count in program.operations() for _ in range(count)
    )
    # Three kernels of an expert: forward, the gradient of tokens, that of weights.
    assert kernels["grouped_product"] == 2 * kernels["grouped_outer_product"] == 2 * 3 * L
    assert (plan.num_branches, plan.num_unknown_loops) == (0, 0)
    for operation, _ in program.operations():
        # Numbers that several add to would be added in whatever order.
        if operation.opcode == "scatter" and "feed_forward" in operation.source:
            is_of_integers = operation.results[0].dtype == "s32"
            assert is_of_integers or "take_along_axis" in operation.source, operation.source
    planned = plan_memory(config, VOCAB_SIZE, abstract_mesh(config.mesh, 1), H100.target)
    print(plan.peak_bytes / planned.total)
    assert 0.9 <= plan.peak_bytes / planned.total <= 1.15


@pytest.mark.parametrize(
    "dispatch", [Capacity(factor=1.0), Dropless()], ids=["capacity", "dropless"]
)
def test_experts_on_8_gpus_exchange_what_the_plan_says_in_bfloat16(dispatch) -> None:
    mesh = MeshConfig(data=1, expert=8)
    config = replace(EXPERTS, mesh=mesh, data=PACKED)
    config = replace(
        config, model=replace(config.model, feed_forward=replace(MOE, dispatch=dispatch))
    )
    _, program = compiled_step(config, 8)
    assert set(product_flops(program)) == {"bf16 x bf16", "f32 x f32"}
    assert program.num_unknown_loops == program.count("conditional") == 0
    found = collections.Counter()
    for one in collectives(program):
        found[one.kind, one.dtype] += one.count * one.num_bytes
        print(one)
    state = plan_run_state(config, VOCAB_SIZE, abstract_mesh(mesh, 8)).abstract
    planned = plan_speed(config, VOCAB_SIZE, state.trainable, abstract_mesh(mesh, 8), H100, 0.4)
    print(found, planned)
