"""`python -m jaxgpt.benchmarks.peers.torch_child`: PyTorch's side of a comparison, a process of its
own.

Reads one JSON object a line from stdin, does what it says, answers with one on stdout. Between
two questions it waits for the pipe, so that the other side has the machine for itself. What it does
when is `torch_process.py`'s to say; JAX is not imported here.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from jaxgpt.benchmarks.peers.torch_attention import TorchAttention
from jaxgpt.benchmarks.peers.torch_gpt import TorchTrainer

Work = Callable[[dict[str, Any]], dict[str, Any]]


def _start_train(job: dict[str, Any]) -> Work:
    with np.load(job["arrays"], allow_pickle=False) as arrays:
        trainer = TorchTrainer(job["shape"], job["settings"], dict(arrays))

    def train(question: dict[str, Any]) -> dict[str, Any]:
        seconds, losses = trainer.train(question["num_steps"])
        return {"seconds": seconds, "losses": losses}

    return train


def _start_generate(job: dict[str, Any]) -> Work:
    # Only this job needs transformers.
    module = importlib.import_module("jaxgpt.benchmarks.peers.torch_generate")
    with np.load(job["arrays"], allow_pickle=False) as arrays:
        generator = module.TorchGenerator(job["shape"], job["settings"], dict(arrays))

    def generate(question: dict[str, Any]) -> dict[str, Any]:
        seconds, rows = generator.generate()
        return {"seconds": seconds, "rows": rows}

    return generate


def _start_score(job: dict[str, Any]) -> Work:
    # Only this job needs lm-evaluation-harness.
    module = importlib.import_module("jaxgpt.benchmarks.peers.torch_harness")
    with np.load(job["arrays"], allow_pickle=False) as arrays:
        harness = module.TorchHarness(job["shape"], job["settings"], dict(arrays))

    def score(question: dict[str, Any]) -> dict[str, Any]:
        seconds, log_likelihoods = harness.score()
        return {"seconds": seconds, "log_likelihoods": log_likelihoods}

    return score


def _start_sft(job: dict[str, Any]) -> Work:
    # Only this job needs TRL.
    module = importlib.import_module("jaxgpt.benchmarks.peers.torch_sft")
    with np.load(job["arrays"], allow_pickle=False) as arrays:
        trainer = module.TorchSft(job["shape"], job["settings"], dict(arrays))

    def train(question: dict[str, Any]) -> dict[str, Any]:
        seconds, targets, first_loss = trainer.train(question["num_steps"])
        return {"seconds": seconds, "targets": targets, "first_loss": first_loss}

    return train


def _start_attend(job: dict[str, Any]) -> Work:
    with np.load(job["arrays"], allow_pickle=False) as arrays:
        attention = TorchAttention(job["settings"], dict(arrays))
    return lambda question: {"seconds": attention.seconds(question["repeats"])}


_JOBS: dict[str, Callable[[dict[str, Any]], Work]] = {
    "attend": _start_attend,
    "train": _start_train,
    "generate": _start_generate,
    "score": _start_score,
    "sft": _start_sft,
}


def main() -> None:
    """Serve until stdin ends."""
    # Whatever libraries print must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    work: Work | None = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if work is None:
                torch.set_num_threads(question["num_threads"])
                work = _JOBS[question["job"]](question)
                answer: dict[str, Any] = {"torch": torch.__version__}
            else:
                answer = work(question)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
