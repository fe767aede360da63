"""`attention`: tokens a second that a kernel attends, forward and backward.

Axes: B rows, T tokens, N heads, H head.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.benchmarks.hardware_peak import describe_device, matmul_rate
from jaxgpt.benchmarks.inputs.synthetic_text import sample_batch
from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved, versions_of
from jaxgpt.benchmarks.peers.torch_process import TorchProcess, require_torch
from jaxgpt.config import configclass
from jaxgpt.errors import ConfigError, JaxgptError
from jaxgpt.model.attention.cpu import CpuBlockwise
from jaxgpt.model.attention.gpu import Cudnn
from jaxgpt.model.attention.kernel import AttentionInputs, AttentionKernel, Scores
from jaxgpt.model.attention.kernels import Fastest
from jaxgpt.model.attention.masks import AttentionMask
from jaxgpt.model.attention.reference import Reference, SavedProbabilities
from jaxgpt.model.gpt import Dtype
from jaxgpt.runtime.settings import RuntimeConfig, configure_runtime

Kernel = Literal["fastest", "reference", "saved-probabilities", "row-by-row", "cudnn"]
_KERNELS: dict[Kernel, AttentionKernel] = {
    "fastest": Fastest(),
    "reference": Reference(),
    "saved-probabilities": SavedProbabilities(),
    "row-by-row": CpuBlockwise(),
    "cudnn": Cudnn(),
}
# The largest difference of a gradient, as a share of its largest value, that is rounding.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}


@configclass
class AttentionBenchmark:
    """Causal attention and its gradients, by one kernel, in tokens a second.

    Floor: the four products forward, and twice as many backward, of the keys that are seen (half of
    all), at the rate of matrix products of the same operands.
    """

    kernel: Kernel = "fastest"
    """Kernel to measure; `fastest` is the one that training would choose here."""
    dtype: Dtype = "float32"
    """Type of queries, keys and values."""
    batch_size: int = 4
    """Rows of a batch."""
    sequence_length: int = 256
    """Tokens per row."""
    num_heads: int = 12
    """Heads of queries, keys and values."""
    head_dim: int = 64
    """Width of a head."""
    document: int | None = None
    """Tokens per document, with several packed in a row; None: one document per row."""
    against: Literal["nothing", "reference", "pytorch"] = "nothing"
    """Side to compare with. reference: the definition, differentiated automatically. pytorch: its
    scaled_dot_product_attention."""
    repeats: int = 10
    """Forward and backward passes per round."""
    rounds: int = 5
    """Rounds of each side."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        sizes = (self.batch_size, self.sequence_length, self.num_heads, self.head_dim)
        if min(*sizes, self.document or 1, self.repeats, self.rounds) < 1:
            raise ValueError("every number must be at least 1")
        if self.against == "pytorch" and self.document is not None:
            raise ValueError("against = 'pytorch' needs document = None: it has no packed rows")

    def run(self) -> Measurement:
        """Measure.

        Raises:
            ConfigError: the kernel cannot compute this here, or torch is missing.
            JaxgptError: two sides do not compute the same.
        """
        if self.against == "pytorch":
            require_torch(compiles=False)
        configure_runtime(RuntimeConfig())
        shape = (self.batch_size, self.sequence_length, self.num_heads, self.head_dim)
        rng = np.random.default_rng(0)
        arrays = {name: rng.standard_normal(shape).astype(np.float32) for name in ("q", "k", "v")}
        ours = self._passes(_KERNELS[self.kernel], arrays)
        reference = self._passes(Reference(), arrays)
        _check_equal(ours.gradients(), reference.gradients(), self.dtype)
        num_tokens = self.batch_size * self.sequence_length * self.repeats
        sides: dict[str, Callable[[], float]] = {
            "jaxgpt": lambda: num_tokens / ours.seconds(self.repeats)
        }
        torch = None
        if self.against == "reference":
            sides["reference"] = lambda: num_tokens / reference.seconds(self.repeats)
        elif self.against == "pytorch":
            torch = TorchProcess("attend", arrays, settings={"dtype": self.dtype})
            side = torch
            sides["pytorch"] = lambda: num_tokens / side.ask(repeats=self.repeats)["seconds"]
        try:
            measure_interleaved(sides, 1)
            rate = matmul_rate(self.dtype)
            rates = measure_interleaved(sides, self.rounds)
            rate = max(rate, matmul_rate(self.dtype))
        finally:
            if torch is not None:
                torch.close()
        return self._measurement(rates, rate)

    def flops_per_token(self) -> float:
        """Return the operations of scores and mixing, forward and backward, of half of all keys."""
        return 3 * 4 * self.num_heads * self.head_dim * self.sequence_length / 2

    def _passes(self, kernel: AttentionKernel, arrays: dict[str, np.ndarray]) -> "_Passes":
        q, k, v = (jnp.asarray(arrays[name], jnp.dtype(self.dtype)) for name in ("q", "k", "v"))
        mask = AttentionMask()
        if self.document is not None:
            batch = sample_batch(self.batch_size, self.sequence_length, 100, 0, self.document)
            mask = AttentionMask(segment_ids_BT=jnp.asarray(batch.segment_ids_BT))
        scores = Scores(self.head_dim**-0.5)
        if reason := kernel.refuses(AttentionInputs(q, k, v, mask, scores)):
            raise ConfigError(f"the kernel {self.kernel} cannot compute this here: {reason}")
        return _Passes(kernel, (q, k, v), mask, scores)

    def _measurement(self, rates: Any, matmuls: float) -> Measurement:
        value, spread = rates["jaxgpt"]
        baseline = None
        if self.against in rates:
            theirs = rates[self.against][0]
            baseline = Baseline(name=self.against, value=theirs, ratio=value / theirs)
        torch = ["torch"] if self.against == "pytorch" else []
        return Measurement(
            measure="attention",
            value=value,
            unit="tokens/s",
            floor=matmuls / self.flops_per_token(),
            floor_is=f"matrix products in {self.dtype} at {matmuls / 1e9:,.0f} GFLOP/s",
            spread=spread,
            settings={
                "kernel": self.kernel,
                "dtype": self.dtype,
                "batch_size": self.batch_size,
                "sequence_length": self.sequence_length,
                "num_heads": self.num_heads,
                "head_dim": self.head_dim,
                "document": self.document,
                **describe_device(),
            },
            versions=versions_of(["jax", "jaxlib", *torch]),
            against=baseline,
        )


