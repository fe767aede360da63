"""The real llama.cpp, by the package `xllamacpp`, next to the model that a file came from.

Axes: T tokens, V vocabulary.
"""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgpt.errors import MismatchError
from jaxgpt.interchange.gguf.gguf_file import GgufDtype
from jaxgpt.interchange.parity import NUM_STRINGS, has_package, our_logits, random_texts
from jaxgpt.model.gpt import GptConfig
from jaxgpt.names.packages import import_package, install_advice
from jaxgpt.tokenizer.sentencepiece_model import CONTROL_PIECES, SPACE_SYMBOL
from jaxgpt.tokenizer.tokenizer import Tokenizer

# Largest difference of two log-probabilities that rounding explains: llama.cpp also rounds the
# inputs of each product to the type of the weights, and takes GELU from a table of float16.
_TOLERANCES = {"F32": 1e-2, "F16": 0.1, "BF16": 0.5, "Q8_0": 1.0}
_SECONDS_TO_ANSWER = 600.0
# The server is in this process: no proxy leads there.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class WritingPlan(NamedTuple):
    """Tokens of the prompt, tokens to write, and of these, places where all ids are compared."""

    prompt: int = 224
    written: int = 24
    compared: int = 4


class LlamaCppParity(NamedTuple):
    """Result of a comparison; None: not checked, because a package is missing.

    Attributes:
        max_logprob_difference: largest absolute difference of two log-probabilities.
        num_greedy_equal: tokens written by llama.cpp that are the most likely ones here.
        num_greedy: tokens written.
        num_strings: texts that were encoded by both.
        ids_equal: whether all of them have the same ids.
        max_adapter_difference: as `max_logprob_difference`, of the base with the adapter's file.
        no_adapter: why there is no file of the adapter; None if there is one, or no adapter.
    """

    max_logprob_difference: float | None = None
    num_greedy_equal: int | None = None
    num_greedy: int | None = None
    num_strings: int | None = None
    ids_equal: bool | None = None
    max_adapter_difference: float | None = None
    no_adapter: str | None = None

    def describe(self) -> list[str]:
        """Return lines for a person."""
        return [*self._describe_model(), *self._describe_adapter()]

    def _describe_adapter(self) -> list[str]:
        if self.no_adapter is not None:
            return [f"no file of the adapter alone: {self.no_adapter}"]
        if self.max_adapter_difference is None:
            return []
        return [
            "log-probabilities of the base with adapter.gguf: largest difference "
            f"{self.max_adapter_difference:.2g}"
        ]

    def _describe_model(self) -> list[str]:
        if self.ids_equal is None:
            return ["llama.cpp: not checked (pip install -e '.[parity]' installs xllamacpp)"]
        return [
            f"ids against llama.cpp: equal for {self.num_strings} random texts",
            f"log-probabilities against llama.cpp: largest difference "
            f"{self.max_logprob_difference:.2g}; {self.num_greedy_equal} of {self.num_greedy} "
            "greedy tokens equal",
        ]


class LlamaCpp:
    """llama.cpp's server for a GGUF file, on two threads of this process.

    Weights keep the type of the file; keys and values are float32.
    """

    def __init__(
        self, path: Path, context_length: int, adapter: Path | None = None, num_slots: int = 1
    ) -> None:
        """Start the server.

        Args:
            path: of the file, or of its first shard.
            context_length: most tokens of a text.
            adapter: file of a LoRA adapter that is added to the model.
            num_slots: texts that are written at once.

        Raises:
            ConfigError: xllamacpp is not installed.
            MismatchError: llama.cpp does not read the file.
        """
        package = import_package("xllamacpp", "the comparison", install_advice("parity"))
        params = package.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context_length * num_slots
        if adapter is not None:
            params.lora_adapters = [package.CommonAdapterLoraInfo(str(adapter), 1.0)]
        params.n_parallel = num_slots
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.warmup = False
        params.verbosity = 0
        params.flash_attn_type = package.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = package.ggml_type.GGML_TYPE_F32
        try:
            self._server = package.Server(params)
        except RuntimeError as error:
            raise MismatchError(f"llama.cpp does not read {adapter or path}: {error}") from None

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of an endpoint."""
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        address = f"{self._server.listening_address}{path}"
        request = urllib.request.Request(address, content, headers)
        with _direct.open(request, timeout=_SECONDS_TO_ANSWER) as answer:
            return json.load(answer)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without BOS; control tokens in it stay text."""
        body = {"content": text, "add_special": False, "parse_special": False}
        return self.post("/tokenize", body)["tokens"]

    def write(self, ids: Sequence[int], count: int) -> list[int]:
        """Return the most likely tokens after a prompt, but for those that end a text."""
        return self._complete(ids, n_predict=count, ignore_eos=True)["tokens"]

    def logprobs(self, ids: Sequence[int], vocab_size: int, letter: int) -> np.ndarray:
        """Return the log-probabilities of all ids after a prompt, float64 [V].

        Args:
            ids: of the prompt.
            vocab_size: number of ids.
            letter: id of a letter, which is written: probabilities before a part of a character are
                not told. They are those before the bias.
        """
        answer = self._complete(ids, n_predict=1, n_probs=vocab_size, logit_bias=[[letter, 1e6]])
        logprobs_V = np.full(vocab_size, -np.inf)
        for entry in answer["completion_probabilities"][0]["top_logprobs"]:
            logprobs_V[entry["id"]] = entry["logprob"]
        return logprobs_V

    def _complete(self, ids: Sequence[int], **options: Any) -> dict[str, Any]:
        greedy = {"samplers": ["top_k"], "top_k": 1, "return_tokens": True}
        return self.post("/completion", {"prompt": list(ids), **greedy, **options})


