"""The process that one XLA flag is tried in: `python -m jaxgpt.benchmarks.xla_flags_child`.

XLA reads its flags once and ends the process at one that it does not know. Reads the benchmark's
JSON, compiles, and answers every further line of its input with a round of steps.
"""

import json
import sys

from jaxgpt.benchmarks.train_rounds import TrainRounds
from jaxgpt.benchmarks.train_step import TrainStepBenchmark
from jaxgpt.config import from_json


def main() -> None:
    benchmark = from_json(sys.stdin.readline(), TrainStepBenchmark)
    shape = benchmark.sizes()
    rounds = TrainRounds(benchmark.train_config(), shape.vocab_size, benchmark.batches())
    # Memory is touched; what does not compute the same is seen by the first losses.
    _, losses = rounds.train(2)
    print(json.dumps({"losses": losses}), flush=True)
    for _ in sys.stdin:
        seconds, _ = rounds.train(benchmark.steps)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
