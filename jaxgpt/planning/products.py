"""Matrix products of a compiled program: types and operations, also of our own kernels.

The operations of attention kernels are in `roofline.py`: causality makes them no plain products.
"""

import collections
import math
import re
from typing import NamedTuple

from jaxgpt.model.layers.grouped_matmul import OUTER_PRODUCT, PRODUCT
from jaxgpt.planning.program import Operation, Program, integers


class ProductShape(NamedTuple):
    """Types of a product's operands and its operations."""

    left: str
    right: str
    flops: int


def is_product(operation: Operation) -> bool:
    """Return whether an operation is a matrix product."""
    return operation.opcode == "dot" or "cublas" in operation.target or is_grouped(operation)


def is_grouped(operation: Operation) -> bool:
    """Return whether an operation multiplies rows, sorted by expert, with matrices of experts."""
    return operation.kernel in (PRODUCT, OUTER_PRODUCT)


def product_flops(program: Program) -> collections.Counter[str]:
    """Return the operations of all matrix products by the types of their operands."""
    flops: collections.Counter[str] = collections.Counter()
    for name, operations in program.computations.items():
        if count := program.counts[name]:
            by_name = {operation.name: operation for operation in operations}
            for operation in operations:
                if is_product(operation):
                    shape = product_shape(operation, by_name)
                    flops[f"{shape.left} x {shape.right}"] += count * shape.flops
    return flops


def product_shape(product: Operation, by_name: dict[str, Operation]) -> ProductShape:
    """Return what a matrix product multiplies; `by_name` holds its computation's operations.

    Of a grouped product all rows count, also those that fill up tiles.
    """
    if is_grouped(product):
        # Its first operand says which expert's the rows are.
        left, right = (by_name[one].results[0] for one in product.operands[1:3])
        outputs = right if product.kernel == OUTER_PRODUCT else product.results[0]
        flops = 2 * math.prod(left.shape) * outputs.shape[-1]
        return ProductShape(left.dtype, right.dtype, flops)
    left, right = (by_name[one].results[0] for one in product.operands[:2])
    contracted = re.search(r'lhs_contracting_dim\w*"?[=:][{\[]([\d,"]*)', product.text)
    assert contracted is not None, f"a product that contracts nothing: {product.text}"
    depth = math.prod(left.shape[axis] for axis in integers(contracted[1].replace('"', "")))
    return ProductShape(left.dtype, right.dtype, 2 * math.prod(product.results[0].shape) * depth)
