"""Greedy continuations of many prompts, for tasks whose answers are texts."""

from collections.abc import Sequence

import jax

from jaxgpt.errors import UsageError
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.inference.sliding import SlidingDecoder
from jaxgpt.inference.text_generation import continue_texts, encode_prompt, make_text_decoder
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.parallel.sharding import replicated
from jaxgpt.reports.console import track


def continue_greedily(
    loaded: LoadedModel,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop: Sequence[str],
    batch_size: int = 16,
    silent: bool = False,
) -> list[str]:
    """Return the most probable continuation of each prompt, token by token.

    A text that is longer than the model's context goes on in a sliding window.

    Args:
        loaded: the model; its parameters go to one device.
        prompts: texts to continue.
        max_new_tokens: most new tokens of each.
        stop: strings that end a continuation; they are not part of it.
        batch_size: prompts that are continued together.
        silent: show no progress.

    Raises:
        UsageError: several processes share the devices.
        BadInputError: a prompt is no text.
        DivergedError: the model's scores are not finite.
    """
    if jax.process_count() > 1:
        raise UsageError("tasks that write text run on one host; leave out --hosts")
    # Decoding runs on one device, whatever mesh is in force around it.
    alone = single_device_mesh()
    params = jax.device_put(loaded.params, replicated(alone))
    lengths = [len(encode_prompt(loaded.tokenizer, prompt)) for prompt in prompts]
    # Prompts of like lengths share a batch, since all are padded to the longest.
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    texts = [""] * len(prompts)
    sampling = SamplingConfig(temperature=0.0)
    with jax.set_mesh(alone):
        decoder = make_text_decoder(loaded.model, params, loaded.tokenizer, loaded.context_length)
        window = SlidingDecoder(decoder)
        for batch in track(batches, len(batches), "batches of prompts continued", silent):
            chosen = [prompts[index] for index in batch]
            found = continue_texts(
                window, loaded.tokenizer, chosen, max_new_tokens, sampling, stop=stop
            )
            for index, text in zip(batch, found, strict=True):
                texts[index] = text
    return texts
