"""`python -m jaxgpt.plan --config FILE`: what a run needs, before it is started."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import jax
import tyro

from jaxgpt.command_line import find_option, parse_options, require_at_least, run_verb
from jaxgpt.errors import UsageError
from jaxgpt.planning.compiled import compile_plan
from jaxgpt.planning.devices import find_device
from jaxgpt.planning.plan import describe, describe_placements, make_plan
from jaxgpt.planning.planned_run import load_run_config, open_planned
from jaxgpt.runs.config import RunSettings


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Say what a run would need. Every field of the config can be overridden, as in train."""

    config: str
    """Config file (.py or .json), such as configs/base.py. Its values are the defaults of all other
    options; --help without a config shows those of configs/base.py."""
    checkpoint: str | None = None
    """Run folder of the model to begin with, or its URL, for a config of fine-tuning."""
    step: str = "latest"
    """Checkpoint of that run: latest, best (lowest validation loss), or a step's number."""
    data: tuple[str, ...] = ()
    """Dataset folders, or files of examples, in place of those of the config."""
    device: str = "h100"
    """Kind of device: h100, h200, a100, a100-40gb, l40s, l4, a10g, rtx4090, rtx3090."""
    num_devices: int = 1
    """Number of devices."""
    vocab_size: int | None = None
    """Vocabulary size; None: that of the config's dataset."""
    utilization: float = 0.4
    """Share of the peak that operations are assumed to reach (MFU)."""
    price_per_hour: float | None = None
    """Price of one device per hour, for the cost."""
    compile: bool = False
    """Compile the step for the device with XLA's own GPU compiler and report its memory, products
    and exchange; needs the extra gpu-compile but no GPU, and may take minutes."""
    shardings: bool = False
    """Print the sharding of each parameter, and its bytes per device."""
    json: bool = False
    """Print one JSON object."""
    settings: Annotated[RunSettings, tyro.conf.arg(name="")] = field(kw_only=True)


def main(argv: Sequence[str]) -> None:
    """Parse, plan, print."""
    path = find_option(argv, "--config")
    if path is None and not {"--help", "-h"} & set(argv):
        raise UsageError("--config is missing; for example --config configs/base.py")
    settings = load_run_config(path or Path(__file__).parents[1] / "configs" / "base.py", argv)
    default = PlanOptions(config=path or tyro.MISSING, settings=settings)
    options = parse_options(PlanOptions, argv, prog="jaxgpt plan", default=default)
    require_at_least(options, num_devices=1, vocab_size=1)
    if not 0 < options.utilization <= 1:
        raise UsageError(f"--utilization {options.utilization} must be in (0, 1]")
    device = find_device(options.device)
    run = open_planned(options.settings, argv, options.data, options.vocab_size)
    assumed = (options.utilization, options.price_per_hour)
    plan = make_plan(run, options.num_devices, device, *assumed)
    if options.compile:
        # The program is for another device than any that computes here.
        jax.config.update("jax_platforms", "cpu")
        plan = replace(plan, compiled=compile_plan(run, device, plan.num_devices))
    if options.json:
        placements = [asdict(place) for place in plan.placements] if options.shardings else None
        values = {"device": options.device, "num_devices": options.num_devices, **plan.to_dict()}
        print(json.dumps(values | ({"shardings": placements} if placements else {})))
        return
    print("\n".join(describe_placements(plan) if options.shardings else []))
    print("\n".join(describe(plan, run.config, device)))


if __name__ == "__main__":
    run_verb(main)
