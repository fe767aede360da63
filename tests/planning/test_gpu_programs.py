"""Programs for NVIDIA GPUs that are not here: what XLA's GPU compiler makes of our steps.

Skipped without the extra `gpu-compile`. What cannot be seen without a card is in docs/plan.md.
"""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.config import replace
from jaxgpt.data.loader import BatchConfig, DataConfig
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.attention.gpu import Cudnn
from jaxgpt.model.attention.kernel import AttentionInputs, Scores
from jaxgpt.model.attention.masks import AttentionMask
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.feed_forward import Gelu, SwiGlu
from jaxgpt.model.layers.norm_kernel import NORM, NORM_GRADIENT
from jaxgpt.model.pipeline import Pipelined
from jaxgpt.model.remat import NoRemat, Remat, SaveDots
from jaxgpt.parallel.mesh import MeshConfig, abstract_mesh
from jaxgpt.planning.compiled import compile_train_step, read_compiled
from jaxgpt.planning.cross_compile import compiling_on, has_gpu_compiler
from jaxgpt.planning.devices import find_device
from jaxgpt.planning.memory import cublas_workspace, plan_memory
from jaxgpt.planning.planned_run import plan_pretraining
from jaxgpt.planning.products import product_flops
from jaxgpt.planning.program import Operation, Program, called_by, collectives, read_program
from jaxgpt.runs.config import TrainConfig
from jaxgpt.training.cross_entropy_kernel import CROSS_ENTROPY
from jaxgpt.training.loss import LossConfig
from tests.planning.compiling import types_of_gelu

pytestmark = pytest.mark.skipif(
    not has_gpu_compiler(), reason="XLA's GPU compiler is absent: pip install -e '.[gpu-compile]'"
)
VOCAB_SIZE = 4096
CONFIG = TrainConfig(
    model=GptConfig(
        num_layers=2,
        d_model=256,
        attention=GroupedQueryAttention(num_heads=4),
        feed_forward=SwiGlu(hidden=512),
        compute_dtype="bfloat16",
    ),
    batch=BatchConfig(sequence_length=384, global_batch_size=32, num_micro_batches=2),
)
PACKED = DataConfig(mask_documents=True)
H100 = find_device("h100")


def _text(compiled: jax.stages.Compiled) -> str:
    text = compiled.as_text()
    assert text is not None
    return text


@functools.cache
def _compiled_step(data: DataConfig) -> tuple[jax.stages.Compiled, Program]:
    compiled = compile_train_step(plan_pretraining(replace(CONFIG, data=data), VOCAB_SIZE), H100, 1)
    return compiled, read_program(_text(compiled))


@pytest.mark.parametrize("data", [DataConfig(), PACKED], ids=["whole", "packed"])
def test_a_step_multiplies_in_bfloat16_alone_and_writes_no_scores(data: DataConfig) -> None:
    config = replace(CONFIG, data=data)
    run = plan_pretraining(config, VOCAB_SIZE)
    compiled, program = _compiled_step(data)
    assert set(product_flops(program)) == {"bf16 x bf16"}
    plan = read_compiled(compiled, run, H100, 1, 0.0)
    assert plan.products_per_6nd == pytest.approx(1.0, abs=1e-3)
    kernels = collections.Counter(
        {
            "cudnn" if "cudnn" in name else "triton": n
            for name, n in plan.kernels.items()
            if "cublas" not in name
        }
    )
    pallas = collections.Counter[str]()
    for operation, count in program.operations():
        pallas[operation.kernel] += count
    assert pallas[CROSS_ENTROPY] == 2 * 2, "once a chunk"
    # Two norms a layer and the last one.
    assert pallas[NORM] == pallas[NORM_GRADIENT] == 2 * (2 * 2 + 1)
    kernels["triton"] -= pallas[CROSS_ENTROPY] + pallas[NORM] + pallas[NORM_GRADIENT]
    # Packed rows: forward pass, what the backward pass prepares, backward pass.
    expected = {"triton": 3} if data.mask_documents else {"cudnn": 2}
    assert +kernels == {name: 2 * 2 * count for name, count in expected.items()}
    # The loss is the only one that reads logits or writes their gradient, next to the products.
    tokens = 16 * 384
    passes = [
        operation.source
        for operation, _ in program.kernels()
        for array in operation.results
        if _size(array.shape) == VOCAB_SIZE * tokens // 2
        and not any("dot_general" in source for source in _sources(program, operation))
    ]
    assert len(passes) == 1, passes
    assert (plan.num_branches, plan.num_unknown_loops) == (0, 0)
    # Neither scores of attention nor a scatter as large as a chunk's logits.
    length = config.batch.sequence_length
    for operation, _ in program.operations():
        sizes = [array.shape for array in operation.results]
        assert not any(shape[-2:] == (length, length) and len(shape) > 2 for shape in sizes)
        if operation.opcode == "scatter":
            assert all(VOCAB_SIZE * tokens > _size(shape) for shape in sizes)
    planned = plan_memory(run, abstract_mesh(config.mesh, 1), H100.target)
    assert 0.9 <= plan.peak_bytes / planned.total <= 1.15
    assert _workspace(program) == cublas_workspace(H100.target)


