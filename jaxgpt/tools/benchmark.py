"""`jaxgpt benchmark MEASURE [options]`: how fast a part is, next to a reference."""

import importlib
import json
from collections.abc import Sequence

from jaxgpt.command_line import parse_options
from jaxgpt.errors import UsageError, did_you_mean

# Where each measure is, and its config; only the one that is asked for is imported.
MEASURES = {
    "train-step": ("jaxgpt.benchmarks.train_step", "TrainStepBenchmark"),
    "attention": ("jaxgpt.benchmarks.attention", "AttentionBenchmark"),
    "loss-head": ("jaxgpt.benchmarks.loss_head", "LossHeadBenchmark"),
    "flags": ("jaxgpt.benchmarks.xla_flags", "FlagsBenchmark"),
    "cpu": ("jaxgpt.benchmarks.suites.cpu_suite", "CpuBenchmark"),
    "gpu": ("jaxgpt.benchmarks.suites.gpu_suite", "GpuBenchmark"),
    "decode": ("jaxgpt.benchmarks.decode", "DecodeBenchmark"),
    "serve": ("jaxgpt.benchmarks.serve", "ServeBenchmark"),
    "finetune": ("jaxgpt.benchmarks.finetune", "FinetuneBenchmark"),
    "scoring": ("jaxgpt.benchmarks.scoring", "ScoringBenchmark"),
    "loader": ("jaxgpt.benchmarks.loader", "LoaderBenchmark"),
    "full-loop": ("jaxgpt.benchmarks.full_loop", "FullLoopBenchmark"),
    "startup": ("jaxgpt.benchmarks.startup", "StartupBenchmark"),
    "tokenize": ("jaxgpt.benchmarks.tokenize", "TokenizeBenchmark"),
    "build": ("jaxgpt.benchmarks.dataset_build", "BuildBenchmark"),
}


def main(argv: Sequence[str]) -> None:
    """Parse, measure, print."""
    name = argv[0] if argv else ""
    known = ", ".join(MEASURES)
    if name in ("-h", "--help"):
        print("usage: jaxgpt benchmark MEASURE [options]\n")
        print(f"measures: {known}; MEASURE --help for each")
        return
    if name not in MEASURES:
        raise UsageError(f"no measure {name!r}{did_you_mean(name, MEASURES)}; there are {known}")
    module, config = MEASURES[name]
    kind = getattr(importlib.import_module(module), config)
    benchmark = parse_options(kind, argv[1:], prog=f"jaxgpt benchmark {name}")
    measurement = benchmark.run()
    print(json.dumps(measurement.to_json()) if benchmark.json else measurement.to_text())
