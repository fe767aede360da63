"""The programs of the engine, compiled for an H100 that is not there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.inference.engine.row_sampling import RowSettings
from jaxgpt.inference.engine.slots import (
    all_allowed,
    begin,
    copy_slot,
    decode,
    draw_first,
    empty_slots,
    read_and_score_chunk,
    read_chunk,
)
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
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
SLOTS, LENGTH, CHUNK, STEPS = 4, 256, 128, 4


def test_xla_accepts_all_programs_of_the_engine() -> None:
    config = GptConfig(
        num_layers=2,
        d_model=128,
        attention=GroupedQueryAttention(num_heads=2),
        compute_dtype="bfloat16",
    )
    model = config.build(1000)
    sharding = jax.sharding.SingleDeviceSharding(compile_only_devices(H100, 1)[0])

    def place(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    with compiling_on(H100):
        tokens = jnp.zeros((1, 2), jnp.int32)
        params = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens)["params"])
        slots = jax.eval_shape(lambda: empty_slots(model, SLOTS, LENGTH))
        columns = config.pad_vocab(1000)
        number, flag = np.int32(0), np.bool_(False)
        chunk = np.zeros(CHUNK, np.int32)
        row_V = np.zeros(columns, np.float32)
        stop_V = np.zeros(columns, bool)
        one = RowSettings.defaults(1), all_allowed(1, columns), stop_V
        many = RowSettings.defaults(SLOTS), all_allowed(SLOTS, columns), flag, stop_V, number
        programs: list[Any] = [
            begin.lower(*place((slots, number, number, stop_V, row_V))),
            copy_slot.lower(*place((slots, number, number))),
            read_chunk.lower(model, *place((params, slots, number, chunk, number))),
            read_and_score_chunk.lower(
                model, *place((params, slots, number, chunk, chunk, number, flag))
            ),
            draw_first.lower(*place((slots, number, row_V, *one))),
            decode.lower(model, STEPS, *place((params, slots, np.zeros(SLOTS, bool), *many))),
        ]
        for program in programs:
            assert program.compile(compiler_options=COMPILER_OPTIONS).as_text()
