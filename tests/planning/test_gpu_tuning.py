"""Steps of fine-tuning, compiled for NVIDIA GPUs that are not here."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.batch import Batch
from jaxgpt.config import replace
from jaxgpt.data.loader import BatchConfig
from jaxgpt.evaluation.objective import FrozenModel
from jaxgpt.finetuning.classification.objective import LABEL, SingleLabel
from jaxgpt.finetuning.distillation import Distilled
from jaxgpt.finetuning.preference.dpo import Dpo
from jaxgpt.finetuning.preference.reference import REFERENCE
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.cost import num_parameters
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.adapters import Lora
from jaxgpt.model.layers.feed_forward import Gelu, SwiGlu
from jaxgpt.model.layers.norm_kernel import NORM, NORM_GRADIENT
from jaxgpt.planning.compiled import compile_train_step
from jaxgpt.planning.cross_compile import has_gpu_compiler
from jaxgpt.planning.devices import find_device
from jaxgpt.planning.planned_run import PlannedRun
from jaxgpt.planning.products import product_flops
from jaxgpt.planning.program import custom_kernels, read_program
from jaxgpt.runs.run import BaseCheckpoint
from jaxgpt.runs.tuning.finetune_config import FinetuneRunConfig
from jaxgpt.training.cross_entropy_kernel import CROSS_ENTROPY
from tests.planning.compiling import types_of_gelu

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not has_gpu_compiler(),
        reason="XLA's GPU compiler is absent: pip install -e '.[gpu-compile]'",
    ),
]
VOCAB_SIZE, SHAPE, PARTS = 4096, (32, 384), 2
MODEL = GptConfig(
    num_layers=1,
    d_model=256,
    attention=GroupedQueryAttention(num_heads=4),
    feed_forward=SwiGlu(hidden=512),
    compute_dtype="bfloat16",
)
CONFIG = FinetuneRunConfig(
    model=MODEL,
    base=BaseCheckpoint(run="runs/base", step=1, fingerprint=""),
    batch=BatchConfig(
        sequence_length=SHAPE[1], global_batch_size=SHAPE[0], num_micro_batches=PARTS
    ),
)
TEACHER = FrozenModel(
    run="runs/large",
    step=1,
    fingerprint="",
    model=replace(MODEL, d_model=512, feed_forward=SwiGlu(hidden=768)),
)
CLASSES = SingleLabel(labels=("bad", "good", "new"))


class Case(NamedTuple):
    """A run, what examples bring with their tokens, and kernels of a micro-batch.

    Attributes:
        num_attention: one forward and two backward, as in pretraining (test_gpu_programs.py), and
            the teacher's forward one.
        num_losses: one for each chunk of the usual cross-entropy.
        num_norms: two of the layer and the last one, both ways; where the look-up is frozen, the
            first has no gradient, and XLA's own kernels.
    """

    config: FinetuneRunConfig
    extras: dict[str, jax.ShapeDtypeStruct] | None = None
    num_attention: int = 3
    num_losses: int = 0
    num_norms: int = 6


_IDS = jax.ShapeDtypeStruct(SHAPE, jnp.int32)
CASES = {
    "lora": Case(replace(CONFIG, adapter=Lora(rank=16, alpha=32.0)), num_losses=2, num_norms=4),
    "lora with rows of tokens": Case(
        replace(CONFIG, adapter=Lora(rank=16, alpha=32.0, token_ids=(4, 5, 6, 7))), num_losses=2
    ),
    "dpo": Case(
        replace(CONFIG, objective=Dpo()),
        {REFERENCE: jax.ShapeDtypeStruct((*SHAPE, 2), jnp.float32)},
    ),
    "classification": Case(
        replace(CONFIG, objective=CLASSES, model=CLASSES.adapt_model(MODEL)), {LABEL: _IDS}
    ),
    "distillation": Case(
        replace(CONFIG, objective=Distilled(teacher="runs/large", frozen_teacher=TEACHER)),
        num_attention=4,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_multiplies_in_bfloat16_with_the_attention_of_pretraining(name: str) -> None:
    case = CASES[name]
    weights = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    batch = Batch(_IDS, _IDS, _IDS, _IDS, weights, case.extras)
    run = PlannedRun(case.config, VOCAB_SIZE, batch, num_segments=8)
    compiled = compile_train_step(run, find_device("h100"), 1)
    program = read_program(compiled.as_text() or "")
    assert set(product_flops(program)) == {"bf16 x bf16"}
    assert (program.count("conditional"), program.num_unknown_loops) == (0, 0)
    losses = sum(n for one, n in program.operations() if one.kernel == CROSS_ENTROPY)
    assert losses == case.num_losses * PARTS
    norms = sum(n for one, n in program.operations() if one.kernel in (NORM, NORM_GRADIENT))
    assert norms == case.num_norms * PARTS
    kernels = sum(n for name, n in custom_kernels(program).items() if "cublas" not in name)
    assert kernels - losses - norms == case.num_attention * PARTS
    length = SHAPE[1]
    for operation, _ in program.operations():
        for array in operation.results:
            assert array.shape[-2:] != (length, length) or len(array.shape) < 3, "scores"
    memory = compiled.memory_analysis()
    assert memory is not None
    # Without an adapter each parameter has 12 bytes, with its two moments; frozen ones have 2.
    all_trained = 12 * num_parameters(case.config.model, VOCAB_SIZE)
    assert (memory.argument_size_in_bytes < 0.4 * all_trained) == name.startswith("lora")


def test_gelu_of_an_adapted_projection_is_computed_in_float32() -> None:
    # With dropout the adapter's term is a product of its own.
    adapter, model = Lora(rank=16, dropout=0.1), replace(MODEL, feed_forward=Gelu())
    config = replace(CONFIG, adapter=adapter, model=model)
    batch = Batch(_IDS, _IDS, _IDS, _IDS, jax.ShapeDtypeStruct(SHAPE, jnp.float32))
    run = PlannedRun(config, VOCAB_SIZE, batch, num_segments=8)
    text = compile_train_step(run, find_device("h100"), 1).as_text() or ""
    assert types_of_gelu(text) == {"f32"}
