"""`cpu`: measure most of what `docs/benchmarks/` says of the speed of CPUs, in one command."""

from collections.abc import Mapping, Sequence

from jaxgpt.benchmarks.suites.suite import Suite
from jaxgpt.config import configclass

_BFLOAT16 = ("--dtype", "bfloat16")
_STEP = ("train-step", "--against", "pytorch", "--rounds", "3", "--steps", "4", "--mode")
_124M = (*_STEP, "eager", "--shape", "gpt2-124m")
_TWO = ("--cpu-devices", "2")
_DECODE = ("decode", "--against", "transformers", "--new-tokens", "64", "--rounds", "3")
_ATTENTION = ("attention", "--against", "pytorch", "--batch-size", "16", "--num-heads", "6")

MEASURES: Mapping[str, Sequence[str]] = {
    "train-float32": (*_STEP, "eager"),
    "train-float32-2-devices": (*_STEP, "eager", *_TWO),
    "train-float32-2-devices-compile": (*_STEP, "compile", *_TWO),
    "train-bfloat16": (*_STEP, "eager", *_BFLOAT16),
    "train-bfloat16-2-devices": (*_STEP, "eager", *_BFLOAT16, *_TWO),
    "train-bfloat16-2-devices-compile": (*_STEP, "compile", *_BFLOAT16, *_TWO),
    "train-124m-float32": _124M,
    "train-124m-bfloat16": (*_124M, *_BFLOAT16),
    "full-loop": ("full-loop", "--steps", "8", "--rounds", "3"),
    "loss-head": ("loss-head", "--chunk-tokens", "512", "--rounds", "3", "--repeats", "1"),
    "decode-float32": _DECODE,
    "decode-float32-8-rows": (*_DECODE, "--batch-size", "8"),
    "decode-bfloat16": (*_DECODE, *_BFLOAT16),
    "decode-bfloat16-8-rows": (*_DECODE, *_BFLOAT16, "--batch-size", "8"),
    "loader": ("loader",),
    "startup": ("startup", "--rounds", "2"),
    "startup-124m": ("startup", "--shape", "gpt2-124m", "--rounds", "2"),
    "attention-float32": _ATTENTION,
    "attention-bfloat16": (*_ATTENTION, *_BFLOAT16),
}


@configclass
class CpuBenchmark(Suite):
    """Train steps of 6 x 384 and 124M against PyTorch, the whole loop, loss head, decoding against
    transformers, loader, startup and attention, on this processor; each measure's JSON goes into a
    folder."""

    output: str = "cpu-benchmark"
    """Output folder, made if it does not exist."""
    seconds: float = 3600.0
    """Time limit for all measures, in seconds; no measure begins after it."""
    measure_seconds: float = 300.0
    """Time limit for one measure, in seconds; a slower one is given up."""

    @property
    def name(self) -> str:
        return "cpu"

    @property
    def measures(self) -> Mapping[str, Sequence[str]]:
        return MEASURES
