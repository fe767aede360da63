"""What jaxgpt's parts reach on a machine, and what others and the machine itself do. One measure
a file; `tools/benchmark.py` runs them."""

from typing import TYPE_CHECKING

from jaxgpt.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.benchmarks.attending import AttentionBenchmark
    from jaxgpt.benchmarks.building import BuildBenchmark
    from jaxgpt.benchmarks.cpu_suite import CpuBenchmark
    from jaxgpt.benchmarks.flags import FlagsBenchmark
    from jaxgpt.benchmarks.generating import DecodeBenchmark
    from jaxgpt.benchmarks.gpu_suite import GpuBenchmark
    from jaxgpt.benchmarks.looping import FullLoopBenchmark
    from jaxgpt.benchmarks.measurement import Benchmark, Measurement
    from jaxgpt.benchmarks.reading import LoaderBenchmark
    from jaxgpt.benchmarks.scoring import LossHeadBenchmark
    from jaxgpt.benchmarks.shapes import Shape
    from jaxgpt.benchmarks.starting import StartupBenchmark
    from jaxgpt.benchmarks.suite import Suite, run_suite
    from jaxgpt.benchmarks.tokenizing import TokenizeBenchmark
    from jaxgpt.benchmarks.training import TrainStepBenchmark
else:
    __getattr__, __dir__ = lazy_imports(__name__)
