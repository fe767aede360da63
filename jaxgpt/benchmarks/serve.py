"""`serve`: tokens per second of requests that come at the same time, and the time to the first."""

import concurrent.futures
import functools
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.benchmarks.decode import random_params
from jaxgpt.benchmarks.hardware_peak import copy_rate, describe_device, read_rate
from jaxgpt.benchmarks.inputs.shapes import SHAPES, ShapeName
from jaxgpt.benchmarks.inputs.synthetic_text import sample_windows
from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved, versions_of
from jaxgpt.benchmarks.peers.chat_server import serve_folder, serve_run
from jaxgpt.benchmarks.peers.torch_process import require_torch
from jaxgpt.config import configclass, replace
from jaxgpt.errors import JaxgptError, UsageError
from jaxgpt.inference.cpu_layout import cache_dtype
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decode_programs import next_logits
from jaxgpt.inference.decoding_weights import cast_weights, lay_out
from jaxgpt.inference.engine import Engine, EngineConfig, Progress, Request, RequestSampling
from jaxgpt.inference.precision import WHILE_WRITING
from jaxgpt.interchange.gguf.llama_cpp import LlamaCpp
from jaxgpt.model.cost import kv_bytes_per_token, num_matmul_parameters
from jaxgpt.model.gpt import Dtype, make_cache
from jaxgpt.runs.decoding import open_decoder
from jaxgpt.runs.run import open_run
from jaxgpt.runtime.settings import RuntimeConfig, configure_runtime

_ITEM_BYTES = {"float32": 4, "bfloat16": 2}
# Packages of a side, by its name.
_PACKAGES = {"llama.cpp": ("xllamacpp",), "transformers": ("torch", "transformers")}
_FIRST_TOKEN_PROMPT = 512
_FIRST_TOKEN_ROUNDS = 5


