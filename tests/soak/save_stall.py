"""What saving costs the training: the wait in `save`, and how much slower the steps beside it are.

    python -m tests.soak.save_stall FOLDER [--steps 20] [--rounds 5] [--width 384]

Trains a small GPT with AdamW on random tokens, in intervals of so many steps; every second interval
begins with a save. Prints one JSON object. Ends with 1 if the wait is above 5 % of an interval.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.data.packing import make_rows
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.feed_forward import Gelu
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, to_devices
from jaxgpt.training.loss import LossConfig, language_model_loss
from jaxgpt.training.optimizer import AdamW
from jaxgpt.training.state import init_parameters, init_state, plan_state
from jaxgpt.training.step import compile_step, make_train_step

VOCAB, ROWS, LENGTH = 8192, 8, 129


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=384)
    options = parser.parse_args()
    mesh, rules = single_device_mesh(), ShardingRules()
    config = GptConfig(
        num_layers=6,
        d_model=options.width,
        attention=GroupedQueryAttention(num_heads=6, num_kv_heads=6),
        feed_forward=Gelu(hidden=4 * options.width),
    )
    model = config.build(VOCAB)
    plan, optimizer = plan_state(
        model, lambda axes: AdamW().build(lambda step: 1e-4, axes), rules, mesh
    )
    loss = language_model_loss(model, jnp.ones(VOCAB, jnp.int32), LossConfig())
    step = compile_step(make_train_step(loss, optimizer, 1), plan.abstract, mesh)
    tokens = np.random.default_rng(0).integers(3, VOCAB, (ROWS, LENGTH))
    batch = to_devices(make_rows(tokens, np.zeros(tokens.shape, bool)), mesh)
    with on_mesh(mesh, rules):
        state = init_state(init_parameters(model, rules, mesh, 0), optimizer, plan, 0)
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        checkpoints = Checkpoints(options.folder, CheckpointConfig(keep_latest=2))
        waits, seconds = [], {False: [], True: []}
        for number in range(2 * options.rounds):
            saves = number % 2 == 1
            begin = time.perf_counter()
            if saves:
                rest = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
                checkpoints.save(number, state.trainable, rest, {})
                waits.append(time.perf_counter() - begin)
            for _ in range(options.steps):
                state, metrics = step(state, batch)
                jax.block_until_ready(metrics)
            seconds[saves].append(time.perf_counter() - begin)
            if saves:
                checkpoints.wait()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves((state.trainable, state.opt_state)))
    checkpoints.close()
    interval = statistics.median(seconds[True])
    result = {
        "state_bytes": size,
        "interval_seconds": interval,
        "interval_without_save_seconds": statistics.median(seconds[False]),
        "wait_in_save_seconds": statistics.median(waits),
        "longest_wait_in_save_seconds": max(waits),
        "wait_share": max(waits) / interval,
    }
    print(json.dumps(result, indent=1))
    sys.exit(int(result["wait_share"] > 0.05))


if __name__ == "__main__":
    main()
