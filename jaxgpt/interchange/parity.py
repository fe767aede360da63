"""Comparison of an exported folder, as transformers reads it, with the model that it came from."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgpt.config import replace
from jaxgpt.errors import MismatchError
from jaxgpt.model.gpt import GptConfig
from jaxgpt.names.packages import import_package, install_advice
from jaxgpt.tokenizer.tokenizer import Tokenizer

NUM_STRINGS = 300
_ROWS, _LENGTH = 2, 64
# Rounding alone; a wrong formula or a weight in a wrong place is far above.
_TOLERANCE = 1e-3
# Ranges of characters that texts are drawn from; the first ones more often.
_RANGES = ((32, 127), (32, 33), (9, 11), (97, 123), (0xA0, 0x250), (0x370, 0x500), (0x4E00, 0x5000),
           (0x1F300, 0x1F600), (0x200B, 0x2010), (0, 32))  # fmt: skip


class Parity(NamedTuple):
    """Result of a comparison; None: not checked, because a package is missing.

    Attributes:
        max_logit_difference: largest absolute difference of two logits.
        num_strings: texts that were encoded by both.
        ids_equal: whether all of them have the same ids.
    """

    max_logit_difference: float | None
    num_strings: int | None
    ids_equal: bool | None

    def describe(self) -> list[str]:
        """Return lines for a person."""
        missing = "not checked (pip install -e '.[parity]' installs transformers and torch)"
        ids, logits = missing, missing
        if self.ids_equal is not None:
            ids = f"equal for {self.num_strings} random texts"
        if self.max_logit_difference is not None:
            logits = f"largest difference {self.max_logit_difference:.2g}"
        return [f"ids against transformers: {ids}", f"logits against transformers: {logits}"]


def has_package(*names: str) -> bool:
    """Return whether all of the packages are installed."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def import_transformers() -> Any:
    """Return the package, without a network and without progress bars.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = import_package("transformers", "the comparison", install_advice("parity"))
    transformers.utils.logging.disable_progress_bar()
    return transformers


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of many scripts, with runs of white space, emoji and control characters."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        weights = np.arange(len(_RANGES), 0, -1.0)
        chosen = rng.choice(len(_RANGES), rng.integers(1, 40), p=weights / weights.sum())
        texts.append("".join(chr(rng.integers(*_RANGES[index])) for index in chosen))
    return texts


def compare_ids(folder: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Return the texts that transformers, reading the folder, gives other ids than ours does."""
    theirs = import_transformers().AutoTokenizer.from_pretrained(folder)
    settings = {"add_special_tokens": False, "verbose": False}
    found = (theirs(text, **settings)["input_ids"] for text in texts)
    ours = (tokenizer.encode(text) for text in texts)
    return [text for text, one, other in zip(texts, ours, found, strict=True) if one != other]


def our_logits(
    config: GptConfig, params: Any, vocab_size: int, tokens_BT: np.ndarray
) -> np.ndarray:
    """Return the logits of our model in float32, without the columns that pad the vocabulary."""
    model = replace(config, compute_dtype="float32").build(vocab_size)
    with jax.default_matmul_precision("highest"):
        logits_BTV, _ = jax.jit(model.apply)({"params": params}, tokens_BT)
    return np.asarray(logits_BTV[..., :vocab_size])


def their_logits(folder: Path, tokens_BT: np.ndarray) -> np.ndarray:
    """Return the logits of the model in a folder, read by transformers and computed in float32.

    Raises:
        MismatchError: transformers misses weights, or finds some that it does not know.
    """
    transformers = import_transformers()
    torch = import_package("torch", "the comparison", install_advice("parity"))
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if problems := {name: sorted(keys) for name, keys in loading.items() if keys}:
        raise MismatchError(f"transformers reads other weights than were written: {problems}")
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens_BT, dtype=torch.long)).logits.numpy()


def check_parity(
    folder: Path, config: GptConfig, params: Any, tokenizer: Tokenizer, context_length: int
) -> Parity:
    """Compare ids and logits of a folder with ours, as far as transformers and torch are installed.

    Args:
        folder: as exported.
        config: of the model.
        params: its parameters, rounded as the exported ones.
        tokenizer: its tokenizer.
        context_length: most tokens of a row.

    Raises:
        MismatchError: they are not the same.
    """
    if not has_package("transformers"):
        return Parity(None, None, None)
    different = compare_ids(folder, tokenizer, random_texts(NUM_STRINGS))
    if different:
        raise MismatchError(
            f"transformers gives {len(different)} of {NUM_STRINGS} texts other ids, such as "
            f"{different[0]!r}; nothing is written: please report it with the versions of "
            "tokenizers and transformers"
        )
    if not has_package("torch"):
        return Parity(None, NUM_STRINGS, True)
    shape = (_ROWS, min(_LENGTH, context_length))
    tokens_BT = np.random.default_rng(0).integers(0, tokenizer.vocab_size, shape).astype(np.int32)
    ours = our_logits(config, params, tokenizer.vocab_size, tokens_BT)
    # Published tables may have rows that no token uses.
    theirs = their_logits(folder, tokens_BT)[..., : tokenizer.vocab_size]
    difference = float(np.abs(ours - theirs).max())
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(ours).max())):
        raise MismatchError(
            f"transformers computes other logits, by up to {difference:.3g}; nothing is written: "
            "please report it with the versions of torch and transformers"
        )
    return Parity(difference, NUM_STRINGS, True)
