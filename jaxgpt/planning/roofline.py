"""A prediction of a step's time from its compiled program: the roofline of every kernel.

A kernel takes the longest of its products at the rate the card reaches, its bytes at the rate its
memory reaches, and a launch; kernels run one after another (Williams et al. 2009, doi
10.1145/1498765.1498785). No cache is counted, and no exchange between devices. It is good for where
the time of a step goes and for what a change gains; it is not a measurement.
"""

import collections
import math
import re
from typing import NamedTuple

from jaxgpt.planning.devices import Device
from jaxgpt.planning.products import is_grouped, is_product, product_shape
from jaxgpt.planning.program import Array, Operation, Program, called_by

# Shares of the data sheet's rates that large kernels reach.
PRODUCT_SHARE = 0.75
# Flash attention waits for exponentials, in smaller heads more. With rows of 1,024 tokens and more
# cuDNN reaches 348 to 413 TFLOP/s of an H100's 989 with heads of 64, and 408 to 617 with heads of
# 128 (Shah et al. 2024, arXiv:2407.08608, figures 5 and 6: without a mask, both passes).
SMALL_HEAD_SHARE, LARGE_HEAD_SHARE, LARGE_HEAD = 0.4, 0.5, 128
MEMORY_SHARE = 0.9
LAUNCH_SECONDS = 3e-6
# Products of attention's backward pass for each of the two in the forward pass. cuDNN and Mosaic
# multiply five times. Pallas' kernel has a loop for keys and one for queries, four and three.
_BACKWARD, _PALLAS_BACKWARD = 2.5, 3.5
_IN_PLACE = ("dynamic-update-slice", "scatter")
_CUTS = ("dynamic-slice", "slice", "gather")
# Each number is read once, whatever its type or shape becomes.
_VIEWS = ("bitcast", "convert", "reshape", "copy")
# The memory is read and written in whole sectors.
_SECTOR_BYTES = 32


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
                flops / (device.peak_flops * _product_share(operation)),
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
    if operation.opcode == "fusion":
        for called in called_by(operation):
            inside = {one.name: one for one in program.computations.get(called, ())}
            flops += sum(_flops(program, one, inside) for one in inside.values())
    return flops


def is_attention(operation: Operation) -> bool:
    """Return whether a kernel is flash attention: cuDNN's, or Pallas' by Triton or Mosaic."""
    is_kernel = operation.opcode == "custom-call" and not is_grouped(operation)
    return is_kernel and bool(re.search(r"fmha|triton|mosaic", operation.target))


def _product_share(operation: Operation) -> float:
    """Return the share of the peak that a kernel's products reach."""
    if not is_attention(operation):
        return PRODUCT_SHARE
    head_dims = {array.shape[-1] for array in operation.results if len(array.shape) == 4}
    is_large = bool(head_dims) and min(head_dims) >= LARGE_HEAD
    return LARGE_HEAD_SHARE if is_large else SMALL_HEAD_SHARE


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
    if not ("transpose(" in operation.source or "Backward" in operation.target):
        return forward
    return forward * (_PALLAS_BACKWARD if "triton" in operation.target else _BACKWARD)


def _bytes(program: Program, operation: Operation, by_name: dict[str, Operation]) -> float:
    """Return what a kernel reads and writes: each operand and result once, of cuts only the cut."""
    operands = [by_name[name] for name in operation.operands if name in by_name]
    if operation.opcode == "dynamic-update-slice":
        return 2.0 * _size(operands[1].results)
    if operation.opcode == "scatter":
        return _size(operands[2].results) + _updated_bytes(operation, by_name)
    if operation.opcode in _CUTS:
        return operation.num_bytes + _cut_bytes(operation, operands[0].results[0].dtype)
    if operation.opcode != "fusion":
        read = sum(_size(one.results) for one in operands if one.opcode != "constant")
        return read + _size(_written_results(operation))
    (called,) = called_by(operation)
    inside = program.computations[called]
    read = sum(_bytes_read(one, inside) for one in inside if one.opcode == "parameter")
    return read + _bytes_written(operation, inside)


def _bytes_read(parameter: Operation, inside: list[Operation]) -> float:
    """Return what a fused computation reads of one of its operands."""
    whole, dtypes = _size(parameter.results), {array.dtype for array in parameter.results}
    views, cuts, is_used = {parameter.name}, 0.0, set()
    for one in inside:
        if not (used := views.intersection(one.operands)):
            continue
        is_used |= used
        is_first = one.operands[0] in used and len(used) == 1
        if one.opcode in _VIEWS:
            views.add(one.name)
        elif one.opcode in _CUTS and is_first:
            cuts += sum(_cut_bytes(one, dtype) for dtype in dtypes)
        elif not (one.opcode in _IN_PLACE and is_first):
            return whole
    # A view that nothing uses is the result.
    return min(whole, cuts) if is_used == views else whole


def _cut_bytes(cut: Operation, dtype: str) -> float:
    """Return what a cut out of an array of `dtype` reads: of each row whole sectors."""
    (array,) = cut.results
    row = Array(dtype, array.shape[-1:])
    num_rows = math.prod(array.shape[:-1])
    return float(num_rows * -(-row.num_bytes // _SECTOR_BYTES) * _SECTOR_BYTES)


def _bytes_written(fusion: Operation, inside: list[Operation]) -> float:
    """Return what a fusion writes: of an array that it updates in place, the part."""
    by_name = {one.name: one for one in inside}
    written = float(fusion.num_bytes)
    for one in inside:
        if one.opcode in _IN_PLACE and one.num_bytes <= written:
            written += _updated_bytes(one, by_name) - one.num_bytes
    return written


def _updated_bytes(update: Operation, by_name: dict[str, Operation]) -> float:
    """Return what an update in place writes, and reads before that if it adds."""
    if update.opcode == "dynamic-update-slice":
        return _size(by_name[update.operands[1]].results)
    # XLA adds up where the array lies, and copies it before where it is needed as it was.
    return 2.0 * min(_size(by_name[update.operands[2]].results), update.num_bytes)


def _written_results(operation: Operation) -> tuple[Array, ...]:
    """Return what a kernel writes; the workspace of cuBLAS is not counted."""
    if "cublas" not in operation.target:
        return operation.results
    return tuple(array for array in operation.results if array.dtype != "s8")


def _size(arrays: tuple[Array, ...]) -> float:
    return float(sum(array.num_bytes for array in arrays))
