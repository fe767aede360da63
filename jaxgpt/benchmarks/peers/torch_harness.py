"""lm-evaluation-harness's `hf` back-end for comparison, in the process of PyTorch alone."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tokenizers
import torch
from lm_eval.models.huggingface import HFLM
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


class TorchHarness:
    """GPT-2 with given weights, scoring given continuations.

    Args:
        shape: of `GPT2Config`.
        settings: `batch_size`, rows per batch.
        arrays: weights by name; `ids`, all tokens one after the other; `lengths`, those of each
            context and its continuation, int [requests, 2].
    """

    def __init__(
        self, shape: Mapping[str, int], settings: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> None:
        arrays = dict(arrays)
        ids, lengths = arrays.pop("ids"), arrays.pop("lengths")
        parts = np.split(ids, np.cumsum(lengths.ravel())[:-1])
        self._requests = [
            (("", ""), context.tolist(), continuation.tolist())
            for context, continuation in zip(parts[::2], parts[1::2], strict=True)
        ]
        sizes: dict[str, Any] = {**shape, "bos_token_id": None, "eos_token_id": None}
        model: Any = GPT2LMHeadModel(GPT2Config(**sizes))
        model.load_state_dict({name: torch.tensor(each) for name, each in arrays.items()})
        # The requests are tokens already: this one only has to be there.
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), eos_token="</s>"
        )
        # Its registration hides the type of the class.
        harness_class: Any = HFLM
        self._harness = harness_class(
            pretrained=model.eval(),
            tokenizer=tokenizer,
            batch_size=settings["batch_size"],
            max_length=shape["n_positions"],
            device="cuda" if torch.cuda.is_available() else "cpu",
        )

    def score(self) -> tuple[float, list[float]]:
        """Score the requests; the seconds by the clock, and the log-likelihoods."""
        start = time.perf_counter()
        found = self._harness._loglikelihood_tokens(self._requests, disable_tqdm=True)
        return time.perf_counter() - start, [float(value) for value, _ in found]
