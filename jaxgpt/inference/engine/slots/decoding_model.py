"""The model that decodes in the slots of a cache: with another kernel of attention, on one CPU."""

from jaxgpt.config import replace
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.attention.cached_blocks import CachedBlocks
from jaxgpt.model.gpt import Gpt
from jaxgpt.runtime.target import compile_target

_MOST_BLOCKS = 8


def make_decoding_model(model: Gpt, max_length: int, is_shared: bool) -> Gpt:
    """Return a model that reads as much of a cache as its longest row needs.

    On one CPU, where reading is what a step's time is spent on. A GPU would wait for the number.

    Args:
        model: reads prompts.
        max_length: tokens that a slot holds.
        is_shared: whether several devices hold the parameters.
    """
    attention = model.config.attention
    is_one_cpu = compile_target().is_cpu and not is_shared
    if not is_one_cpu or not isinstance(attention, GroupedQueryAttention):
        return model
    # More blocks would take longer to compile than they save.
    kernel = CachedBlocks()
    kernel = replace(kernel, block=max(kernel.block, -(-max_length // _MOST_BLOCKS)))
    attention = replace(attention, kernel=kernel)
    return model.clone(config=replace(model.config, attention=attention))
