"""Mixtures of experts, Muon and evaluation, compiled for NVIDIA GPUs that are not here.

Skipped without the extra `gpu-compile`.
"""

import collections
import functools

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.batch import Batch
from jaxgpt.config import replace
from jaxgpt.data.loader import BatchConfig, DataConfig
from jaxgpt.evaluation.eval_step import EvalProgram
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.layers.grouped_matmul import OUTER_PRODUCT, PRODUCT
from jaxgpt.model.moe.dispatch import Capacity, Dropless
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from jaxgpt.parallel.mesh import MeshConfig, abstract_mesh, make_mesh
from jaxgpt.parallel.sharding import batch_sharding, on_mesh
from jaxgpt.planning.compiled import compile_train_step, read_compiled
from jaxgpt.planning.cross_compile import (
    COMPILER_OPTIONS,
    compile_only_devices,
    compiling_on,
    has_gpu_compiler,
)
from jaxgpt.planning.memory import plan_kept_state, plan_memory
from jaxgpt.planning.planned_run import plan_pretraining
from jaxgpt.planning.products import product_flops
from jaxgpt.planning.program import collectives, read_program
from jaxgpt.training.loss import LossConfig, language_model_loss
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
FSDP = replace(EXPERTS, mesh=MeshConfig(data=1, fsdp=8))
TOKENS = 16 * 384
# Rows of the grouped products: all choices, and one tile more for each expert.
ROWS = TOKENS * K + E * 128


@functools.cache
def compiled_step(config, num_devices):
    compiled = compile_train_step(plan_pretraining(config, VOCAB_SIZE), H100, num_devices)
    return compiled, read_program(compiled.as_text())


@pytest.mark.slow
@pytest.mark.parametrize("data", [DataConfig(), PACKED], ids=["whole", "packed"])
def test_a_token_is_multiplied_with_the_experts_that_it_chose_alone(data) -> None:
    config = replace(EXPERTS, data=data)
    compiled, program = compiled_step(config, 1)
    plan = read_compiled(compiled, plan_pretraining(config, VOCAB_SIZE), H100, 1, 0.0)
    # The router alone is float32.
    router = 3 * 2 * TOKENS * D * E * L
    dense = 3 * 2 * TOKENS * (4 * D * D * L + VOCAB_SIZE * D)
    experts = 3 * 2 * ROWS * 3 * D * F * L
    assert plan.products == {"bf16 x bf16": dense + experts, "f32 x f32": router}
    kernels = collections.Counter()
    for operation, count in program.operations():
        kernels[operation.kernel] += count
    # Three matrices of an expert: forward, the gradient of tokens, that of the matrix.
    assert (kernels[PRODUCT], kernels[OUTER_PRODUCT]) == (2 * 3 * L, 3 * L)
    assert (plan.num_branches, plan.num_unknown_loops) == (0, 0)
    # A sum that several numbers are scattered to has another order each time.
    for operation, _ in program.operations():
        if operation.opcode == "scatter" and "feed_forward" in operation.source:
            is_sum = operation.results[0].dtype != "s32"
            assert not is_sum or "take_along_axis" in operation.source, operation.source


def begun_early(program):
    """Bytes of copies of what a layer kept, made before its backward pass, where memory is left."""
    # XLA of jax 0.11 makes them. XLA of jax 0.10 copies each when it is needed: it waits for none.
    return max(
        sum(
            one.num_bytes
            for one in operations
            if one.opcode == "fusion-done" and one.source.endswith("/dynamic_slice")
        )
        for operations in program.computations.values()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("config", "num_devices"), [(EXPERTS, 1), (FSDP, 8)], ids=["one", "fsdp"])
