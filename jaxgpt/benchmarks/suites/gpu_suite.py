"""`gpu`: everything that is to be known of one GPU, within ten minutes."""

import subprocess
import sys
from collections.abc import Mapping, Sequence

from jaxgpt.benchmarks.suites.suite import Suite, SuiteReport
from jaxgpt.config import configclass
from jaxgpt.errors import ConfigError
from jaxgpt.names.packages import install_advice

_124M = ("train-step", "--shape", "gpt2-124m", "--sequence-length", "1024", "--dtype", "bfloat16")
_350M = ("train-step", "--shape", "gpt2-350m", "--dtype", "bfloat16", "--steps", "5")
_1_3B = ("train-step", "--shape", "gpt-1.3b", "--dtype", "bfloat16", "--steps", "5")
_DECODE = ("decode", "--dtype", "bfloat16", "--new-tokens", "256", "--rounds", "3")
_ATTENTION = ("attention", "--dtype", "bfloat16", "--sequence-length", "1024", "--batch-size", "32")
_TORCH = ("--against", "pytorch", "--rounds", "3")

# By name, the most telling first: what time is left for the last depends on how long these compile.
MEASURES: Mapping[str, Sequence[str]] = {
    "train-124m-compile": (*_124M, "--batch-size", "32", *_TORCH, "--mode", "compile"),
    "train-124m-cudnn": (*_124M, "--batch-size", "32", *_TORCH, "--mode", "compile-cudnn"),
    "decode-124m": (*_DECODE, "--against", "transformers"),
    "train-1.3b": (*_1_3B, "--batch-size", "4"),
    "train-350m": (*_350M, "--batch-size", "16"),
    "decode-1.3b": (*_DECODE, "--shape", "gpt-1.3b"),
    "attention": (*_ATTENTION, *_TORCH),
    "attention-packed": (*_ATTENTION, "--document", "256"),
    "train-124m-large": (*_124M, "--batch-size", "64"),
    "train-124m-packed": (*_124M, "--batch-size", "32", "--document", "256"),
    "loss-head": ("loss-head", "--dtype", "bfloat16", "--batch-size", "16"),
    "decode-124m-64": (*_DECODE, "--batch-size", "64"),
}


@configclass
class GpuBenchmark(Suite):
    """Train steps of 124M, 350M and 1.3B against PyTorch and the matrix products, decoding,
    attention and loss head, in bfloat16 on the GPU here; each measure's JSON goes into a folder."""

    output: str = "gpu-benchmark"
    """Output folder, made if it does not exist."""

    @property
    def name(self) -> str:
        return "gpu"

    @property
    def measures(self) -> Mapping[str, Sequence[str]]:
        return MEASURES

    def run(self) -> SuiteReport:
        """Measure.

        Raises:
            ConfigError: there is no GPU that JAX can use.
        """
        backend = _backend()
        if backend != "gpu":
            raise ConfigError(
                f"the measure gpu needs an NVIDIA GPU, and JAX finds only {backend}; where "
                f"there is one, {install_advice('cuda12')}"
            )
        return super().run()


def _backend() -> str:
    """Return the backend of JAX, asked in another process because this one must take no memory."""
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or "nothing"
