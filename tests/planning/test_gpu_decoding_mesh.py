"""Decoding on several GPUs that share a model, compiled for H100s that are not there."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgpt.inference.decoding_mesh import DecodingMesh, on_devices
from jaxgpt.inference.decoding_weights import LayerArrays
from jaxgpt.inference.engine.drawing.row_sampling import RowSettings
from jaxgpt.inference.engine.slots.slots import all_allowed, decode, empty_slots
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.feed_forward import FeedForward, SwiGlu
from jaxgpt.model.moe.dispatch import Dropless
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, replicated
from jaxgpt.planning.cross_compile import (
    COMPILER_OPTIONS,
    compile_only_devices,
    compiling_on,
    has_gpu_compiler,
)
from jaxgpt.planning.devices import find_device
from jaxgpt.planning.program import collectives, read_program
from jaxgpt.training.state import abstract_parameters

pytestmark = [
    pytest.mark.skipif(not has_gpu_compiler(), reason="needs: pip install -e '.[gpu-compile]'"),
    pytest.mark.slow,
]
H100 = find_device("h100")
SLOTS, LENGTH, STEPS = 4, 256, 4


@pytest.mark.parametrize(
    ("mesh", "feed_forward", "in_a_layer"),
    [
        (DecodingMesh(tensor=2), SwiGlu(hidden=512), {"all-reduce": 2}),
        (DecodingMesh(tensor=8), SwiGlu(hidden=512), {"all-reduce": 2}),
        (
            DecodingMesh(tensor=2, expert=4),
            MixtureOfExperts(expert=SwiGlu(hidden=512), dispatch=Dropless()),
            {"all-reduce": 3},
        ),
    ],
    ids=["2 GPUs", "8 GPUs", "8 GPUs with experts"],
)
def test_devices_exchange_the_sums_of_a_layer_and_nothing_larger(
    mesh: DecodingMesh, feed_forward: FeedForward, in_a_layer: dict[str, int]
) -> None:
    num_layers, width, vocab_size = 3, 256, 1024
    config = GptConfig(
        num_layers=num_layers,
        d_model=width,
        attention=GroupedQueryAttention(num_heads=8),
        feed_forward=feed_forward,
        compute_dtype="bfloat16",
    )
    model, rules = config.build(vocab_size), ShardingRules()
    devices = compile_only_devices(H100, mesh.tensor * mesh.expert)
    sizes = MeshConfig(data=1, tensor=mesh.tensor, expert=mesh.expert)
    shared = make_mesh(sizes, devices)
    everywhere = replicated(shared)
    heads = NamedSharding(shared, PartitionSpec(None, "tensor"))

    def place(tree: Any, sharding: NamedSharding) -> Any:
        return jax.tree.map(
            lambda leaf: leaf.update(sharding=sharding), jax.eval_shape(lambda: tree)
        )

    stacked, _ = abstract_parameters(model, rules, shared)
    params = {**stacked, "blocks": jax.tree.map(_cut_apart, stacked["blocks"])}
    with compiling_on(H100):
        slots = jax.eval_shape(lambda: empty_slots(model, SLOTS, LENGTH))
    cache = jax.tree.map(
        lambda leaf: leaf.update(sharding=heads if leaf.ndim > 1 else everywhere), slots.cache
    )
    slots = place(slots, everywhere)._replace(cache=cache)
    columns = config.pad_vocab(vocab_size)
    about = RowSettings.defaults(SLOTS), all_allowed(SLOTS, columns)
    rest = np.zeros(SLOTS, bool), *about, np.bool_(False), np.zeros(columns, bool), np.int32(0)
    inputs = params, slots, *place(rest, everywhere)
    with compiling_on(H100), on_devices(shared, rules)():
        lowered = decode.lower(model, STEPS, *inputs)
        text = lowered.compile(compiler_options=COMPILER_OPTIONS).as_text()
    assert text is not None
    found = collections.Counter()
    for one in collectives(read_program(text)):
        found[one.kind] += one.count
        assert one.num_bytes <= 4 * SLOTS * max(columns, width)
    expected = collections.Counter({kind: num_layers * n for kind, n in in_a_layer.items()})
    # The rows of the table, and the scores of the next token.
    assert found - expected == {"all-reduce": 1, "all-gather": 1}
    assert expected - found == {}


def _cut_apart(leaf: jax.ShapeDtypeStruct) -> LayerArrays:
    """Return the shapes of what `lay_out` makes of a stack."""
    spec = PartitionSpec(*leaf.sharding.spec[1:])
    sharding = NamedSharding(leaf.sharding.mesh, spec)
    one = jax.ShapeDtypeStruct(leaf.shape[1:], jnp.bfloat16, sharding=sharding)
    return LayerArrays([one] * leaf.shape[0])