def test_the_peak_with_experts_is_what_was_planned(config, num_devices) -> None:
    compiled, program = compiled_step(config, num_devices)
    mesh = abstract_mesh(config.mesh, num_devices)
    planned = plan_memory(plan_pretraining(config, VOCAB_SIZE), mesh, H100.target).total
    peak = compiled.memory_analysis().peak_memory_in_bytes
    assert 0.9 * planned <= peak <= 1.15 * planned + begun_early(program)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dispatch", [Capacity(factor=1.0), Dropless()], ids=lambda one: one.__class__.__name__
)
def test_experts_on_8_gpus_exchange_what_the_plan_says_in_bfloat16(dispatch) -> None:
    feed_forward = replace(MOE, dispatch=dispatch)
    config = replace(
        EXPERTS,
        mesh=MeshConfig(data=1, expert=8),
        data=PACKED,
        model=replace(EXPERTS.model, feed_forward=feed_forward),
    )
    _, program = compiled_step(config, 8)
    assert set(product_flops(program)) == {"bf16 x bf16", "f32 x f32"}
    assert program.num_unknown_loops == program.count("conditional") == 0
    exchanged = collections.Counter()
    for one in collectives(program):
        # Of a result's bytes an eighth was there already; what is scattered was eight times more.
        sent = one.num_bytes * 7 // (1 if one.kind == "reduce-scatter" else 8)
        exchanged[one.kind, one.dtype] += one.count * sent
    per_token = feed_forward.exchanged_per_token(SHAPE.sequence_length, 8)
    # In both passes.
    planned = 2 * L * TOKENS // 8 * per_token * D * jnp.bfloat16.dtype.itemsize
    kinds = {Capacity: ("all-to-all",), Dropless: ("all-gather", "reduce-scatter")}[type(dispatch)]
    assert sum(exchanged.pop((kind, "bf16")) for kind in kinds) == planned
    assert all(exchanged[kind, "bf16"] == 0 for kind, _ in exchanged)
    # Gates and numbers of the experts go with the tokens, and gradients are added up.
    rest = sum(count for (kind, _), count in exchanged.items() if kind != "all-reduce")
    assert rest == 0 if isinstance(dispatch, Capacity) else rest <= 0.02 * planned


@pytest.mark.slow
def test_fsdp_collects_experts_in_bfloat16_for_each_pass_and_keeps_none() -> None:
    _, program = compiled_step(FSDP, 8)
    gathered = collections.Counter()
    for one in collectives(program):
        if one.kind == "all-gather":
            gathered[one.dtype] += one.count * one.num_bytes
    # In each layer and pass the router in float32, all other kernels in bfloat16; and, once a step,
    # the table in bfloat16 and the numbers of the tokens.
    assert gathered["f32"] == 2 * L * 4 * D * E
    kernels = 2 * L * (4 * D * D + E * 3 * D * F)
    assert gathered["bf16"] == 2 * (kernels + VOCAB_SIZE * D)


@pytest.mark.slow
def test_muon_on_8_gpus_orthogonalises_a_share_of_the_matrices_on_each() -> None:
    config = replace(BASE, mesh=MeshConfig(data=1, fsdp=8), optimizer=Muon())
    _, program = compiled_step(config, 8)
    matmuls = 4 * D * D * L + 3 * D * F * L + VOCAB_SIZE * D
    # Of 4 L square matrices and 3 L others, a device gets one each: in float32, 5 rounds of X X',
    # its square, and their product with X.
    rounds = 5 * (3 * 2 * D**3 + 2 * 2 * D * D * F + 2 * D**3)
    assert product_flops(program) == {
        "bf16 x bf16": 3 * 2 * TOKENS // 8 * matmuls,
        "f32 x f32": rounds,
    }


def test_evaluation_multiplies_forward_alone() -> None:
    mesh = make_mesh(BASE.mesh, compile_only_devices(H100, 1))
    shape = (SHAPE.global_batch_size, SHAPE.sequence_length)
    ids = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(mesh))
    with compiling_on(H100):
        bytes_per_token = jnp.ones(VOCAB_SIZE)
        loss = language_model_loss(EXPERTS.model.build(VOCAB_SIZE), bytes_per_token, LossConfig())
        program = EvalProgram(loss, EXPERTS.model, mesh)
        run = plan_pretraining(EXPERTS, VOCAB_SIZE)
        params = plan_kept_state(run, mesh).abstract.trainable
        with on_mesh(mesh, EXPERTS.sharding):
            lowered = program._score.lower(params, Batch(ids, ids, ids, ids, ids))
        compiled = lowered.compile(compiler_options=COMPILER_OPTIONS)
    assert product_flops(read_program(compiled.as_text())) == {
        "bf16 x bf16": 2 * (TOKENS * (4 * D * D * L + VOCAB_SIZE * D) + ROWS * 3 * D * F * L),
        "f32 x f32": 2 * TOKENS * D * E * L,
    }
