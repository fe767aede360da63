"""`decode`: tokens per second of greedy continuation, against the time to read the weights."""

import time
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

from jaxgpt.benchmarks.hardware_peak import copy_rate, describe_device, read_rate
from jaxgpt.benchmarks.inputs.shapes import SHAPES, Shape, ShapeName
from jaxgpt.benchmarks.inputs.synthetic_text import sample_windows
from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved, versions_of
from jaxgpt.benchmarks.peers.torch_process import TorchProcess, require_torch
from jaxgpt.benchmarks.peers.torch_weights import gpt2_weights
from jaxgpt.config import configclass, replace
from jaxgpt.errors import JaxgptError
from jaxgpt.inference.cpu_layout import cache_dtype
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_weights import cast_weights, lay_out
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.cost import kv_bytes_per_token, num_matmul_parameters
from jaxgpt.model.gpt import Dtype, Gpt, GptConfig
from jaxgpt.model.layers.feed_forward import Gelu
from jaxgpt.model.layers.norms import LayerNorm
from jaxgpt.runtime.settings import RuntimeConfig, configure_runtime

_CONTEXT = 1024
_ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@configclass
class DecodeBenchmark:
    """Greedy tokens after a prompt, the prompt's pass included; GPT-2's arithmetic, random weights.

    Floor: reading the weights once for each step, and each row's keys and values, at the rate of
    copying or of summing, whichever is higher, measured in the same run.
    """

    shape: ShapeName = "gpt2-124m"
    """Sizes of the model."""
    dtype: Dtype = "float32"
    """Type of weights and activations."""
    batch_size: int = 1
    """Rows decoded at a time."""
    prompt_tokens: int = 32
    """Length of the prompts."""
    new_tokens: int = 96
    """New tokens per row."""
    block_size: int = 16
    """Decoding steps of jaxgpt between two visits to the host."""
    against: Literal["nothing", "transformers"] = "nothing"
    """Side to compare with. transformers: its `generate` with the same weights and prompts, in a
    process of its own."""
    cache: Literal["static", "dynamic"] = "static"
    """Kind of transformers' cache."""
    rounds: int = 5
    """Rounds of each side."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        least = (self.batch_size, self.prompt_tokens, self.new_tokens, self.block_size, self.rounds)
        if min(least) < 1:
            raise ValueError("every number must be at least 1")
        if self.prompt_tokens + self.new_tokens > _CONTEXT:
            raise ValueError(f"prompt and new tokens are more than {_CONTEXT}")

    def run(self) -> Measurement:
        """Measure.

        Raises:
            ConfigError: torch or transformers is missing.
            JaxgptError: the sides do not write the same.
        """
        if self.against == "transformers":
            require_torch(compiles=False, packages=("torch", "transformers"))
        configure_runtime(RuntimeConfig())
        shape = replace(SHAPES[self.shape], sequence_length=_CONTEXT)
        model = gpt2_model(shape, self.dtype).build(shape.vocab_size)
        params = random_params(model)
        prompts = sample_windows(self.batch_size, self.prompt_tokens, shape.vocab_size, 0)
        ours = _Ours(self, model, params, prompts)
        theirs = None
        if self.against == "transformers":
            theirs = _Theirs(self, shape, params, prompts)
        try:
            return self._measure(ours, theirs, model)
        finally:
            if theirs is not None:
                theirs.process.close()

    def _measure(self, ours: "_Ours", theirs: "_Theirs | None", model: Gpt) -> Measurement:
        sides: dict[str, Callable[[], float]] = {"jaxgpt": ours.rate}
        if theirs is not None:
            sides["transformers"] = theirs.rate
        # Programs are compiled, memory is touched.
        measure_interleaved(sides, 1)
        equal = None if theirs is None else _check_equal(ours.rows, theirs.rows, self.dtype)
        byte_rates = [max(copy_rate(), read_rate())]
        rates = measure_interleaved(sides, self.rounds)
        byte_rates.append(max(copy_rate(), read_rate()))
        value, spread = rates["jaxgpt"]
        baseline = None
        if theirs is not None:
            other = rates["transformers"][0]
            name = f"transformers, {self.cache} cache"
            baseline = Baseline(name=name, value=other, ratio=value / other)
        packages = ["jax", "jaxlib", "flax", *(["torch", "transformers"] if theirs else [])]
        return Measurement(
            measure="decode",
            value=value,
            unit="tokens/s",
            floor=self.batch_size * max(byte_rates) / self.bytes_per_step(model, cache_dtype()),
            floor_is=f"reading weights and cache at {max(byte_rates) / 1e9:.1f} GB/s",
            spread=spread,
            settings={
                "shape": self.shape,
                "dtype": self.dtype,
                "batch_size": self.batch_size,
                "prompt_tokens": self.prompt_tokens,
                "new_tokens": self.new_tokens,
                "tokens equal before the first that differs": equal,
                **describe_device(),
            },
            versions=versions_of(packages),
            against=baseline,
        )

    def bytes_per_step(self, model: Gpt, held_dtype: Dtype | None) -> float:
        """Return the bytes of the weights, and of the rows' caches half-way."""
        weights = num_matmul_parameters(model.config, model.vocab_size) * _ITEM_BYTES[self.dtype]
        held = self.prompt_tokens + self.new_tokens / 2
        return weights + self.batch_size * held * kv_bytes_per_token(model.config, held_dtype)


