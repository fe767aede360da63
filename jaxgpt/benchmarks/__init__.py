"""Benchmarks of jaxgpt's parts, one file per measure; `tools/benchmark.py` runs them."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.benchmarks.attention import AttentionBenchmark
    from jaxgpt.benchmarks.dataset_build import BuildBenchmark
    from jaxgpt.benchmarks.decode import DecodeBenchmark
    from jaxgpt.benchmarks.finetune import FinetuneBenchmark
    from jaxgpt.benchmarks.full_loop import FullLoopBenchmark
    from jaxgpt.benchmarks.inputs.shapes import Shape
    from jaxgpt.benchmarks.loader import LoaderBenchmark
    from jaxgpt.benchmarks.loss_head import LossHeadBenchmark
    from jaxgpt.benchmarks.measurement import MeasureConfig, Measurement
    from jaxgpt.benchmarks.scoring import ScoringBenchmark
    from jaxgpt.benchmarks.serve import ServeBenchmark
    from jaxgpt.benchmarks.startup import StartupBenchmark
    from jaxgpt.benchmarks.suites.cpu_suite import CpuBenchmark
    from jaxgpt.benchmarks.suites.gpu_suite import GpuBenchmark
    from jaxgpt.benchmarks.suites.suite import Suite, run_suite
    from jaxgpt.benchmarks.tokenize import TokenizeBenchmark
    from jaxgpt.benchmarks.train_step import TrainStepBenchmark
    from jaxgpt.benchmarks.xla_flags import FlagsBenchmark
else:
    __getattr__, __dir__ = lazy_imports(__name__)
