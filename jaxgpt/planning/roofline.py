"""A prediction of a step's time from its compiled program: the roofline of every kernel.

A kernel takes the longest of its products at the rate the card reaches, its bytes at the rate its
memory reaches, and a launch; kernels run one after another (Williams et al. 2009, doi
10.1145/1498765.1498785). No cache is counted, and no exchange between devices. It is good for where
the time of a step goes and for what a change gains; it is not a measurement.
"""

import collections
import re
from typing import NamedTuple

from jaxgpt.planning.devices import Device
from jaxgpt.planning.products import is_grouped, is_product, product_shape
from jaxgpt.planning.program import Array, Operation, Program, called_by

# Shares of the data sheet's rates that large kernels reach.
PRODUCT_SHARE = 0.75
MEMORY_SHARE = 0.9
LAUNCH_SECONDS = 3e-6
# The backward pass of attention multiplies five times where the forward pass does twice.
_BACKWARD = 2.5
_CUTS = ("dynamic-slice", "slice", "gather")


class Cost(NamedTuple):
    """Cost of one kernel, all of its runs together.

    Attributes:
        seconds: predicted.
        flops: operations of its products.
        num_bytes: read and written.
        source: path of JAX's operation that it comes from.
    """

    seconds: float
    flops: float
    num_bytes: float
    source: str


def kernel_costs(program: Program, device: Device) -> list[Cost]:
    """Return what every kernel takes on a device; exchanges between devices are left out."""
    costs = []
    for name, operations in program.computations.items():
        if name in program.fused or not (count := program.counts[name]):
            continue
        by_name = {operation.name: operation for operation in operations}
        for operation in operations:
            if not operation.is_kernel or operation.collective:
                continue
            flops = _flops(program, operation, by_name)
            num_bytes = _bytes(program, operation, by_name)
            seconds = max(
                flops / (device.peak_flops * PRODUCT_SHARE),
                num_bytes / (device.memory_bytes_per_second * MEMORY_SHARE),
                LAUNCH_SECONDS,
            )
            costs.append(Cost(seconds * count, flops * count, num_bytes * count, operation.source))
    return costs


def group_by_source(costs: list[Cost]) -> list[tuple[str, Cost]]:
    """Return the costs of kernels from like places together, the largest first."""
    groups: dict[str, list[Cost]] = collections.defaultdict(list)
    for cost in costs:
        path = re.sub(
            r"jit\(\w+\)/|jvp\(|transpose\(|\)|while/body/|closed_call/|checkpoint/"
            r"|rematted_computation/|Gpt\.\w+/",
            "",
            cost.source,
        )
        groups[re.sub(r"\d+", "#", path)].append(cost)
    sums = [
        (
            path,
            Cost(
                sum(one.seconds for one in members),
                sum(one.flops for one in members),
                sum(one.num_bytes for one in members),
                path,
            ),
        )
        for path, members in groups.items()
    ]
    return sorted(sums, key=lambda pair: -pair[1].seconds)


def _flops(program: Program, operation: Operation, by_name: dict[str, Operation]) -> float:
    if is_attention(operation):
        return _attention_flops(operation, by_name)
    flops = product_shape(operation, by_name).flops if is_product(operation) else 0
    if operation.opcode in ("fusion", "async-start"):
        for called in called_by(operation):
            inside = {one.name: one for one in program.computations.get(called, ())}
            flops += sum(_flops(program, one, inside) for one in inside.values())
    return flops


def is_attention(operation: Operation) -> bool:
    """Return whether a kernel is flash attention: cuDNN's, or Pallas' by Triton or Mosaic."""
    is_kernel = operation.opcode == "custom-call" and not is_grouped(operation)
    return is_kernel and bool(re.search(r"fmha|triton|mosaic", operation.target))


def _attention_flops(operation: Operation, by_name: dict[str, Operation]) -> float:
    """Return what a causal kernel multiplies, half of all scores."""
    results = [array for array in operation.results if len(array.shape) == 4]
    inputs = [
        array
        for name in operation.operands
        if name in by_name
        for array in by_name[name].results
        if len(array.shape) == 4
    ]
    if not results or not inputs:
        return 0.0
    num_rows, num_tokens, num_heads, head_dim = inputs[0].shape
    forward = 4 * num_rows * num_heads * num_tokens * num_tokens * head_dim / 2
    is_backward = "transpose(" in operation.source or "Backward" in operation.target
    return forward * (_BACKWARD if is_backward else 1)


def _bytes(program: Program, operation: Operation, by_name: dict[str, Operation]) -> float:
    """Return what a kernel reads and writes: each operand and result once, of cuts only the cut."""
    operands = [by_name[name] for name in operation.operands if name in by_name]
    if operation.opcode == "dynamic-update-slice":
        return 2.0 * _size(operands[1].results)
    if operation.opcode in _CUTS:
        return 2.0 * operation.num_bytes
    if operation.opcode != "fusion":
        return operation.num_bytes + sum(
            _size(one.results) for one in operands if one.opcode != "constant"
        )
    (called,) = called_by(operation)
    inside = program.computations[called]
    read = sum(_bytes_read(one, inside) for one in inside if one.opcode == "parameter")
    return read + _bytes_written(operation, inside)


def _bytes_read(parameter: Operation, inside: list[Operation]) -> float:
    """Return what a fused computation reads of one of its operands."""
    users = [one for one in inside if parameter.name in one.operands]
    # Through what only gives the same numbers another shape.
    if len(users) == 1 and users[0].opcode == "bitcast":
        return _bytes_read(users[0], inside)
    if users and all(user.opcode in _CUTS for user in users):
        return min(_size(parameter.results), sum(user.num_bytes for user in users))
    updated = [
        user
        for user in users
        if user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name
    ]
    return 0 if users and len(updated) == len(users) else _size(parameter.results)


def _bytes_written(fusion: Operation, inside: list[Operation]) -> float:
    """Return what a fusion writes: of an array that it updates in place, the part."""
    by_name = {one.name: one for one in inside}
    written = float(fusion.num_bytes)
    for one in inside:
        if one.opcode == "dynamic-update-slice" and one.num_bytes <= written:
            written += _size(by_name[one.operands[1]].results) - one.num_bytes
    return written


def _size(arrays: tuple[Array, ...]) -> float:
    return float(sum(array.num_bytes for array in arrays))
