"""Adapters of the engine's model: each request has one, or none.

The arrays of all adapters lie on the device next to the model's. A program takes the numbers of its
rows' adapters and gathers theirs. Without adapters it is the same program as ever.

Axes: B rows, A adapters and none.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_weights import LayerArrays, are_shared, copy_to_devices_of
from jaxgpt.model.adapted import join
from jaxgpt.model.gpt import Gpt
from jaxgpt.model.layers.row_adapters import RowAdapters
from jaxgpt.model.stacked_adapters import TrainedAdapter, stack_adapters


class DecoderAdapter(NamedTuple):
    """An adapter of a decoder's model.

    Attributes:
        trained: the adapter and its parameters.
        stop_ids: ids that end a text of the adapted model.
        forbidden_ids: ids that it never draws.
    """

    trained: TrainedAdapter
    stop_ids: tuple[int, ...]
    forbidden_ids: tuple[int, ...]


@flax.struct.dataclass
class RowParams:
    """Parameters of a model in which each row has an adapter.

    Attributes:
        base: the model's, as a decoder has them.
        stacks: arrays of all adapters, each [A, ...].
        adapters_B: int32, the adapter of each row; 0 for none.
        adapter: settings of the adapters.
    """

    base: Any
    stacks: Any
    adapters_B: Array | np.ndarray
    adapter: RowAdapters = flax.struct.field(pytree_node=False)


def choose_rows(model: Gpt, params: Any) -> tuple[Gpt, Any]:
    """Return the model and the parameters with the adapter of each row, within a program.

    Args:
        model: without adapter.
        params: from `AdaptedDecoder.params`.
    """
    if not isinstance(params, RowParams):
        return model, params
    rows_B = params.adapters_B
    own = jax.tree.map(lambda leaf: jnp.take(leaf, rows_B, 0, mode="clip"), params.stacks)
    adapter = dataclasses.replace(params.adapter, num_rows=rows_B.shape[0])
    return model.clone(adapter=adapter), join(params.base, own)


class AdaptedDecoder:
    """A decoder's model with adapters, of which each row has one or none.

    Args:
        decoder: the model, its parameters, and which ids end a text or are never drawn.
        adapters: get the numbers from 1 on; 0 is the model alone.

    Attributes:
        model: without adapter.
        empty_cache: makes a cache; see `Decoder`.
        on_devices: makes the context of programs; see `Decoder`.
        is_shared: whether several devices hold the parameters.
        stop_ids: ids that end a text of any adapter.
        largest: the largest number of an adapter.
    """

    def __init__(self, decoder: Decoder, adapters: Sequence[DecoderAdapter] = ()) -> None:
        self.model = decoder.model
        self.empty_cache = decoder.empty_cache
        self.on_devices = decoder.on_devices
        self.is_shared = are_shared(decoder.params)
        self.largest = len(adapters)
        each_stop = [decoder.stop_ids, *(each.stop_ids for each in adapters)]
        forbidden = [decoder.forbidden_ids, *(each.forbidden_ids for each in adapters)]
        self.stop_ids = tuple(sorted({token for ids in each_stop for token in ids}))
        # Where only texts of another adapter end is never drawn.
        self._forbidden = [
            tuple(sorted({*ids} | ({*self.stop_ids} - {*stop})))
            for ids, stop in zip(forbidden, each_stop, strict=True)
        ]
        self._base = decoder.params
        self._adapter: RowAdapters | None = None
        if adapters:
            trained = [each.trained for each in adapters]
            dtype = decoder.model.config.compute_dtype
            self._adapter, stacks = stack_adapters(trained, dtype)
            self._stacks = _by_layer(copy_to_devices_of(decoder.params, stacks))

    def forbidden_ids(self, number: int) -> tuple[int, ...]:
        """Return the ids that a request with an adapter never draws."""
        return self._forbidden[number]

    def params(self, adapters_B: np.ndarray) -> Any:
        """Return what the programs take for rows with these adapters."""
        if self._adapter is None:
            return self._base
        return RowParams(self._base, self._stacks, adapters_B.copy(), self._adapter)


def _by_layer(stacks: dict[str, Any]) -> dict[str, Any]:
    """Return one array for each layer, [A, ...], where there is one of all of them."""
    blocks = jax.tree.map(lambda leaf: LayerArrays(list(leaf)), stacks.get("blocks", {}))
    return {**stacks, "blocks": blocks} if blocks else stacks
