"""Where each of our parameters stands in a published model: one table per family.

Ours have the layers stacked on axis 0 and keep the axes of heads; a linear layer of PyTorch is
[out, in], GPT-2's own are [in, out] with queries, keys and values side by side. Heads come in the
same order and rotary planes pair the same elements, so nothing is permuted. NumPy only.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]
Weights = dict[str, np.ndarray]

# Stands in the rows and columns that only round the vocabulary up; must show nowhere.
VOCAB_PADDING = 9.0


class Source(NamedTuple):
    """A published weight, `*` in its name standing for the layer, and how it becomes ours."""

    name: str
    convert: Callable[[np.ndarray, Shape], np.ndarray]


Table = dict[str, Source]


def same(weight: np.ndarray, shape: Shape) -> np.ndarray:
    """Norms, biases, and GPT-2's [in, out] kernels: at most heads to tell apart."""
    return weight.reshape(shape)


def linear(weight: np.ndarray, shape: Shape) -> np.ndarray:
    """From [out, in] to [in..., out...]."""
    return weight.T.reshape(shape)


def experts(weight: np.ndarray, shape: Shape) -> np.ndarray:
    """Of every expert, from [E, out, in] to [E, in, out]."""
    return weight.swapaxes(1, 2)


def half_of_experts(index: int) -> Callable[[np.ndarray, Shape], np.ndarray]:
    """Gates (0) or ups (1) of every expert, from [E, both outs, in]."""
    return lambda weight, shape: experts(np.split(weight, 2, axis=1)[index], shape)


def third(index: int) -> Callable[[np.ndarray, Shape], np.ndarray]:
    """Queries (0), keys (1) or values (2) of a kernel or bias that holds all three."""
    return lambda weight, shape: np.split(weight, 3, axis=-1)[index].reshape(shape)


def vocab_rows(weight: np.ndarray, shape: Shape) -> np.ndarray:
    """An embedding table, its rows rounded up."""
    padding = ((0, shape[0] - weight.shape[0]), (0, 0))
    return np.pad(weight, padding, constant_values=VOCAB_PADDING)


def vocab_columns(weight: np.ndarray, shape: Shape) -> np.ndarray:
    """A head, from [vocabulary, in] to [in, vocabulary rounded up]."""
    return vocab_rows(weight, shape[::-1]).T


GPT2: Table = {
    "embedding/table": Source("transformer.wte.weight", vocab_rows),
    "position/embedding/table": Source("transformer.wpe.weight", same),
    "blocks/attention_norm/scale": Source("transformer.h.*.ln_1.weight", same),
    "blocks/attention_norm/bias": Source("transformer.h.*.ln_1.bias", same),
    "blocks/attention/query/kernel": Source("transformer.h.*.attn.c_attn.weight", third(0)),
    "blocks/attention/query/bias": Source("transformer.h.*.attn.c_attn.bias", third(0)),
    "blocks/attention/key/kernel": Source("transformer.h.*.attn.c_attn.weight", third(1)),
    "blocks/attention/key/bias": Source("transformer.h.*.attn.c_attn.bias", third(1)),
    "blocks/attention/value/kernel": Source("transformer.h.*.attn.c_attn.weight", third(2)),
    "blocks/attention/value/bias": Source("transformer.h.*.attn.c_attn.bias", third(2)),
    "blocks/attention/output/kernel": Source("transformer.h.*.attn.c_proj.weight", same),
    "blocks/attention/output/bias": Source("transformer.h.*.attn.c_proj.bias", same),
    "blocks/feed_forward_norm/scale": Source("transformer.h.*.ln_2.weight", same),
    "blocks/feed_forward_norm/bias": Source("transformer.h.*.ln_2.bias", same),
    "blocks/feed_forward/up/kernel": Source("transformer.h.*.mlp.c_fc.weight", same),
    "blocks/feed_forward/up/bias": Source("transformer.h.*.mlp.c_fc.bias", same),
    "blocks/feed_forward/down/kernel": Source("transformer.h.*.mlp.c_proj.weight", same),
    "blocks/feed_forward/down/bias": Source("transformer.h.*.mlp.c_proj.bias", same),
    "final_norm/scale": Source("transformer.ln_f.weight", same),
    "final_norm/bias": Source("transformer.ln_f.bias", same),
}