class _Passes:
    """A kernel's forward and backward pass, compiled."""

    def __init__(
        self, kernel: AttentionKernel, inputs: Any, mask: AttentionMask, scores: Scores
    ) -> None:
        def objective(inputs: Any, mask: AttentionMask) -> jax.Array:
            q_BTNH, k_BTNH, v_BTNH = inputs
            attention = AttentionInputs(q_BTNH, k_BTNH, v_BTNH, mask, scores)
            out_BTNH = kernel.attend(attention).astype(jnp.float32)
            # A gradient of the output that is no constant.
            return jnp.sum(out_BTNH * q_BTNH.astype(jnp.float32))

        self._inputs, self._mask = inputs, mask
        self._gradient = jax.jit(jax.grad(objective))

    def gradients(self) -> list[np.ndarray]:
        return [np.asarray(each, np.float32) for each in self._gradient(self._inputs, self._mask)]

    def seconds(self, num_passes: int) -> float:
        start = time.perf_counter()
        results = [self._gradient(self._inputs, self._mask) for _ in range(num_passes)]
        jax.block_until_ready(results[-1])
        return time.perf_counter() - start


def _check_equal(ours: list[np.ndarray], theirs: list[np.ndarray], dtype: Dtype) -> None:
    for one, other in zip(ours, theirs, strict=True):
        difference = np.max(np.abs(one - other)) / np.max(np.abs(other))
        if not difference <= _TOLERANCE[dtype]:
            raise JaxgptError(
                f"the kernel's gradients differ from the reference's by {difference:.1e} of the "
                f"largest; at most {_TOLERANCE[dtype]:.0e} is rounding"
            )
