"""The planner's bytes next to XLA's own analysis of the compiled step."""

import math

import pytest

from jaxgpt.config import replace
from jaxgpt.data.loader import BatchConfig, DataConfig
from jaxgpt.evaluation.objective import FrozenModel
from jaxgpt.finetuning.distillation import Distilled
from jaxgpt.finetuning.preference.dpo import Dpo
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.adapters import NO_ADAPTER, Adapter, Lora
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.remat import FullRemat, NoRemat, SaveDots
from jaxgpt.parallel.mesh import MeshConfig, abstract_mesh
from jaxgpt.planning.memory import bytes_per_device, plan_kept_state, plan_memory
from jaxgpt.planning.planned_run import PlannedRun, plan_pretraining
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.run import BaseCheckpoint
from jaxgpt.runs.tuning.finetune_config import FinetuneRunConfig
from jaxgpt.runtime.target import CompileTarget
from jaxgpt.training.chunked_loss import LinearCrossEntropy, TokenChunks, WholeLogits
from jaxgpt.training.loss import LossConfig
from tests.planning.compiling import compile_step_of

VOCAB = 512
MANY_WORDS = 8192
CONFIG = TrainConfig(
    model=GptConfig(
        num_layers=8,
        d_model=128,
        attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2, head_dim=32),
        feed_forward=SwiGlu(hidden=384),
        layers=Scanned(),
    ),
    batch=BatchConfig(sequence_length=128, global_batch_size=32),
)


def _config(mesh: MeshConfig, remat, parts: int = 1) -> TrainConfig:
    model = replace(CONFIG.model, remat=remat)
    batch = replace(CONFIG.batch, num_micro_batches=parts)
    return replace(CONFIG, model=model, batch=batch, mesh=mesh)


def _with_many_words(
    config: TrainConfig, logits: LinearCrossEntropy, tied: bool = True
) -> TrainConfig:
    """Narrow and shallow, so that logits are most of what a step needs."""
    model = replace(config.model, num_layers=2, d_model=64, head=LanguageModelHead(tied=tied))
    return replace(config, model=model, loss=LossConfig(logits=logits))


CASES = {
    "one device": _config(MeshConfig(data=1), NoRemat()),
    "one device, full remat": _config(MeshConfig(data=1), FullRemat()),
    "fsdp, in parts": _config(MeshConfig(data=1, fsdp=8), FullRemat(), parts=2),
    "data and tensor": _config(MeshConfig(data=4, tensor=2), SaveDots()),
    "fsdp and context": _config(MeshConfig(data=1, fsdp=4, context=2), NoRemat()),
}
# Of 4,096 tokens or half of them on a device, 512 at a time.
CHUNKS = TokenChunks(num_tokens=512)
WITH_MANY_WORDS = {
    "words in chunks": _with_many_words(_config(MeshConfig(data=1), FullRemat()), CHUNKS),
    "words in chunks, nothing recomputed": _with_many_words(
        _config(MeshConfig(data=1), NoRemat()), CHUNKS, tied=False
    ),
    "words in chunks, data and tensor": _with_many_words(
        _config(MeshConfig(data=2, tensor=2), FullRemat()), CHUNKS
    ),
    "words at once": _with_many_words(_config(MeshConfig(data=1), FullRemat()), WholeLogits()),
}
QUICK = ("words in chunks",)


def _ring(mesh: MeshConfig, dtype, num_tokens: int) -> TrainConfig:
    """Long rows, so that the scores of the ring's pieces are most of what a step needs."""
    config = _config(mesh, FullRemat())
    model = replace(config.model, compute_dtype=dtype)
    batch = BatchConfig(sequence_length=num_tokens, global_batch_size=2)
    return replace(config, model=model, batch=batch)


RINGS = {
    f"{name}, {dtype}": _ring(mesh, dtype, num_tokens)
    for name, mesh, num_tokens in (
        ("one piece", MeshConfig(data=1, context=2), 2048),
        ("two pieces", MeshConfig(data=1, fsdp=2, context=2, tensor=2), 4096),
    )
    for dtype in ("float32", "bfloat16")
}


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("config", "vocab_size"),
    [
        pytest.param(config, size, id=name, marks=() if name in QUICK else (pytest.mark.slow,))
        for cases, size in ((CASES, VOCAB), (WITH_MANY_WORDS, MANY_WORDS))
        for name, config in cases.items()
    ],
)
def test_the_plan_agrees_with_the_compiler(config: TrainConfig, vocab_size: int) -> None:
    _check_plan(plan_pretraining(config, vocab_size))


