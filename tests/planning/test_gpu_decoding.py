"""The decoding step of a model, compiled for an H100 that is not there.

Skipped without the extra `gpu-compile`. XLA's program holds kernels; what the host launches is in
its sequence of thunks, where runs of kernels are command buffers (CUDA graphs).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from jaxgpt.inference.decode_programs import decode_block, prefill
from jaxgpt.inference.decoding_weights import cast_weights, lay_out
from jaxgpt.inference.precision import Precision
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layer_stack import LayerStack, Scanned, Unrolled
from jaxgpt.model.layers.feed_forward import FeedForward, SwiGlu
from jaxgpt.model.layers.grouped_matmul import PRODUCT
from jaxgpt.model.moe.dispatch import Dropless
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from jaxgpt.planning.cross_compile import (
    COMPILER_OPTIONS,
    compile_only_devices,
    compiling_on,
    has_gpu_compiler,
)
from jaxgpt.planning.devices import find_device
from jaxgpt.planning.program import read_program

pytestmark = pytest.mark.skipif(
    not has_gpu_compiler(), reason="XLA's GPU compiler is absent: pip install -e '.[gpu-compile]'"
)
H100 = find_device("h100")
# Without a mesh Pallas of jax 0.11 does not see which card a program is for.
ONE_CARD = AbstractMesh(
    (), (), abstract_device=AbstractDevice("NVIDIA H100 80GB HBM3", None, "cuda")
)
# Widths that no two arrays share.
VOCAB_SIZE, WIDTH, HIDDEN, LENGTH, STEPS = 4096, 320, 832, 256, 4
NUM_EXPERTS = 4
DENSE = SwiGlu(hidden=HIDDEN)
EXPERTS = MixtureOfExperts(num_experts=NUM_EXPERTS, num_active=2, expert=DENSE, dispatch=Dropless())


def _config(
    num_layers: int, num_kv_heads: int, layers: LayerStack, feed_forward: FeedForward = DENSE
) -> GptConfig:
    return GptConfig(
        num_layers=num_layers,
        d_model=WIDTH,
        attention=GroupedQueryAttention(num_heads=5, num_kv_heads=num_kv_heads),
        feed_forward=feed_forward,
        layers=layers,
        compute_dtype="bfloat16",
    )


def _compile_steps(
    config: GptConfig, compiles_prompt: bool, precision: Precision, **options: str
) -> tuple[str, str]:
    """The programs of a prompt, if asked for, and of four steps of one row."""
    model = config.build(VOCAB_SIZE)
    sharding = jax.sharding.SingleDeviceSharding(compile_only_devices(H100, 1)[0])

    def place(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    with compiling_on(H100):
        params = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
        params = precision.round(model, jax.tree.map(jnp.asarray, meta.unbox(params)))
        weights = lay_out(model, cast_weights(model, params))
        greedy = SamplingConfig(temperature=0.0)
        allowed_V = jnp.ones(config.pad_vocab(VOCAB_SIZE), bool)
        keys = jax.random.split(jax.random.key(0), 1)
        tokens = jnp.zeros((1, 128), jnp.int32), jnp.ones(1, jnp.int32), keys
        prompt = place((weights, *tokens, allowed_V))
        empty = precision.empty_cache
        of_prompt: str | None = ""
        if compiles_prompt:
            with use_abstract_mesh(ONE_CARD):
                lowered = prefill.lower(model, greedy, LENGTH, *prompt, empty)
            of_prompt = lowered.compile(compiler_options=COMPILER_OPTIONS).as_text()
        state = jax.eval_shape(lambda *all: prefill(model, greedy, LENGTH, *all, empty), *prompt)
        inputs = place((weights, state, allowed_V))
        with use_abstract_mesh(ONE_CARD):
            step = decode_block.lower(model, greedy, STEPS, *inputs)
    how: Any = {**COMPILER_OPTIONS, **options}
    of_steps = step.compile(compiler_options=how).as_text()
    assert of_prompt is not None
    assert of_steps is not None
    return of_prompt, of_steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "num_kv_heads", "feed_forward", "precision"),
    [
        (Unrolled(), 5, DENSE, Precision()),
        (Scanned(), 1, DENSE, Precision()),
        (Scanned(), 5, DENSE, Precision(weights="int8")),
        (Unrolled(), 5, EXPERTS, Precision(weights="int8", cache="int8")),
    ],
    ids=["unrolled, multi-head", "scanned, multi-query", "int8 weights", "int8 experts and cache"],
)
def test_a_decoding_step_copies_no_weight_and_no_cache(
    layers: LayerStack, num_kv_heads: int, feed_forward: FeedForward, precision: Precision
) -> None:
    config = _config(2, num_kv_heads, layers, feed_forward)
    of_prompt, of_steps = _compile_steps(config, True, precision)
    assert "bf16[" in of_prompt
    assert "u16[" not in of_prompt, "only CPUs keep the cache as bits"
    program = read_program(of_steps)
    kernels = {WIDTH * HIDDEN, NUM_EXPERTS * WIDTH * HIDDEN, WIDTH * WIDTH, VOCAB_SIZE * WIDTH}
    cache = {LENGTH * 64 * num_kv_heads}
    copied = [
        (operation.name, array, operation.source)
        for operation, count in program.kernels()
        if count >= STEPS
        for array in operation.results
        if _size(array.shape) in kernels | cache
        and not re.search("dynamic.update.slice|scatter", operation.name)
    ]
    assert copied == []
    products = [count for operation, count in program.operations() if operation.kernel == PRODUCT]
    assert products == [STEPS] * 3 * 2 * (feed_forward == EXPERTS)


@pytest.fixture
def without_cache() -> Iterator[None]:
    """A program that comes from JAX's cache writes no dump."""
    was_used = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", was_used)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("without_cache")
def test_a_token_takes_few_kernels_that_the_host_launches_as_one(tmp_path: Path) -> None:
    config = _config(1, 5, Unrolled())
    _, text = _compile_steps(config, False, Precision(), xla_dump_to=str(tmp_path))
    counts = [count for _, count in read_program(text).kernels()]
    assert set(counts) <= {1, STEPS}
    # A layer: two norms of two kernels, one product for queries, keys and values, two writes to the
    # cache, scores, the sum of values by their softmax, output, one product for gate and up,
    # activation, down. Outside of layers: angles, the cache's length, the last norm, head, a draw
    # of two kernels, the token's place among those of the block, the number of the step.
    assert counts.count(STEPS) <= 13 + 9
    (sequence,) = tmp_path.glob("*_decode_block.thunk_sequence_after_thunk_passes.txt")
    outside, inside = _thunks_of_a_step(sequence.read_text())
    assert outside == ["kCommandBuffer"]
    assert len(inside) == counts.count(STEPS)


def _thunks_of_a_step(text: str) -> tuple[list[str], list[str]]:
    """Kinds of what the host launches in the body of the loop, and of what command buffers hold."""
    _, body = text.split("body:\n", 1)
    lines = [line for line in body.splitlines() if re.match(r" *\d+: k", line)]
    depth = len(lines[0]) - len(lines[0].lstrip())
    outside: list[str] = []
    inside: list[str] = []
    for line in lines:
        kind = line.split()[1]
        if len(line) - len(line.lstrip()) == depth:
            outside.append(kind)
        elif outside[-1] == "kCommandBuffer":
            inside.append(kind)
    return outside, inside


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for one in shape:
        size *= one
    return size
