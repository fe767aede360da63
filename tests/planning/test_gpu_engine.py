"""The programs of the engine, compiled for an H100 that is not there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.engine.drawing.row_sampling import RowSettings
from jaxgpt.inference.engine.slots.adapters import AdaptedDecoder, DecoderAdapter
from jaxgpt.inference.engine.slots.slots import (
    all_allowed,
    begin,
    copy_slot,
    decode,
    draw_first,
    empty_slots,
    read_and_score_chunk,
    read_chunk,
)
from jaxgpt.inference.engine.slots.verify import verify_drafts
from jaxgpt.inference.engine.speculation.draft_model import write_ahead
from jaxgpt.inference.precision import Precision
from jaxgpt.model.adapted import split
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.model.layers.adapters import Lora
from jaxgpt.model.stacked_adapters import TrainedAdapter
from jaxgpt.planning.cross_compile import (
    COMPILER_OPTIONS,
    compile_only_devices,
    compiling_on,
    has_gpu_compiler,
)
from jaxgpt.planning.devices import find_device

pytestmark = pytest.mark.skipif(
    not has_gpu_compiler(), reason="needs: pip install -e '.[gpu-compile]'"
)
H100 = find_device("h100")
SLOTS, LENGTH, CHUNK, STEPS, DRAFTS = 4, 256, 128, 4, 3


CONFIG = GptConfig(
    num_layers=2,
    d_model=128,
    attention=GroupedQueryAttention(num_heads=2),
    compute_dtype="bfloat16",
)
ADAPTERS = (Lora(rank=4), Lora(rank=8, targets=("query", "down"), token_ids=(5, 7)))


def place(tree: Any) -> Any:
    """Return the shapes of arrays, on the card."""
    sharding = jax.sharding.SingleDeviceSharding(compile_only_devices(H100, 1)[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def _lower_speculation(model: Gpt, params: Any, slots: Any) -> list[Any]:
    """Return the programs that verify drafts, and that write ahead with the model itself."""
    columns, numbers = model.config.pad_vocab(model.vocab_size), np.zeros(SLOTS, np.int32)
    settings, stop_V = RowSettings.defaults(SLOTS), np.zeros(columns, bool)
    drafts = np.zeros((SLOTS, DRAFTS), np.int32), numbers
    verify = jax.jit(verify_drafts, static_argnums=0, donate_argnums=2)
    active = np.ones(SLOTS, bool)
    verified = (params, slots, active, *drafts, settings, all_allowed(SLOTS, columns), stop_V)
    new = numbers, np.zeros((SLOTS, 2), np.int32), numbers
    ahead = (params, slots.cache, *new, settings, slots.seen, stop_V)
    return [
        verify.lower(model, *place(verified)),
        write_ahead.lower(model, DRAFTS, *place(ahead)),
    ]


@pytest.mark.parametrize(
    "precision",
    [Precision(), pytest.param(Precision(cache="int8"), marks=pytest.mark.slow)],
    ids=["model's cache", "int8 cache"],
)
def test_xla_accepts_all_programs_of_the_engine(precision: Precision) -> None:
    config, model = CONFIG, CONFIG.build(1000)
    with compiling_on(H100):
        tokens = jnp.zeros((1, 2), jnp.int32)
        params = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens)["params"])
        slots = jax.eval_shape(lambda: empty_slots(model, SLOTS, LENGTH, precision.empty_cache))
        columns = config.pad_vocab(1000)
        number, flag = np.int32(0), np.bool_(False)
        chunk = np.zeros(CHUNK, np.int32)
        row_V = np.zeros(columns, np.float32)
        stop_V = np.zeros(columns, bool)
        one = RowSettings.defaults(1), all_allowed(1, columns), stop_V
        many = RowSettings.defaults(SLOTS), all_allowed(SLOTS, columns), flag, stop_V, number
        first = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), slots.seen
        )
        programs: list[Any] = [
            begin.lower(*place((slots, number, number, first))),
            copy_slot.lower(*place((slots, number, number))),
            read_chunk.lower(model, *place((params, slots, number, chunk, number))),
            read_and_score_chunk.lower(
                model, *place((params, slots, number, chunk, chunk, number, flag))
            ),
            draw_first.lower(*place((slots, number, row_V, *one))),
            decode.lower(model, STEPS, *place((params, slots, np.zeros(SLOTS, bool), *many))),
            *_lower_speculation(model, params, slots),
        ]
        for program in programs:
            assert program.compile(compiler_options=COMPILER_OPTIONS).as_text()


@pytest.mark.slow
def test_xla_accepts_rows_with_adapters_of_their_own() -> None:
    tokens, key = jnp.zeros((1, 2), jnp.int32), jax.random.key(0)
    model, adapters = CONFIG.build(1000), []
    for adapter in ADAPTERS:
        adapted = CONFIG.build(1000, adapter)
        shapes = meta.unbox(jax.eval_shape(adapted.init, key, tokens)["params"])
        own, params = split(shapes, adapter.is_trainable)
        own = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), own)
        adapters.append(DecoderAdapter(TrainedAdapter(adapter, own), (2,), ()))
    base = Decoder(model=model, params=params, stop_ids=(2,), forbidden_ids=(), context_length=9)
    decoder = AdaptedDecoder(base, adapters)
    with compiling_on(H100):
        slots = jax.eval_shape(lambda: empty_slots(model, SLOTS, LENGTH))
        columns = CONFIG.pad_vocab(1000)
        number, flag, stop_V = np.int32(0), np.bool_(False), np.zeros(columns, bool)
        one, many = (decoder.params(np.zeros(rows, np.int32)) for rows in (1, SLOTS))
        settings = RowSettings.defaults(SLOTS), all_allowed(SLOTS, columns), flag, stop_V, number
        chunk = np.zeros(CHUNK, np.int32)
        read = read_chunk.lower(model, *place((one, slots, number, chunk, number)))
        drawn = decode.lower(model, STEPS, *place((many, slots, np.zeros(SLOTS, bool), *settings)))
        programs: list[Any] = [read, drawn]
        for program in programs:
            assert program.compile(compiler_options=COMPILER_OPTIONS).as_text()
