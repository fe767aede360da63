"""A plan as a whole, and how it is shown: one object for programs, lines for people."""

import math
import os
from dataclasses import dataclass
from typing import Any

import jax

from jaxgpt.model.adapted import join
from jaxgpt.model.cost import num_parameters
from jaxgpt.parallel.mesh import abstract_mesh
from jaxgpt.planning.activations import attention_kernel
from jaxgpt.planning.compiled import CompiledPlan, describe_compiled
from jaxgpt.planning.devices import GB, Device
from jaxgpt.planning.memory import MemoryPlan, bytes_per_device, plan_kept_state, plan_memory
from jaxgpt.planning.planned_run import PlannedRun
from jaxgpt.planning.speed import SpeedPlan, plan_speed
from jaxgpt.reports.console import format_count, format_duration
from jaxgpt.runs.config import RunConfig
from jaxgpt.runs.mesh_check import check_mesh, check_param_dtype
from jaxgpt.runtime.settings import check_platforms

# What JAX takes of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
_DEFAULT_FRACTION = 0.75


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Placement of one parameter."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    split: tuple[str | None, ...]
    bytes_per_device: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Needs of a run.

    Attributes:
        num_parameters: of the model.
        num_trained: of those that are trained; an adapter's are not among those of the model.
        mesh: devices along each axis.
        attention: class of the attention kernel.
        memory: bytes per device, by part.
        usable_bytes: bytes of a device's memory that JAX may take.
        speed: of one step.
        days: of all steps.
        cost: in the currency of the price; None without one.
        placements: of every parameter.
        compiled: figures of the program that XLA made for the device; None without.
    """

    num_parameters: int
    num_trained: int
    mesh: dict[str, int]
    attention: str
    memory: MemoryPlan
    usable_bytes: int
    speed: SpeedPlan
    days: float
    cost: float | None
    placements: tuple[Placement, ...]
    compiled: CompiledPlan | None = None

    @property
    def num_devices(self) -> int:
        """Return the number of devices in the mesh."""
        return math.prod(self.mesh.values())

    @property
    def fits(self) -> bool:
        """Return whether the estimate is within the memory that JAX may take."""
        return self.memory.total <= self.usable_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "num_parameters": self.num_parameters,
            "num_trained": self.num_trained,
            "mesh": self.mesh,
            "attention": self.attention,
            "bytes_per_device": {**self.memory._asdict(), "total": self.memory.total},
            "usable_bytes": self.usable_bytes,
            "fits": self.fits,
            **self.speed._asdict(),
            "days": self.days,
            "cost": self.cost,
            **({} if self.compiled is None else {"compiled": self.compiled.to_dict()}),
        }


def make_plan(
    run: PlannedRun,
    num_devices: int,
    device: Device,
    utilization: float,
    price_per_hour: float | None,
) -> Plan:
    """Plan a run on a number of devices of one kind.

    Raises:
        ConfigError: training would refuse the mesh, the platform or the type of the weights, too.
    """
    check_platforms()
    config = run.config
    check_param_dtype(config)
    mesh = abstract_mesh(config.mesh, num_devices)
    check_mesh(config, mesh)
    state = plan_kept_state(run, mesh)
    trained, frozen = state.abstract.trainable, state.abstract.frozen
    speed = plan_speed(run, state, mesh, device, utilization)
    hours = speed.step_seconds * config.schedule.num_steps / 3600
    fraction = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", _DEFAULT_FRACTION))
    kernel = attention_kernel(run, mesh, device.target)
    return Plan(
        num_parameters=num_parameters(config.model, run.vocab_size),
        num_trained=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trained)),
        mesh=dict(mesh.shape),
        attention=type(kernel or config.model.attention).__name__,
        memory=plan_memory(run, mesh, device.target),
        usable_bytes=int(device.memory_bytes * fraction),
        speed=speed,
        days=hours / 24,
        cost=None if price_per_hour is None else hours * price_per_hour * num_devices,
        placements=_placements(join(trained, frozen)),
    )


def describe(plan: Plan, config: RunConfig, device: Device) -> list[str]:
    """Return the plan as lines for a person."""
    axes = ", ".join(f"{name}={size}" for name, size in plan.mesh.items() if size > 1)
    trained = f", {plan.num_trained:,} trained," if plan.memory.frozen else ""
    lines = [
        f"{plan.num_parameters:,} parameters{trained} on {plan.num_devices} x {device.kind}"
        f"{f' ({axes})' if axes else ''}, attention: {plan.attention}",
        "",
        "memory of each device (GB)",
    ]
    exact = ("parameters", "frozen", "optimizer", "batch")
    for name, count in plan.memory._asdict().items():
        if name == "frozen" and not count:
            continue
        note = "exact" if name in exact else "estimate"
        lines.append(f"  {name.replace('_', ' '):20} {count / GB:9.3f}  {note}")
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    lines += [
        f"  {'total':20} {plan.memory.total / GB:9.3f}  {verdict} in the "
        f"{plan.usable_bytes / GB:.1f} GB that JAX takes of {device.memory_bytes / GB:.0f}",
        "",
        f"a step of {config.batch.tokens_per_step:,} tokens (estimates)",
        f"  {'operations':20} {plan.speed.compute_seconds:9.3f} s",
        f"  {'exchange':20} {plan.speed.link_seconds:9.3f} s  "
        + (", ".join(f"{k} {v / GB:.2f} GB" for k, v in plan.speed.exchanged_bytes.items())),
        f"  {'tokens per second':20} {plan.speed.tokens_per_second:9,.0f}",
        *describe_time(plan.days, plan.cost, config.schedule.num_steps),
    ]
    if not plan.fits:
        lines += ["", _advice(plan, config)]
    if plan.compiled is not None:
        tokens = config.batch.tokens_per_step
        lines += ["", *describe_compiled(plan.compiled, plan.memory.total, tokens)]
    return lines


def describe_time(days: float, cost: float | None, num_steps: int) -> list[str]:
    """Return lines for time and cost of a whole run, in a unit and with digits that fit."""
    time = format_duration(days * 86_400)
    lines = [f"  {'all steps':20} {time:>9}  for {format_count(num_steps, 'step')}"]
    if cost is not None:
        shown = f"{cost:,.0f}" if cost >= 100 else f"{cost:.2g}"
        lines.append(f"  {'cost':20} {shown:>9}  in the currency of --price-per-hour")
    return lines


def describe_placements(plan: Plan) -> list[str]:
    """Return a line per parameter: bytes on each device, shape, and mesh axis per dimension."""
    return [
        f"{p.bytes_per_device:>15,}  {p.name}  {p.dtype}{list(p.shape)}  "
        f"({', '.join(axis or '-' for axis in p.split)})"
        for p in plan.placements
    ]


def _placements(params: Any) -> tuple[Placement, ...]:
    return tuple(
        Placement(
            name=jax.tree_util.keystr(path, simple=True, separator="."),
            shape=leaf.shape,
            dtype=str(leaf.dtype),
            split=tuple(leaf.sharding.spec),
            bytes_per_device=bytes_per_device(leaf),
        )
        for path, leaf in jax.tree.leaves_with_path(params)
    )


def _advice(plan: Plan, config: RunConfig) -> str:
    memory = plan.memory._asdict()
    largest = max(memory, key=lambda name: memory[name])
    if largest in ("parameters", "frozen", "optimizer", "gradients", "gathered_weights"):
        return "most of it is kept: split it over more devices (--mesh.fsdp, --mesh.tensor)"
    return (
        f"most of it is {largest.replace('_', ' ')}: more --batch.num-micro-batches (now "
        f"{config.batch.num_micro_batches}), --model.remat FullRemat, or --mesh.context"
    )
