"""What 8 NVIDIA GPUs that are not here exchange in a step, as XLA's GPU compiler writes it.

Skipped without the extra `gpu-compile`.
"""

import collections
import dataclasses
import math

import pytest

from jaxgpt.config import replace
from jaxgpt.data.loader import BatchConfig
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.remat import FullRemat
from jaxgpt.parallel.mesh import MeshConfig, abstract_mesh
from jaxgpt.planning.compiled import compile_train_step
from jaxgpt.planning.cross_compile import has_gpu_compiler
from jaxgpt.planning.devices import find_device
from jaxgpt.planning.memory import plan_kept_state
from jaxgpt.planning.planned_run import plan_pretraining
from jaxgpt.planning.program import Program, collectives, read_program
from jaxgpt.planning.speed import plan_speed
from jaxgpt.runs.config import TrainConfig

pytestmark = [
    pytest.mark.skipif(
        not has_gpu_compiler(),
        reason="XLA's GPU compiler is absent: pip install -e '.[gpu-compile]'",
    ),
    pytest.mark.slow,
]
VOCAB_SIZE, WIDTH, HIDDEN, PARTS = 8192, 256, 512, 4
CONFIG = TrainConfig(
    model=GptConfig(
        num_layers=2,
        d_model=WIDTH,
        attention=GroupedQueryAttention(num_heads=4),
        feed_forward=SwiGlu(hidden=HIDDEN),
        compute_dtype="bfloat16",
        remat=FullRemat(),
    ),
    batch=BatchConfig(sequence_length=384, global_batch_size=32, num_micro_batches=PARTS),
)
H100 = find_device("h100")
LAYER = 4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN
TABLE = VOCAB_SIZE * WIDTH


def _compile(config: TrainConfig) -> Program:
    text = compile_train_step(plan_pretraining(config, VOCAB_SIZE), H100, 8).as_text()
    assert text is not None
    return read_program(text)


def _bytes(program: Program) -> collections.Counter[tuple[str, str]]:
    """Bytes of the results of each kind and type of exchange in a step, on one device."""
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for one in collectives(program):
        found[one.kind, one.dtype] += one.count * one.num_bytes
    return found


def _planned(config: TrainConfig, axis: str) -> int:
    mesh = abstract_mesh(config.mesh, 8)
    run = plan_pretraining(config, VOCAB_SIZE)
    state = plan_kept_state(run, mesh)
    return plan_speed(run, state, mesh, H100, 0.4).exchanged_bytes[axis]


@pytest.mark.parametrize("are_copied", [True, False], ids=["copies", "no copies"])
def test_fsdp_gathers_weights_in_bfloat16_and_copies_once_a_step(are_copied: bool) -> None:
    copied = 2 * (TABLE + 2 * LAYER) if are_copied else 2 * TABLE
    runtime = dataclasses.replace(CONFIG.runtime, max_copied_bytes=copied)
    config = replace(CONFIG, mesh=MeshConfig(data=1, fsdp=8), runtime=runtime)
    program = _compile(config)
    found = _bytes(program)
    # Forward pass, recomputation but for the last product, whose result is kept, and backward pass.
    layers = 2 * 2 * (LAYER if are_copied else PARTS * (3 * LAYER - WIDTH * HIDDEN))
    assert found["all-gather", "bf16"] == 2 * TABLE + layers
    assert found["all-gather", "f32"] == 0
    gradients = 4 * (TABLE + 2 * LAYER) // 8
    assert found["reduce-scatter", "f32"] == PARTS * gradients
    sent = found["all-gather", "bf16"] * 7 / 8 + found["reduce-scatter", "f32"] * 7
    assert sent <= _planned(config, "fsdp") <= (1 if are_copied else 1.1) * sent


def test_tensor_parallel_sums_activations_in_bfloat16_and_data_parallel_gradients_once() -> None:
    config = replace(CONFIG, mesh=MeshConfig(data=4, tensor=2))
    program = _compile(config)
    found = _bytes(program)
    # Of the residual stream: 4 a layer, 1 recomputed; rows of the table; the last hidden state.
    stream = 2 * 8 * 384 * WIDTH
    assert found["all-reduce", "bf16"] == stream * (2 * 5 + 2)
    assert found["all-reduce", "bf16"] == _planned(config, "tensor")
    gradients = 4 * (TABLE + 2 * LAYER) // 2
    # Norms' gradients, and sums of single tokens in the loss.
    small = 1 << 20
    assert gradients <= found["all-reduce", "f32"] <= gradients + small
    assert 0 <= _planned(config, "data") - 1.5 * gradients <= small
    # Some backward sums travel while the device computes; forward ones have nothing to wait for.
    overlapped = [one for one in collectives(program) if one.dtype == "bf16" and one.is_overlapped]
    assert sum(one.count * one.num_bytes for one in overlapped) >= 2 * stream


def test_a_deterministic_gradient_of_the_embedding_sorts_ids_only() -> None:
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    runtime = dataclasses.replace(CONFIG.runtime, deterministic=True)
    program = _compile(replace(CONFIG, mesh=mesh, runtime=runtime))
    tokens = 8 * 384
    sorted_sizes = [
        math.prod(array.shape)
        for operation, _ in program.operations()
        if operation.opcode == "sort"
        for array in operation.results
    ]
    assert sorted_sizes
    assert max(sorted_sizes) <= tokens
    assert program.num_unknown_loops == 0
    # Rows stay on their device, but for what `fsdp` moves: the loss gathers a number a token.
    assert _bytes(program)["all-gather", "f32"] < 16 * PARTS * tokens
