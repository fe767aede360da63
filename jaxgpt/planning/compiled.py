"""A training step as XLA compiles it for a card that is not here: memory, products, exchange."""

import collections
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.model.cost import num_matmul_parameters
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.parallel.sharding import batch_sharding, on_mesh
from jaxgpt.planning.cross_compile import compile_lowered, compile_only_devices, compiling_on
from jaxgpt.planning.devices import GB, Device
from jaxgpt.planning.planned_run import PlannedRun
from jaxgpt.planning.products import product_flops
from jaxgpt.planning.program import (
    Array,
    Program,
    collectives,
    custom_kernels,
    read_program,
)
from jaxgpt.planning.roofline import group_by_source, kernel_costs
from jaxgpt.runs.setup import build_step

NOT_KNOWN = (
    "not known without the card: which kernels XLA would choose by trying them, whether cuDNN "
    "accepts its graphs and what workspace they take, NCCL's buffers, and time"
)
_NUM_LARGEST = 5


@dataclass(frozen=True, kw_only=True)
class CompiledPlan:
    """Figures of one device, for one optimiser step.

    Attributes:
        seconds: that compiling took.
        peak_bytes: of the device's memory, as XLA assigned its buffers.
        argument_bytes: state and batch.
        products: operations of matrix products by the types of their operands.
        products_per_6nd: all of them over 6 N D; above 1 with recomputation, Muon, or experts.
        kernels: how often each kernel runs that XLA did not write itself.
        num_launches: kernels, copies and exchanges in all.
        collectives: bytes exchanged by kind and type.
        overlapped: share of those bytes that travel while the device computes; None without any.
        largest: the largest arrays that a kernel writes, with the operation that asks for them.
        predicted_seconds: of the kernels of a step by `roofline.py`, exchange left out.
        slowest: where most of that time goes, seconds by JAX operation.
        num_branches: decisions taken while the step runs.
        num_unknown_loops: loops whose length XLA does not know.
    """

    seconds: float
    peak_bytes: int
    argument_bytes: int
    products: dict[str, int]
    products_per_6nd: float
    kernels: dict[str, int]
    num_launches: int
    collectives: dict[str, int]
    overlapped: float | None
    largest: tuple[tuple[str, int, str], ...]
    predicted_seconds: float
    slowest: tuple[tuple[str, float], ...]
    num_branches: int
    num_unknown_loops: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "seconds": round(self.seconds, 1),
            "peak_bytes": self.peak_bytes,
            "argument_bytes": self.argument_bytes,
            "products": self.products,
            "products_per_6nd": self.products_per_6nd,
            "kernels": self.kernels,
            "num_launches": self.num_launches,
            "collectives": self.collectives,
            "overlapped": self.overlapped,
            "largest": [
                {"array": array, "bytes": size, "operation": name}
                for array, size, name in self.largest
            ],
            "predicted_seconds": self.predicted_seconds,
            "slowest": [{"operation": path, "seconds": s} for path, s in self.slowest],
            "branches": self.num_branches,
            "loops_of_unknown_length": self.num_unknown_loops,
        }


def compile_train_step(run: PlannedRun, device: Device, num_devices: int) -> jax.stages.Compiled:
    """Compile the step of a run for `num_devices` cards that are not here.

    Raises:
        ConfigError: the compiler is not installed, or the config does not fit on the mesh.
    """
    config, vocab_size = run.config, run.vocab_size
    batch = run.rows(config.batch.global_batch_size)
    mesh = make_mesh(config.mesh, compile_only_devices(device, num_devices))
    placed = jax.tree.map(lambda part: part.update(sharding=batch_sharding(mesh)), batch)
    is_deterministic = config.runtime.deterministic
    with compiling_on(device, is_deterministic):
        about = mesh, vocab_size, jnp.ones(vocab_size, jnp.int32), run.num_segments
        parts = build_step(config, *about)
        step: Any = parts.step
        with on_mesh(mesh, config.sharding):
            lowered = step.lower(parts.plan.abstract, placed)
        return compile_lowered(lowered, is_deterministic)


def compile_plan(run: PlannedRun, device: Device, num_devices: int) -> CompiledPlan:
    """Compile the step of a run and read what it is made of; raises as `compile_train_step`."""
    began = time.perf_counter()
    compiled = compile_train_step(run, device, num_devices)
    seconds = time.perf_counter() - began
    return read_compiled(compiled, run, device, num_devices, seconds)