_DECODER: Table = {
    "embedding/table": Source("model.embed_tokens.weight", vocab_rows),
    "blocks/attention_norm/scale": Source("model.layers.*.input_layernorm.weight", same),
    "blocks/attention/query/kernel": Source("model.layers.*.self_attn.q_proj.weight", linear),
    "blocks/attention/key/kernel": Source("model.layers.*.self_attn.k_proj.weight", linear),
    "blocks/attention/value/kernel": Source("model.layers.*.self_attn.v_proj.weight", linear),
    "blocks/attention/output/kernel": Source("model.layers.*.self_attn.o_proj.weight", linear),
    "blocks/feed_forward/gate/kernel": Source("model.layers.*.mlp.gate_proj.weight", linear),
    "blocks/feed_forward/up/kernel": Source("model.layers.*.mlp.up_proj.weight", linear),
    "blocks/feed_forward/down/kernel": Source("model.layers.*.mlp.down_proj.weight", linear),
    "final_norm/scale": Source("model.norm.weight", same),
}

_LLAMA_TIED = _DECODER | {
    "blocks/feed_forward_norm/scale": Source(
        "model.layers.*.post_attention_layernorm.weight", same
    ),
}

LLAMA = _LLAMA_TIED | {"head/kernel": Source("lm_head.weight", vocab_columns)}

_ROUTED = "blocks/feed_forward"
_EXPERTS = {
    f"{_ROUTED}/router/kernel": Source("model.layers.*.mlp.gate.weight", linear),
    f"{_ROUTED}/experts/gate/kernel": Source(
        "model.layers.*.mlp.experts.gate_up_proj", half_of_experts(0)
    ),
    f"{_ROUTED}/experts/up/kernel": Source(
        "model.layers.*.mlp.experts.gate_up_proj", half_of_experts(1)
    ),
    f"{_ROUTED}/experts/down/kernel": Source("model.layers.*.mlp.experts.down_proj", experts),
}
MIXTRAL = {path: source for path, source in LLAMA.items() if "/feed_forward/" not in path}
MIXTRAL |= _EXPERTS

QWEN3_TIED = _LLAMA_TIED | {
    "blocks/attention/query_norm/scale": Source("model.layers.*.self_attn.q_norm.weight", same),
    "blocks/attention/key_norm/scale": Source("model.layers.*.self_attn.k_norm.weight", same),
}

GEMMA2 = _DECODER | {
    "blocks/attention_output_norm/scale": Source(
        "model.layers.*.post_attention_layernorm.weight", same
    ),
    "blocks/feed_forward_norm/scale": Source(
        "model.layers.*.pre_feedforward_layernorm.weight", same
    ),
    "blocks/feed_forward_output_norm/scale": Source(
        "model.layers.*.post_feedforward_layernorm.weight", same
    ),
}


def map_weights(
    table: Table, published: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> Weights:
    """Return our parameters by path.

    Args:
        table: the family's.
        published: every weight of the published model, tied ones once.
        shapes: every parameter of ours, by path.

    Raises:
        ValueError: a weight is left over or a parameter unfilled.
    """
    if unfilled := shapes.keys() ^ table.keys():
        raise ValueError(f"parameters on one side only, model or table: {sorted(unfilled)}")
    used: set[str] = set()

    def take(name: str, convert: Callable[[np.ndarray, Shape], np.ndarray], shape: Shape):
        used.add(name)
        return convert(published[name], shape)

    ours = {}
    for path, (name, convert) in table.items():
        shape = shapes[path]
        if "*" in name:
            ours[path] = np.stack(
                [take(name.replace("*", str(i)), convert, shape[1:]) for i in range(shape[0])]
            )
        else:
            ours[path] = take(name, convert, shape)
        assert ours[path].shape == shape, (path, ours[path].shape, shape)
    if unused := published.keys() - used:
        raise ValueError(f"published weights that no parameter took: {sorted(unused)}")
    return ours