def _workspace(program: Program) -> int:
    """What cuBLAS is given, in bytes."""
    return max(
        array.num_bytes
        for operation, _ in program.kernels()
        if "cublas" in operation.target
        for array in operation.results
        if array.dtype == "s8"
    )


def test_residual_sums_and_those_of_gradients_are_in_the_kernels_of_products() -> None:
    _, program = _compiled_step(PACKED)
    layers, rows = CONFIG.model.num_layers, 16 * CONFIG.batch.sequence_length
    width = CONFIG.model.d_model
    added = 0
    for operation, count in program.kernels():
        is_stream = any(
            _size(array.shape) == rows * width and "/Block/" in operation.source
            for array in operation.results
        )
        if not is_stream or operation.opcode == "copy":
            assert not is_stream, f"a copy of the residual stream: {operation.text}"
            continue
        is_sum = operation.source.endswith(("/add", "/add_any"))
        assert not is_sum, f"a kernel for a sum alone: {operation.text}"
        is_product = "cublas" in operation.target
        added += count * (is_product and len(operation.operands) == 3)
    # Two residual sums, two gradients that follow that of the queries' input, and the gate's.
    assert added == CONFIG.batch.num_micro_batches * layers * (2 + 2 + 1)


@pytest.mark.parametrize(
    ("use_bias", "remat"),
    [
        (False, NoRemat()),
        pytest.param(True, NoRemat(), marks=pytest.mark.slow),
        pytest.param(False, SaveDots(), marks=pytest.mark.slow),
    ],
    ids=["plain", "bias", "recomputed"],
)
def test_gelu_is_computed_in_float32(use_bias: bool, remat: Remat) -> None:
    feed_forward = Gelu(use_bias=use_bias)
    model = replace(CONFIG.model, num_layers=1, feed_forward=feed_forward, remat=remat)
    run = plan_pretraining(replace(CONFIG, model=model), VOCAB_SIZE)
    text = _text(compile_train_step(run, H100, 1))
    assert types_of_gelu(text) == {"f32"}


@pytest.mark.slow
def test_a_flag_of_the_user_stands_before_an_option_of_the_step(monkeypatch) -> None:
    _, program = _compiled_step(DataConfig())
    # XLA has read its flags by now: without the option its default holds, products by Triton.
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_triton_gemm_any=true")
    run = plan_pretraining(CONFIG, VOCAB_SIZE)
    with_flag = read_program(_text(compile_train_step(run, H100, 1)))
    ours, of_the_user = (
        sum(count for one, count in each.kernels() if "cublas" in one.target)
        for each in (program, with_flag)
    )
    assert of_the_user < ours


def test_no_kernel_of_a_layer_writes_the_residual_stream_in_float32() -> None:
    _, program = _compiled_step(PACKED)
    length, width = CONFIG.batch.sequence_length, CONFIG.model.d_model
    written = [
        operation.source
        for operation, _ in program.kernels()
        for array in operation.results
        if array.dtype == "f32" and array.shape[-2:] in {(length, width), (16 * length, width)}
    ]
    assert written == []


def test_the_table_is_rounded_once_a_micro_batch_and_not_in_each_chunk_of_the_loss() -> None:
    _, program = _compiled_step(PACKED)
    assert _size((16, CONFIG.batch.sequence_length)) > CONFIG.loss.logits.num_tokens
    table = VOCAB_SIZE * CONFIG.model.d_model
    rounded = sum(
        count
        for operation, count in program.kernels()
        for array in operation.results
        if array.dtype == "bf16" and _size(array.shape) == table
    )
    assert rounded <= CONFIG.batch.num_micro_batches


@pytest.mark.slow
def test_rounded_logits_are_written_and_read_in_bfloat16_alone() -> None:
    config = replace(CONFIG, loss=LossConfig(round_logits=True))
    run = plan_pretraining(config, VOCAB_SIZE)
    compiled = compile_train_step(run, H100, 1)
    program = read_program(_text(compiled))
    chunk = VOCAB_SIZE * 16 * config.batch.sequence_length // 2
    arrays = [
        array.dtype
        for operation, _ in program.kernels()
        for array in operation.results
        if _size(array.shape) == chunk
    ]
    assert set(arrays) == {"bf16"}
    assert sum(count for one, count in program.operations() if one.kernel == CROSS_ENTROPY) == 4
    planned = plan_memory(run, abstract_mesh(config.mesh, 1), H100.target)
    plan = read_compiled(compiled, run, H100, 1, 0.0)
    assert 0.9 <= plan.peak_bytes / planned.total <= 1.15