def read_compiled(
    compiled: jax.stages.Compiled,
    run: PlannedRun,
    device: Device,
    num_devices: int,
    seconds: float,
) -> CompiledPlan:
    """Read what a step from `compile_train_step` is made of; it took `seconds` to compile."""
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text is not None, "XLA's GPU compiler prints its programs"
    assert memory is not None, "XLA's GPU compiler tells their memory"
    program, config = read_program(text), run.config
    tokens = config.batch.global_batch_size * config.batch.sequence_length / num_devices
    products = product_flops(program)
    exchanged: collections.Counter[str] = collections.Counter()
    overlapped = 0
    for one in collectives(program):
        exchanged[f"{one.kind}_{one.dtype}"] += one.count * one.num_bytes
        overlapped += one.count * one.num_bytes * one.is_overlapped
    costs = kernel_costs(program, device)
    return CompiledPlan(
        seconds=seconds,
        peak_bytes=memory.peak_memory_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        products=dict(products),
        products_per_6nd=sum(products.values())
        / (6 * num_matmul_parameters(config.model, run.vocab_size) * tokens),
        kernels=dict(custom_kernels(program)),
        num_launches=sum(count for _, count in program.kernels()),
        collectives=dict(exchanged),
        overlapped=overlapped / sum(exchanged.values()) if exchanged else None,
        largest=_largest(program),
        predicted_seconds=sum(cost.seconds for cost in costs),
        slowest=tuple((path, cost.seconds) for path, cost in group_by_source(costs)[:_NUM_LARGEST]),
        num_branches=program.count("conditional"),
        num_unknown_loops=program.num_unknown_loops,
    )


def describe_compiled(plan: CompiledPlan, planned_bytes: int, num_tokens: int) -> list[str]:
    """Return lines for a person.

    Args:
        plan: of the compiled step.
        planned_bytes: the peak memory that was estimated without compiling.
        num_tokens: of one step, on all devices.
    """
    flops = ", ".join(f"{types} {count:.3g}" for types, count in sorted(plan.products.items()))
    lines = [
        f"compiled by XLA in {plan.seconds:.0f} s",
        f"  {'peak memory':20} {plan.peak_bytes / GB:9.3f} GB  ({planned_bytes / GB:.3f} planned)",
        f"  {'products / 6ND':20} {plan.products_per_6nd:9.3f}  {flops}",
        f"  {'launches':20} {plan.num_launches:9,}",
    ]
    lines += [f"  {'kernel':20} {count:9,} x {name}" for name, count in plan.kernels.items()]
    lines += [
        f"  {'exchange':20} {count / GB:9.3f} GB  {name.replace('_', ' ')}"
        for name, count in sorted(plan.collectives.items())
    ]
    if plan.overlapped is not None:
        lines.append(f"  {'overlapped':20} {plan.overlapped:9.0%}  of those bytes")
    lines += [
        f"  {'large array':20} {size / GB:9.3f} GB  {array}  {name}"
        for array, size, name in plan.largest
    ]
    lines.append(
        f"  {'predicted':20} {plan.predicted_seconds:9.3f} s a step without exchange, "
        f"{num_tokens / plan.predicted_seconds:,.0f} tokens/s"
    )
    lines += [
        f"  {'slow operation':20} {seconds / plan.predicted_seconds:9.0%}  {path}"
        for path, seconds in plan.slowest
    ]
    if plan.num_branches or plan.num_unknown_loops:
        lines.append(
            f"  {plan.num_branches} branches and {plan.num_unknown_loops} loops of unknown length"
        )
    return [*lines, f"  {NOT_KNOWN}"]


def _largest(program: Program) -> tuple[tuple[str, int, str], ...]:
    """Return the largest arrays that kernels write, one a shape."""
    found: dict[str, tuple[str, int, str]] = {}
    for operation, _ in program.kernels():
        for array in operation.results:
            name = _spell(array)
            found.setdefault(name, (name, array.num_bytes, operation.source))
    return tuple(sorted(found.values(), key=lambda one: -one[1])[:_NUM_LARGEST])


def _spell(array: Array) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"