def gpt2_model(shape: Shape, dtype: Dtype) -> GptConfig:
    """Return GPT-2 as in transformers: biases everywhere, GELU by its tanh approximation."""
    return replace(
        shape.model(dtype),
        attention=GroupedQueryAttention(num_heads=shape.num_heads, qkv_bias=True, output_bias=True),
        feed_forward=Gelu(use_bias=True),
        norm=LayerNorm(),
    )


def random_params(model: Gpt) -> Any:
    """Return initial parameters, on the default device."""
    tokens_BT = np.zeros((1, 1), np.int32)
    make = jax.jit(lambda key: nn.unbox(model.init(key, tokens_BT)["params"]))
    return make(jax.random.key(0))


class _Ours:
    """jaxgpt's side; `rows` are the last tokens it wrote."""

    def __init__(self, benchmark: DecodeBenchmark, model: Gpt, params: Any, prompts: Any) -> None:
        self.rows: list[list[int]] = []
        self._num_new = benchmark.new_tokens
        self._prompts = prompts.tolist()
        self._decoder = Decoder(
            model=model,
            params=lay_out(model, cast_weights(model, params)),
            stop_ids=(),
            forbidden_ids=(),
            context_length=_CONTEXT,
            block_size=benchmark.block_size,
        )

    def rate(self) -> float:
        self.rows = [[] for _ in self._prompts]
        greedy = SamplingConfig(temperature=0.0)
        start = time.perf_counter()
        for news in self._decoder.generate(self._prompts, self._num_new, greedy):
            for new in news:
                self.rows[new.row] += new.ids
        seconds = time.perf_counter() - start
        return sum(map(len, self.rows)) / seconds


class _Theirs:
    """transformers' side."""

    def __init__(
        self, benchmark: DecodeBenchmark, shape: Shape, params: Any, prompts: np.ndarray
    ) -> None:
        self.rows: list[list[int]] = []
        params = jax.tree.map(np.asarray, params)
        self.process = TorchProcess(
            "generate",
            gpt2_weights(params, shape.vocab_size) | {"prompts": prompts},
            shape=shape.gpt2_fields,
            settings={
                "dtype": benchmark.dtype,
                "cache": benchmark.cache,
                "new_tokens": benchmark.new_tokens,
            },
        )

    def rate(self) -> float:
        answer = self.process.ask()
        self.rows = answer["rows"]
        return sum(map(len, self.rows)) / answer["seconds"]


def _check_equal(ours: list[list[int]], theirs: list[list[int]], dtype: Dtype) -> int:
    """Return how many tokens all rows have in common before the first that differs. Scores of
    random weights lie close together, so that rounding decides sooner or later.

    Raises:
        JaxgptError: in float32 not even the first tokens are the same.
    """
    if [len(row) for row in ours] != [len(row) for row in theirs]:
        raise JaxgptError("the sides did not write the same number of tokens")
    differ = (np.asarray(ours) != np.asarray(theirs)).any(axis=0)
    common = int(np.argmax(differ)) if differ.any() else len(differ)
    if common == 0 and dtype == "float32":
        raise JaxgptError(
            "the sides write different tokens from the first one on, so their models differ"
        )
    return common