def _sources(program: Program, operation: Operation) -> list[str]:
    """Where a kernel and its parts come from: jax 0.11 may have a product and a slice in one."""
    inside = [one for name in called_by(operation) for one in program.computations.get(name, ())]
    return [one.source for one in (operation, *inside)]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for one in shape:
        size *= one
    return size


@pytest.mark.slow
# With jax 0.11 XLA has no tile of Triton for a product of the last one.
@pytest.mark.parametrize(("name", "num_heads"), [("a100", 4), ("l4", 4), ("rtx3090", 2)])
def test_packed_rows_fit_into_the_shared_memory_of_other_cards(name: str, num_heads: int) -> None:
    attention = GroupedQueryAttention(num_heads=num_heads)
    model = replace(CONFIG.model, num_layers=1, attention=attention)
    run = plan_pretraining(replace(CONFIG, data=PACKED, model=model), VOCAB_SIZE)
    device = find_device(name)
    program = read_program(_text(compile_train_step(run, device, 1)))
    kernels = sum(n for one, n in program.operations() if one.kernel.startswith("mha_"))
    assert kernels == 3 * CONFIG.batch.num_micro_batches
    assert _workspace(program) == cublas_workspace(device.target)


MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor": MeshConfig(data=4, tensor=2),
    "context": MeshConfig(data=4, context=2),
    "pipeline": MeshConfig(data=4, pipeline=2),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MESHES)
def test_a_step_compiles_on_8_gpus_and_exchanges_no_rows(name: str) -> None:
    layers = Pipelined(num_micro_batches=2) if name == "pipeline" else CONFIG.model.layers
    model = replace(CONFIG.model, layers=layers, num_layers=2)
    config = replace(CONFIG, mesh=MESHES[name], model=model)
    program = read_program(_text(compile_train_step(plan_pretraining(config, VOCAB_SIZE), H100, 8)))
    assert set(product_flops(program)) == {"bf16 x bf16"}
    exchanged = collectives(program)
    assert exchanged
    for operation, _ in program.operations():
        # Outside of the stages, rows are split over `pipeline`, too: the plan has what that costs.
        is_of_stages = name == "pipeline" and "/Gpt._apply_blocks/" in operation.source
        if operation.collective == "all-gather" and not is_of_stages:
            for array in operation.results:
                is_activation = config.batch.sequence_length in array.shape[:-1]
                assert not is_activation or array.dtype == "s32", "only ids may be gathered"
    if name == "tensor":
        # Sums over the residual stream travel in bfloat16: two a layer and way, the loss's, and
        # that of looked-up rows.
        rows = config.batch.global_batch_size // config.batch.num_micro_batches
        residual = rows // 4 * config.batch.sequence_length * config.model.d_model * 2
        sums = sum(
            one.count * one.num_bytes
            for one in exchanged
            if one.kind == "all-reduce" and one.dtype == "bf16"
        )
        assert sums == 2 * (2 * 2 * 2 + 2) * residual


@pytest.mark.parametrize("card", ["h100", "a100"])
def test_cudnn_refuses_whatever_jax_would_refuse(card: str) -> None:
    device, kernel = find_device(card), Cudnn()
    sizes = ((1, 7, 1023, 1024), (8, 12, 64, 128, 136, 256, 264), (2, 1), (None, 16))
    accepted = 0
    for num_tokens, head_dim, num_kv_heads, window in itertools.product(*sizes):
        q_BTNH = jax.ShapeDtypeStruct((2, num_tokens, 2, head_dim), jnp.bfloat16)
        k_BSKH = jax.ShapeDtypeStruct((2, num_tokens, num_kv_heads, head_dim), jnp.bfloat16)
        mask = AttentionMask(window=window)

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask=mask) -> jax.Array:
            out_BTNH = kernel.compute(AttentionInputs(q, k, v, mask, Scores(1.0)))
            return jnp.sum(out_BTNH.astype(jnp.float32))

        with compiling_on(device):
            if kernel.refuses(AttentionInputs(q_BTNH, k_BSKH, k_BSKH, mask, Scores(1.0))) is None:
                accepted += 1
                jax.eval_shape(jax.grad(attend, argnums=(0, 1, 2)), q_BTNH, k_BSKH, k_BSKH)
    # Lengths 1,024, both numbers of heads, with and without a window.
    assert accepted == 4 * (5 if card == "h100" else 3)