def comparable_texts(count: int, seed: int = 0) -> list[str]:
    """Return random texts that llama.cpp can tell apart: none spells its symbol of a space."""
    texts = random_texts(count, seed)
    return [text.replace(SPACE_SYMBOL, " ") for text in texts]


def compare_writing(
    server: LlamaCpp, config: GptConfig, params: Any, tokenizer: Tokenizer, plan: WritingPlan
) -> tuple[float, int]:
    """Let llama.cpp write after a random prompt, and compare each token with our model.

    Args:
        server: with the file.
        config: of our model.
        params: its parameters.
        tokenizer: its tokenizer.
        plan: tokens to write and to compare.

    Returns:
        The largest absolute difference of two log-probabilities, and how many of the tokens are
        the most likely ones here.
    """
    vocab_size, length = tokenizer.vocab_size, plan.prompt
    rng = np.random.default_rng(0)
    prompt = rng.integers(len(CONTROL_PIECES), vocab_size, length).tolist()
    row = prompt + server.write(prompt, plan.written)
    logits_TV = our_logits(config, params, vocab_size, np.array([row], np.int32))[0]
    ours_TV = np.asarray(jax.nn.log_softmax(logits_TV))
    written_TV = ours_TV[length - 1 : -1].copy()
    # llama.cpp was told to write none of these.
    written_TV[:, [tokenizer.eos_id, tokenizer.special_ids["end"]]] = -np.inf
    num_equal = int((written_TV.argmax(-1) == row[length:]).sum())
    (letter,) = tokenizer.encode("e")
    difference = 0.0
    for place in np.linspace(length, len(row), plan.compared).astype(int):
        theirs_V = server.logprobs(row[:place], vocab_size, letter)
        difference = max(difference, float(np.abs(ours_TV[place - 1] - theirs_V).max()))
    return difference, num_equal


def check_llama_cpp(
    folder: Path,
    config: GptConfig,
    params: Any,
    tokenizer: Tokenizer,
    context_length: int,
    dtype: GgufDtype,
) -> LlamaCppParity:
    """Compare ids and log-probabilities of a file with ours, if xllamacpp is installed.

    Args:
        folder: as exported.
        config: of the model.
        params: its parameters, not rounded.
        tokenizer: its tokenizer.
        context_length: most tokens of a text.
        dtype: of the stored matrices.

    Raises:
        MismatchError: they are not the same.
    """
    if not has_package("xllamacpp"):
        return LlamaCppParity()
    server = LlamaCpp(_first_file(folder), context_length)
    texts = comparable_texts(NUM_STRINGS)
    different = [text for text in texts if server.encode(text) != tokenizer.encode(text)]
    if different:
        raise MismatchError(
            f"llama.cpp gives {len(different)} of {NUM_STRINGS} texts other ids, such as "
            f"{different[0]!r}; nothing is written: please report it with the version of xllamacpp"
        )
    found = _compare(server, config, params, tokenizer, context_length, dtype)
    return LlamaCppParity(*found, NUM_STRINGS, True)


def check_adapter_file(
    base: Path,
    adapter: Path,
    config: GptConfig,
    params: Any,
    tokenizer: Tokenizer,
    context_length: int,
    dtype: GgufDtype,
) -> float:
    """Return the largest difference of log-probabilities of a base with the file of an adapter.

    Args:
        base: folder with the file of the base, or its shards.
        adapter: file of the adapter.
        config: of the model.
        params: the merged parameters, not rounded.
        tokenizer: its tokenizer.
        context_length: most tokens of a text.
        dtype: of the stored matrices of the base.

    Raises:
        MismatchError: it is larger than rounding explains.
    """
    server = LlamaCpp(_first_file(base), context_length, adapter)
    return _compare(server, config, params, tokenizer, context_length, dtype)[0]


def _first_file(folder: Path) -> Path:
    """Return the file of a model, or its first shard."""
    return min(folder.glob("model*.gguf"))


def _compare(
    server: LlamaCpp,
    config: GptConfig,
    params: Any,
    tokenizer: Tokenizer,
    context_length: int,
    dtype: GgufDtype,
) -> tuple[float, int, int]:
    """Return what `compare_writing` finds, and the number of tokens written."""
    plan = WritingPlan()
    if context_length <= plan.prompt + plan.written:
        written = max(1, min(plan.written, context_length - 2))
        plan = WritingPlan(prompt=max(1, context_length - 1 - written), written=written)
    difference, num_equal = compare_writing(server, config, params, tokenizer, plan)
    if not difference <= _TOLERANCES[dtype]:
        raise MismatchError(
            f"llama.cpp computes other log-probabilities, by up to {difference:.3g}; nothing is "
            "written: please report it with the version of xllamacpp"
        )
    return difference, num_equal, plan.written
