"""A compiled program as XLA prints it: its operations, and how often each of them runs.

XLA's own cost analysis is empty for programs of a GPU that is not here, so products, kernels and
collectives are counted in the text of the optimised program (HLO).
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")
_OPERATION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_COLLECTIVE = re.compile(
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|"
    r"collective-broadcast)(-start)?$"
)
# Operations that start no kernel and move no byte.
_FREE = frozenset(
    {
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "conditional",
        "call",
        "after-all",
        "partition-id",
        "replica-id",
        # Its kernels are those of the computation that it calls.
        "async-start",
        "async-update",
    }
)
# What the start of an asynchronous operation returns after its results.
_STATE = ("u32", ())
# Asynchronous operations that are no exchange; jax 0.11 makes many slices so.
_STARTED = frozenset({"copy-start", "fusion-start", "custom-call-start", "call-start"})
# Computations named by these attributes run where their operation runs.
_CALLED = re.compile(r"(?:calls|to_apply|branch_computations|true_computation|false_computation)=")


class Array(NamedTuple):
    """Type and shape of an array in the program."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the array in bytes."""
        if self.dtype == "token":
            return 0
        bits = int(re.sub(r"\D", "", self.dtype[:4]) or 8)
        return math.prod(self.shape) * max(bits, 8) // 8


class Operation(NamedTuple):
    """One line of the program.

    Attributes:
        name: unique within its computation.
        opcode: such as dot, fusion, custom-call. The start of a kernel that runs next to others has
            the opcode of one that runs alone, and the wait for its end is named `-done`.
        results: arrays that it makes.
        operands: names of what it reads.
        text: operands and attributes as printed.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str

    @property
    def target(self) -> str:
        """Return the function that a custom call calls; empty for other operations."""
        found = re.search(r'custom_call_target="([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def is_kernel(self) -> bool:
        """Return whether it is a kernel, an exchange or a copy of its own."""
        return self.opcode not in _FREE and not self.opcode.endswith("-done")

    @property
    def kernel(self) -> str:
        """Return the name that a kernel of Pallas was given; empty for other operations."""
        found = re.search(r'\bname = "([^"]*)"', self.text) if "triton" in self.target else None
        return found[1] if found else ""

    @property
    def collective(self) -> str:
        """Return the kind of exchange between devices that it is or starts; empty for none."""
        found = _COLLECTIVE.match(self.opcode)
        return found[1] if found else ""

    @property
    def source(self) -> str:
        """Return the path of JAX's operation that it comes from, or its own name."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else self.name

    @property
    def num_bytes(self) -> int:
        """Size of the results in bytes."""
        return sum(array.num_bytes for array in self.results)


