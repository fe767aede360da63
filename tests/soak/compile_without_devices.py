"""Compile a config's training step for devices that are not here; bytes by part, beside the plan's.

    python tests/soak/compile_without_devices.py --config configs/llama_70b.py --num-devices 512

Makes no array. Needs memory and time for the compiler alone; prints one JSON object.
"""

import argparse
import json
import os
import sys
import time


def main() -> None:
    """Compile, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/llama_70b.py")
    parser.add_argument("--num-devices", type=int, default=512)
    parser.add_argument("--vocab-size", type=int, default=128_256)
    parser.add_argument("--compute-dtype", default=None, help="instead of the config's")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={options.num_devices}"
    json.dump(_compile(options), sys.stdout, indent=2)
    print()


def _compile(options: argparse.Namespace) -> dict[str, object]:
    # Only now, with the number of devices set.
    import jax
    import jax.numpy as jnp

    from jaxgpt.batch import Batch
    from jaxgpt.config import load_config, replace
    from jaxgpt.parallel.mesh import abstract_mesh, make_mesh
    from jaxgpt.parallel.sharding import batch_sharding, on_mesh
    from jaxgpt.planning.memory import plan_memory
    from jaxgpt.planning.planned_run import plan_pretraining
    from jaxgpt.runs.config import TrainConfig
    from jaxgpt.runtime.target import CompileTarget
    from jaxgpt.training.loss import language_model_loss
    from jaxgpt.training.state import plan_state
    from jaxgpt.training.step import compile_step, make_train_step

    config = load_config(options.config, TrainConfig)
    if options.compute_dtype is not None:
        config = replace(config, model=replace(config.model, compute_dtype=options.compute_dtype))
    mesh = make_mesh(config.mesh)
    model = config.model.build(options.vocab_size)
    schedule = config.schedule.build()
    plan, optimizer = plan_state(
        model, lambda axes: config.optimizer.build(schedule, axes), config.sharding, mesh
    )
    bytes_per_token = jnp.ones(options.vocab_size, jnp.int32)
    loss = language_model_loss(model, bytes_per_token, config.loss)
    shape = (config.batch.global_batch_size, config.batch.sequence_length)
    ids, weights = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for dtype in (jnp.int32, jnp.float32)
    )
    batch = Batch(ids, ids, ids, ids, weights)
    train_step = make_train_step(loss, optimizer, config.batch.num_micro_batches)
    started = time.perf_counter()
    with on_mesh(mesh, config.sharding):
        step = compile_step(train_step, plan.abstract, mesh)
        lowered = step.lower(plan.abstract, batch)
        lowering = time.perf_counter() - started
        compiled = lowered.compile()
    found = compiled.memory_analysis()
    text = compiled.as_text()
    collectives = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
    planned = plan_memory(
        plan_pretraining(config, options.vocab_size),
        abstract_mesh(config.mesh, mesh.size),
        CompileTarget(platform="cpu"),
    )
    return {
        "devices": mesh.size,
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "lowering_seconds": round(lowering, 1),
        "compiling_seconds": round(time.perf_counter() - started - lowering, 1),
        "xla": {
            "arguments": found.argument_size_in_bytes,
            "temporary": found.temp_size_in_bytes,
        },
        "planned": {
            "arguments": planned.parameters + planned.optimizer + planned.batch,
            "temporary": planned.total - planned.parameters - planned.optimizer - planned.batch,
            **planned._asdict(),
        },
        "collectives": {name: text.count(f" {name}(") for name in collectives},
    }


if __name__ == "__main__":
    main()
