"""Greedy continuations of many prompts, for tasks whose answers are texts."""

from collections.abc import Sequence
from typing import NamedTuple

import jax

from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.inference.sliding import SlidingDecoder
from jaxgpt.inference.text_generation import (
    HealedPrompt,
    encode_prompt,
    make_text_decoder,
    stream_text,
)
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.parallel.sharding import replicated
from jaxgpt.reports.console import track


class Continuation(NamedTuple):
    """Text that a model wrote.

    Attributes:
        text: the text, without the string that ended it.
        has_ended: whether the model or a stop string ended it, and not its length.
    """

    text: str
    has_ended: bool


def continue_greedily(
    loaded: LoadedModel,
    prompts: Sequence[str | HealedPrompt],
    max_new_tokens: int,
    stop: Sequence[str],
    batch_size: int = 16,
    silent: bool = False,
) -> list[Continuation]:
    """Return the most probable continuation of each prompt, token by token.

    A text that is longer than the model's context goes on in a sliding window. Of several hosts,
    each continues all prompts, and finds the same.

    Args:
        loaded: the model; its parameters go to one device of each host.
        prompts: texts to continue as they are, or ids, such as those of `loaded.encode_prompt`.
        max_new_tokens: most new tokens of each.
        stop: strings that end a continuation; they are not part of it.
        batch_size: prompts that are continued together.
        silent: show no progress.

    Raises:
        BadInputError: a prompt is no text.
        DivergedError: the model's scores are not finite.
    """
    # Decoding runs on one device, whatever mesh is in force around it.
    alone = single_device_mesh()
    params = jax.device_put(loaded.params_on_this_host, replicated(alone))
    lengths = [
        len(encode_prompt(loaded.tokenizer, prompt) if isinstance(prompt, str) else prompt.ids)
        for prompt in prompts
    ]
    # Prompts of like lengths share a batch, since all are padded to the longest.
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    texts, has_ended = [""] * len(prompts), [False] * len(prompts)
    sampling = SamplingConfig(temperature=0.0)
    with jax.set_mesh(alone):
        decoder = make_text_decoder(
            loaded.model,
            params,
            loaded.tokenizer,
            loaded.context_length,
            loaded.stop_ids,
            loaded.precision,
        )
        window = SlidingDecoder(decoder)
        for batch in track(batches, len(batches), "batches of prompts continued", silent):
            chosen = [prompts[index] for index in batch]
            for piece in stream_text(
                window, loaded.tokenizer, chosen, max_new_tokens, sampling, stop=stop
            ):
                texts[batch[piece.row]] += piece.text
                has_ended[batch[piece.row]] = piece.finish == "stop"
    return [Continuation(*each) for each in zip(texts, has_ended, strict=True)]
