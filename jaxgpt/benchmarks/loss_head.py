"""`loss-head`: from hidden states to the loss and its gradients, in chunks or with all logits.

Axes: B rows, T tokens, D width, V vocabulary.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.benchmarks.hardware_peak import describe_device, matmul_rate
from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved, versions_of
from jaxgpt.config import configclass
from jaxgpt.errors import JaxgptError
from jaxgpt.model.gpt import Dtype
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.runtime.settings import RuntimeConfig, configure_runtime
from jaxgpt.training.chunked_loss import (
    LinearCrossEntropy,
    LossInputs,
    TokenChunks,
    TokenSums,
    WholeLogits,
)
from jaxgpt.training.loss import cross_entropy


@configclass
class LossHeadBenchmark:
    """Loss and gradients by chunks of tokens against all logits at once, in tokens per second.

    Floor: the three products with the vocabulary, at the rate of matrix products of the same
    operands. The bytes are XLA's: those that a program needs in addition to its arguments and
    results.
    """

    batch_size: int = 2
    """Rows per batch."""
    sequence_length: int = 1024
    """Tokens per row."""
    d_model: int = 768
    """Width of the hidden states."""
    vocab_size: int = 50_304
    """Vocabulary size."""
    chunk_tokens: int = 4096
    """Most tokens per chunk."""
    dtype: Dtype = "float32"
    """Type of hidden states and operands; weights and sums are float32."""
    repeats: int = 2
    """Repeats per round."""
    rounds: int = 5
    """Rounds of each side."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        sizes = (self.batch_size, self.sequence_length, self.d_model, self.vocab_size)
        if min(*sizes, self.chunk_tokens, self.repeats, self.rounds) < 1:
            raise ValueError("every number must be at least 1")

    def run(self) -> Measurement:
        """Measure.

        Raises:
            JaxgptError: the two do not compute the same.
        """
        configure_runtime(RuntimeConfig())
        inputs = self._inputs()
        chunks = _Program(TokenChunks(num_tokens=self.chunk_tokens), self.vocab_size, inputs)
        whole = _Program(WholeLogits(), self.vocab_size, inputs)
        if not np.isclose(chunks.loss(), whole.loss(), rtol=1e-4):
            raise JaxgptError(f"the losses differ: {chunks.loss():.6f} and {whole.loss():.6f}")
        num_tokens = self.batch_size * self.sequence_length * self.repeats
        sides: dict[str, Callable[[], float]] = {
            "jaxgpt": lambda: num_tokens / chunks.seconds(self.repeats),
            "whole": lambda: num_tokens / whole.seconds(self.repeats),
        }
        measure_interleaved(sides, 1)
        rate = matmul_rate(self.dtype)
        rates = measure_interleaved(sides, self.rounds)
        rate = max(rate, matmul_rate(self.dtype))
        value, spread = rates["jaxgpt"]
        theirs = rates["whole"][0]
        return Measurement(
            measure="loss-head",
            value=value,
            unit="tokens/s",
            floor=rate / (3 * 2 * self.d_model * self.vocab_size),
            floor_is=f"matrix products in {self.dtype} at {rate / 1e9:,.0f} GFLOP/s",
            spread=spread,
            settings={
                "tokens": self.batch_size * self.sequence_length,
                "d_model": self.d_model,
                "vocab_size": self.vocab_size,
                "chunk_tokens": self.chunk_tokens,
                "dtype": self.dtype,
                "temporary bytes": chunks.temporary_bytes,
                "temporary bytes of all logits": whole.temporary_bytes,
                "bytes / bytes": chunks.temporary_bytes / max(whole.temporary_bytes, 1),
                "time / time": theirs / value,
                **describe_device(),
            },
            versions=versions_of(["jax", "jaxlib"]),
            against=Baseline(name="all logits at once", value=theirs, ratio=value / theirs),
        )

    def _inputs(self) -> tuple[jax.Array, ...]:
        rng = np.random.default_rng(0)
        rows = (self.batch_size, self.sequence_length)
        x_BTD = rng.standard_normal((*rows, self.d_model)).astype(np.float32)
        kernel_VD = rng.standard_normal((self.vocab_size, self.d_model)).astype(np.float32)
        targets_BT = rng.integers(0, self.vocab_size, rows)
        return (
            jnp.asarray(x_BTD, jnp.dtype(self.dtype)),
            jnp.asarray(kernel_VD * np.float32(0.02)),
            jnp.asarray(targets_BT, jnp.int32),
            jnp.ones(rows, jnp.float32),
        )


class _Program:
    """A head's loss and gradients, compiled.

    Attributes:
        temporary_bytes: in addition to arguments and results.
    """

    def __init__(
        self, logits: LinearCrossEntropy, vocab_size: int, inputs: tuple[jax.Array, ...]
    ) -> None:
        head = LanguageModelHead()

        def score(inputs: LossInputs) -> TokenSums:
            logits_NV = head.logits(inputs.x, inputs.kernel, vocab_size)
            return cross_entropy(logits_NV, inputs.targets, inputs.weights)

        def objective(x_BTD: Any, kernel_VD: Any, targets_BT: Any, weights_BT: Any) -> jax.Array:
            sums = logits.sums(score, LossInputs(x_BTD, kernel_VD, targets_BT, weights_BT))
            return sums.objective / weights_BT.size

        self._inputs = inputs
        gradient = jax.jit(jax.value_and_grad(objective, argnums=(0, 1)))
        self._run: Any = gradient.lower(*inputs).compile()
        self.temporary_bytes = int(self._run.memory_analysis().temp_size_in_bytes)

    def loss(self) -> float:
        return float(self._run(*self._inputs)[0])

    def seconds(self, num_passes: int) -> float:
        start = time.perf_counter()
        for _ in range(num_passes):
            result = self._run(*self._inputs)
        jax.block_until_ready(result)
        return time.perf_counter() - start