@configclass
class ServeBenchmark:
    """Greedy tokens of requests that come at once to `jaxgpt.serve`'s engine, prompts included.

    Floor: reading the weights once for each step of all requests, and each request's keys and
    values, at the rate of copying or of summing, whichever is higher, measured in the same run.
    """

    shape: ShapeName = "small-10m"
    """Sizes of a model with random weights."""
    dtype: Dtype = "float32"
    """Type of its weights and activations."""
    checkpoint: str | None = None
    """Run folder or URL of the model, in the place of random weights."""
    requests: int = 16
    """Requests that come at once; the engine has as many slots."""
    prompt_tokens: int = 32
    """Length of the prompts."""
    new_tokens: int = 96
    """New tokens per request."""
    against: Literal["nothing", "sequential", "llama.cpp", "transformers"] = "sequential"
    """Side to compare with. sequential: the same requests, one after the other. llama.cpp: its
    server with as many slots, on --gguf. transformers: `transformers serve --continuous-batching`
    on --folder; both sides then answer the same chats over HTTP."""
    gguf: Path | None = None
    """File of the same run by `jaxgpt.export --format gguf`, for llama.cpp."""
    folder: Path | None = None
    """Folder of the same run by `jaxgpt.export --format huggingface`, for transformers."""
    rounds: int = 5
    """Rounds of each side."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        if min(self.requests, self.prompt_tokens, self.new_tokens, self.rounds) < 1:
            raise ValueError("every number must be at least 1")
        for side, option, exported in (
            ("llama.cpp", "--gguf", self.gguf),
            ("transformers", "--folder", self.folder),
        ):
            if (self.against == side) != (exported is not None and self.checkpoint is not None):
                raise ValueError(
                    f"--against {side} needs --checkpoint and {option}, an export of the same run; "
                    f"nothing else reads {option}"
                )

    def run(self) -> Measurement:
        """Measure.

        Raises:
            ConfigError: a package of the other side is missing.
            JaxgptError: the run cannot be opened, or the other side does not read its export.
        """
        with ExitStack() as servers:
            return self._measure(servers)

    def _measure(self, servers: ExitStack) -> Measurement:
        """Measure; `servers` ends what was started."""
        ours = _Ours(self, self._decoder())
        sides: dict[str, Callable[[], float]] = {"jaxgpt": lambda: ours.rate(self.requests)}
        if self.against == "sequential":
            sides[self.against] = lambda: ours.rate(1)
        elif self.gguf is not None:
            theirs = _LlamaCpp(self, self.gguf, ours.prompts)
            sides[self.against] = theirs.rate
        elif self.folder is not None and self.checkpoint is not None:
            sides = self._chat_servers(servers, self.checkpoint, self.folder, ours.prompts)
        # Programs are compiled, memory is touched.
        measure_interleaved(sides, 1)
        byte_rates = [max(copy_rate(), read_rate())]
        rates = measure_interleaved(sides, self.rounds)
        byte_rates.append(max(copy_rate(), read_rate()))
        value, spread = rates["jaxgpt"]
        baseline = None
        if self.against != "nothing":
            other = rates[self.against][0]
            baseline = Baseline(name=self.against, value=other, ratio=value / other)
        packages = ["jax", "jaxlib", *_PACKAGES.get(self.against, ())]
        return Measurement(
            measure="serve",
            value=value,
            unit="tokens/s",
            floor=self.requests * max(byte_rates) / ours.bytes_per_step(),
            floor_is=f"reading weights and caches at {max(byte_rates) / 1e9:.1f} GB/s",
            spread=spread,
            settings={
                "model": self.checkpoint or self.shape,
                "requests": self.requests,
                "prompt_tokens": self.prompt_tokens,
                "new_tokens": self.new_tokens,
                **ours.first_token(),
                **describe_device(),
            },
            versions=versions_of(packages),
            against=baseline,
        )

    def _chat_servers(
        self, servers: ExitStack, checkpoint: str, folder: Path, prompts: list[list[int]]
    ) -> dict[str, Callable[[], float]]:
        """Start both servers, and return how each is asked for all chats at once."""
        require_torch(compiles=False, packages=("torch", "transformers", "fastapi", "uvicorn"))
        run = open_run(checkpoint)
        chats = [run.tokenizer.decode(prompt) for prompt in prompts]
        ours = servers.enter_context(closing(serve_run(checkpoint, self.requests)))
        dtype = run.config.model.compute_dtype
        theirs = servers.enter_context(closing(serve_folder(folder, dtype)))
        return {
            "jaxgpt": functools.partial(ours.rate, chats, self.new_tokens),
            "transformers": functools.partial(theirs.rate, chats, self.new_tokens),
        }

    def _decoder(self) -> Decoder:
        if self.checkpoint is not None:
            return open_decoder(self.checkpoint, "latest", WHILE_WRITING).decoder
        configure_runtime(RuntimeConfig())
        length = self.prompt_tokens + self.new_tokens
        shape = SHAPES[self.shape]
        shape = replace(shape, sequence_length=max(length, shape.sequence_length))
        model = shape.model(self.dtype).build(shape.vocab_size)
        return Decoder(
            model=model,
            params=lay_out(model, cast_weights(model, random_params(model))),
            stop_ids=(),
            forbidden_ids=(),
            context_length=shape.sequence_length,
        )


class _Ours:
    """jaxgpt's side."""

    def __init__(self, benchmark: ServeBenchmark, decoder: Decoder) -> None:
        if benchmark.prompt_tokens + benchmark.new_tokens > decoder.context_length:
            raise UsageError(
                f"the model's context holds {decoder.context_length} tokens; prompt and new tokens "
                f"are {benchmark.prompt_tokens + benchmark.new_tokens}"
            )
        self._benchmark = benchmark
        self._decoder = decoder
        self._engine = Engine(decoder, EngineConfig(num_slots=benchmark.requests))
        self._vocab_size = decoder.model.vocab_size
        shape = benchmark.requests, benchmark.prompt_tokens
        self.prompts = sample_windows(*shape, self._vocab_size, 0).tolist()

    def rate(self, at_once: int) -> float:
        """Return tokens per second of all requests, `at_once` of them at a time."""
        start = time.perf_counter()
        num_tokens = 0
        for first in range(0, len(self.prompts), at_once):
            news = self._answer(self.prompts[first : first + at_once], self._benchmark.new_tokens)
            num_tokens += sum(len(new.tokens) for new in news)
        return num_tokens / (time.perf_counter() - start)

    def first_token(self) -> dict[str, Any]:
        """Return the time to the first token of a lone long prompt, next to a forward pass."""
        decoder = self._decoder
        length = min(_FIRST_TOKEN_PROMPT, decoder.context_length - 1)
        prompts = sample_windows(1 + _FIRST_TOKEN_ROUNDS, length, self._vocab_size, 1)
        model, params = decoder.model, decoder.params

        @jax.jit
        def forward(params: Any, tokens_1T: jax.Array) -> jax.Array:
            cache = make_cache(model.config, 1, length, cache_dtype())
            return next_logits(model, params, tokens_1T, jnp.ones_like(tokens_1T, bool), cache)[0]

        def time_engine(prompt: np.ndarray) -> float:
            start = time.perf_counter()
            self._answer([prompt.tolist()], 1)
            return time.perf_counter() - start

        def time_forward(prompt: np.ndarray) -> float:
            start = time.perf_counter()
            forward(params, prompt[None]).block_until_ready()
            return time.perf_counter() - start

        seconds = [(time_engine(prompt), time_forward(prompt)) for prompt in prompts][1:]
        engine, alone = (statistics.median(each) for each in zip(*seconds, strict=True))
        return {
            f"ms to the first token of {length}": round(1e3 * engine, 1),
            "times the forward pass": round(engine / alone, 2),
        }

    def bytes_per_step(self) -> float:
        """Return the bytes of the weights, and of the requests' caches half-way."""
        benchmark, model = self._benchmark, self._decoder.model
        itemsize = _ITEM_BYTES[model.config.compute_dtype]
        weights = num_matmul_parameters(model.config, model.vocab_size) * itemsize
        held = benchmark.prompt_tokens + benchmark.new_tokens / 2
        return weights + benchmark.requests * held * kv_bytes_per_token(model.config, cache_dtype())

    def _answer(self, prompts: list[list[int]], num_tokens: int) -> list[Progress]:
        """Let the engine answer; raise what ended an answer early."""
        news: list[Progress] = []
        for prompt in prompts:
            request = Request(
                prompt=tuple(prompt),
                max_new_tokens=num_tokens,
                sampling=RequestSampling(temperature=0.0),
                ignore_stop=True,
            )
            self._engine.submit(request, news.append)
        while sum(new.finish is not None for new in news) < len(prompts):
            self._engine.step()
        for new in news:
            if new.error is not None:
                raise new.error
        return news


class _LlamaCpp:
    """llama.cpp's side."""

    def __init__(self, benchmark: ServeBenchmark, path: Path, prompts: list[list[int]]) -> None:
        self._num_new = benchmark.new_tokens
        self._prompts = prompts
        length = benchmark.prompt_tokens + benchmark.new_tokens
        self._server = LlamaCpp(path, length, num_slots=benchmark.requests)

    def rate(self) -> float:
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(len(self._prompts)) as pool:
            rows = list(pool.map(lambda ids: self._server.write(ids, self._num_new), self._prompts))
        seconds = time.perf_counter() - start
        num_tokens = sum(map(len, rows))
        if num_tokens != len(rows) * self._num_new:
            raise JaxgptError(
                f"llama.cpp wrote {num_tokens} tokens; {len(rows) * self._num_new} were asked for"
            )
        return num_tokens / seconds
