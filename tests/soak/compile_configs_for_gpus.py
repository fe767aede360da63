"""Compile the step of every training config for H100s that are not here, whole rows and packed.

    JAX_PLATFORMS=cpu python -m tests.soak.compile_configs_for_gpus [NAME ...]

prints a line a program; exits 1 if one does not compile. With the extra `gpu-compile`; on two
processor cores some 15 minutes. Layers and vocabulary are as few as repeat nothing, devices as many
as the config's mesh asks for.
"""

import collections
import math
import sys
import time
from pathlib import Path

from jaxgpt.config import load_config, replace
from jaxgpt.parallel.mesh import abstract_mesh
from jaxgpt.planning.compiled import compile_train_step, read_compiled
from jaxgpt.planning.devices import find_device
from jaxgpt.planning.memory import plan_memory
from jaxgpt.planning.planned_run import plan_pretraining
from jaxgpt.runs.config import TrainConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
VOCAB_SIZE = 4096
H100 = find_device("h100")


def shorten(config: TrainConfig) -> TrainConfig:
    """Return a config with as many layers as differ from each other, two at least."""
    num_layers = max(2, config.model.attention.pattern_length)
    return replace(config, model=replace(config.model, num_layers=num_layers))


def describe(config: TrainConfig) -> str:
    """Compile a step, and say what it is made of."""
    # An axis of -1 takes what others leave.
    num_devices = abs(math.prod(config.mesh.sizes.values()))
    began = time.perf_counter()
    run = plan_pretraining(config, VOCAB_SIZE)
    compiled = compile_train_step(run, H100, num_devices)
    seconds = time.perf_counter() - began
    plan = read_compiled(compiled, run, H100, num_devices, seconds)
    mesh = abstract_mesh(config.mesh, num_devices)
    planned = plan_memory(run, mesh, H100.target).total
    kernels = collections.Counter({name.split("$")[-1]: n for name, n in plan.kernels.items()})
    return (
        f"{num_devices:3} GPUs  {plan.seconds:4.0f} s  peak {plan.peak_bytes / 1e9:.3f} GB = "
        f"{plan.peak_bytes / planned:.2f} planned  products {plan.products_per_6nd:.3f} x 6ND "
        f"({', '.join(sorted(plan.products))})  kernels {dict(kernels)}  {plan.num_branches} "
        f"branches, {plan.num_unknown_loops} loops of unknown length"
    )


def main(names: list[str]) -> int:
    """Compile the named configs, or all; return the exit status."""
    num_failed = 0
    for path in sorted(CONFIGS.glob("*.py")):
        if names and path.stem not in names:
            continue
        config = load_config(path, object)
        if not isinstance(config, TrainConfig):
            continue
        for label, is_packed in (("whole", False), ("packed", True)):
            data = replace(config.data, mask_documents=is_packed)
            try:
                found = describe(replace(shorten(config), data=data))
            except Exception as error:  # Whatever it is: the next one is tried.
                found = f"FAILED {type(error).__name__}: {str(error).splitlines()[0]}"
                num_failed += 1
            print(f"{path.stem:20} {label:6} {found}", flush=True)
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