def _check_plan(run: PlannedRun) -> None:
    mesh = abstract_mesh(run.config.mesh, math.prod(run.config.mesh.sizes.values()))
    found = compile_step_of(run).memory_analysis()
    plan = plan_memory(run, mesh, CompileTarget(platform="cpu"))
    kept = plan.parameters + plan.frozen + plan.optimizer + plan.batch
    # Besides the counters and the key of the state.
    assert 0 <= found.argument_size_in_bytes - kept <= 64
    # Gradients, gathered weights, activations, logits: what XLA calls temporary.
    assert 0.75 <= (plan.total - kept) / found.temp_size_in_bytes <= 1.25


_TUNING = FinetuneRunConfig(
    model=CONFIG.model,
    base=BaseCheckpoint(run="runs/base", step=1, fingerprint=""),
    batch=CONFIG.batch,
    mesh=MeshConfig(data=1),
    adapter=Lora(rank=8),
)
_TEACHER = FrozenModel(
    run="runs/large", step=1, fingerprint="", model=replace(CONFIG.model, d_model=256)
)
TUNING = {
    "lora": _TUNING,
    "lora, dpo": replace(_TUNING, objective=Dpo()),
    "distillation": replace(
        _TUNING,
        adapter=NO_ADAPTER,
        objective=Distilled(teacher="runs/large", frozen_teacher=_TEACHER),
    ),
}


@pytest.mark.optimized
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, id=name, marks=() if "dpo" in name else (pytest.mark.slow,))
        for name, config in TUNING.items()
    ],
)
def test_the_plan_of_fine_tuning_agrees_with_the_compiler(config: FinetuneRunConfig) -> None:
    packed = replace(CONFIG, data=DataConfig(mask_documents=True))
    row = plan_pretraining(packed, VOCAB).row
    _check_plan(PlannedRun(config, VOCAB, row, num_segments=8))


@pytest.mark.slow
def test_a_frozen_head_needs_no_gradient_and_changed_rows_another_head() -> None:
    def loss_bytes(adapter: Adapter) -> int:
        model = replace(CONFIG.model, num_layers=2)
        run = replace(_TUNING, model=model, adapter=adapter, loss=LossConfig(logits=CHUNKS))
        row = plan_pretraining(CONFIG, 4 * MANY_WORDS).row
        planned, mesh = PlannedRun(run, 4 * MANY_WORDS, row), abstract_mesh(run.mesh, 1)
        return plan_memory(planned, mesh, CompileTarget(platform="cpu")).logits_and_ends

    head = 4 * MANY_WORDS * CONFIG.model.d_model
    frozen, changed = loss_bytes(Lora(rank=8)), loss_bytes(Lora(rank=8, token_ids=(1, 2)))
    assert loss_bytes(NO_ADAPTER) - frozen >= 4 * head
    assert changed - frozen >= 2 * head


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.parametrize("config", RINGS.values(), ids=RINGS)
def test_the_scores_of_a_ring_are_in_the_plan(config: TrainConfig) -> None:
    mesh = abstract_mesh(config.mesh, math.prod(config.mesh.sizes.values()))
    run = plan_pretraining(config, VOCAB)
    found = compile_step_of(run).memory_analysis()
    plan = plan_memory(run, mesh, CompileTarget(platform="cpu"))
    planned = plan.total - plan.parameters - plan.optimizer - plan.batch
    assert planned == pytest.approx(found.temp_size_in_bytes, rel=0.1)


def test_what_is_kept_falls_as_one_over_the_devices() -> None:
    def kept(num_devices: int) -> tuple[int, int]:
        config = _config(MeshConfig(data=1, fsdp=num_devices), NoRemat())
        mesh = abstract_mesh(config.mesh, num_devices)
        state = plan_kept_state(plan_pretraining(config, VOCAB), mesh).abstract
        return bytes_per_device(state.trainable), bytes_per_device(state.opt_state)

    norms = 4 * 128 * (2 * 8 + 1)
    for num_devices in (2, 8):
        parameters, optimizer = kept(num_devices)
        # All but norms, and Adam's two moments of them; and its counters.
        assert parameters - norms == (kept(1)[0] - norms) / num_devices
        assert optimizer == 2 * parameters + kept(1)[1] - 2 * kept(1)[0]