class Collective(NamedTuple):
    """An exchange between devices.

    Attributes:
        kind: such as all-gather.
        dtype: type of what is exchanged.
        num_bytes: size of the results on one device, once.
        count: how often it runs.
        is_overlapped: whether the device computes while it runs.
    """

    kind: str
    dtype: str
    num_bytes: int
    count: int
    is_overlapped: bool


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program of one device.

    Attributes:
        computations: operations of each computation, in the order in which they run.
        counts: how often each computation runs in one run of the program.
        fused: computations inside one kernel.
        num_unknown_loops: loops whose number of rounds XLA does not know; each is counted once.
    """

    computations: dict[str, list[Operation]]
    counts: collections.Counter[str]
    fused: frozenset[str]
    num_unknown_loops: int

    def operations(self) -> Iterator[tuple[Operation, int]]:
        """Yield every operation that runs, inside kernels too, and how often."""
        for name, operations in self.computations.items():
            if count := self.counts[name]:
                for operation in operations:
                    yield operation, count

    def kernels(self) -> Iterator[tuple[Operation, int]]:
        """Yield every operation that is a kernel, an exchange or a copy, and how often it runs."""
        for name, operations in self.computations.items():
            if name in self.fused or not self.counts[name]:
                continue
            for operation in operations:
                if operation.is_kernel:
                    yield operation, self.counts[name]

    def count(self, opcode: str) -> int:
        """Return how often operations of one kind run, inside kernels too."""
        return sum(count for one, count in self.operations() if one.opcode == opcode)


def read_program(text: str) -> Program:
    """Read a program that `jax.stages.Compiled.as_text` printed."""
    computations, entry = _split(text)
    counts: collections.Counter[str] = collections.Counter()
    fused: set[str] = set()
    unknown = 0

    def walk(name: str, count: int) -> None:
        nonlocal unknown
        counts[name] += count
        for operation in computations.get(name, ()):
            if operation.opcode == "while":
                rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', operation.text)
                unknown += count if rounds is None else 0
                body = re.search(r"body=%([\w.\-]+)", operation.text)
                assert body is not None, f"a loop without a body: {operation.text}"
                walk(body[1], count * int(rounds[1] if rounds else 1))
            elif operation.opcode in ("fusion", "call", "async-start", "conditional"):
                for called in called_by(operation):
                    if operation.opcode == "fusion":
                        fused.add(called)
                    walk(called, count)

    walk(entry, 1)
    return Program(computations, counts, frozenset(fused), unknown)


def called_by(operation: Operation) -> list[str]:
    """Return the computations that an operation runs."""
    names = []
    for found in _CALLED.finditer(operation.text):
        listed = re.match(r"\{?([^}\s]*)", operation.text[found.end() :])
        names += re.findall(r"%([\w.\-]+)", listed[1] if listed else "")
    return names


def _split(text: str) -> tuple[dict[str, list[Operation]], str]:
    """Return the operations of each computation, and which of them is the program's entry."""
    computations: dict[str, list[Operation]] = {}
    entry, here = "", None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            here = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            here = None
        elif here is not None and (found := _OPERATION.match(line)):
            name, shape, opcode, rest = found.groups()
            operands = tuple(re.findall(r"%([\w.\-]+)", rest.split("), ")[0]))
            results = _results(shape, opcode, len(operands))
            if opcode in _STARTED:
                opcode = opcode.removesuffix("-start")
            here.append(Operation(name, opcode, results, operands, rest))
    return computations, entry


def _results(shape: str, opcode: str, num_operands: int) -> tuple[Array, ...]:
    """Return the arrays that an operation of the printed `shape` makes."""
    arrays = tuple(Array(dtype, integers(sizes)) for dtype, sizes in _ARRAY.findall(shape))
    if not opcode.endswith("-start"):
        return arrays
    if opcode == "copy-start":
        return arrays[:1]
    # The others name their operands first. Those of an all-reduce are missing before jax 0.11.
    made = list(arrays[num_operands:] or arrays)
    # An exchange makes as many arrays as it reads, and one of them may look like a state.
    fewest = num_operands if _COLLECTIVE.match(opcode) else 1
    while len(made) > fewest and made[-1] == _STATE:
        made.pop()
    return tuple(made)


def custom_kernels(program: Program) -> collections.Counter[str]:
    """Return how often each kernel runs that XLA did not write itself, such as cuDNN's."""
    calls: collections.Counter[str] = collections.Counter()
    for operation, count in program.operations():
        if operation.opcode == "custom-call":
            calls[operation.target] += count
    return calls


def collectives(program: Program) -> list[Collective]:
    """Return every exchange between devices."""
    found = []
    for name, operations in program.computations.items():
        if not (count := program.counts[name]):
            continue
        for place, operation in enumerate(operations):
            if not operation.collective:
                continue
            is_start = operation.opcode.endswith("-start")
            overlapped = is_start and _is_overlapped(operation, operations[place + 1 :])
            for dtype in sorted({array.dtype for array in operation.results}):
                size = sum(array.num_bytes for array in operation.results if array.dtype == dtype)
                found.append(Collective(operation.collective, dtype, size, count, overlapped))
    return found


def _is_overlapped(start: Operation, later: list[Operation]) -> bool:
    """Return whether a kernel stands between the start of an exchange and its end."""
    if '"is_sync":true' in start.text:
        return False
    for operation in later:
        if start.name in operation.operands:
            return False
        if operation.opcode in ("fusion", "dot", "custom-call", "while", "call"):
            return True
    return False


def integers(text: str) -> tuple[int, ...]:
    """Return the numbers of a list as XLA prints it."""
    return tuple(int(number) for number in text.split(",") if number)
