"""Programs as versions of XLA print them, written by hand: what is asynchronous, above all."""

import pytest

from jaxgpt.planning.devices import find_device
from jaxgpt.planning.program import Collective, Program, collectives, read_program
from jaxgpt.planning.roofline import kernel_costs

SLICE = """%cut (a: f32[8,64], i: s32[]) -> f32[1,64] {
  %a = f32[8,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %c = f32[1,64]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,64}
}
"""
COPY = """%copied (b: f32[8,64]) -> f32[8,64] {
  %b = f32[8,64]{1,0} parameter(0)
  ROOT %d = f32[8,64]{1,0} copy(%b)
}
"""


def read(operations: str, called: str = "") -> Program:
    inputs = "  %x = f32[8,64]{1,0} parameter(0)\n  %n = s32[] parameter(1)\n"
    head = "ENTRY %main (x: f32[8,64], n: s32[]) -> f32[1] {\n"
    return read_program(f"HloModule m\n{called}{head}{inputs}{operations}}}\n")


@pytest.mark.parametrize(
    ("kind", "returned", "size"),
    [
        ("all-reduce", "f32[8,64]{1,0}", 2048),
        ("all-reduce", "((f32[8,64]{1,0}), f32[8,64]{1,0})", 2048),
        ("all-gather", "(f32[8,64]{1,0}, f32[64,64]{1,0})", 16384),
        ("reduce-scatter", "((f32[8,64]{1,0}), f32[1,64]{1,0}, u32[])", 256),
        ("collective-permute", "(f32[8,64]{1,0}, f32[8,64]{1,0}, u32[], u32[])", 2048),
    ],
    ids=["all-reduce of jax 0.10", "all-reduce of jax 0.11", "all-gather", "with state", "permute"],
)
def test_an_exchange_is_as_large_as_what_it_makes(kind: str, returned: str, size: int) -> None:
    program = read(
        f"  %s = {returned} {kind}-start(%x), channel_id=1\n"
        "  %f = f32[8,64]{1,0} fusion(%x), kind=kLoop, calls=%copied\n"
        f"  ROOT %e = f32[8,64]{{1,0}} {kind}-done(%s)\n",
        COPY,
    )
    assert collectives(program) == [Collective(kind, "f32", size, 1, True)]
    assert [operation.name for operation, _ in program.kernels()] == ["s", "f"]


def test_several_arrays_in_one_exchange_are_added_up() -> None:
    for returned in ("(f32[8,64], s32[])", "((f32[8,64], s32[]), (f32[8,64], s32[]))"):
        program = read(f"  %s = {returned} all-reduce-start(%x, %n), channel_id=1\n")
        assert [(one.dtype, one.num_bytes) for one in collectives(program)] == [
            ("f32", 2048),
            ("s32", 4),
        ]


@pytest.mark.parametrize(
    ("kind", "returned"),
    [
        ("all-reduce", "u32[]"),
        ("all-reduce", "((u32[]), u32[])"),
        ("collective-permute", "(u32[], u32[], u32[], u32[])"),
    ],
    ids=["jax 0.10", "jax 0.11", "with state"],
)
def test_a_number_that_looks_like_a_state_is_exchanged(kind: str, returned: str) -> None:
    program = read(f"  %s = {returned} {kind}-start(%n), channel_id=1\n")
    assert collectives(program) == [Collective(kind, "u32", 4, 1, False)]


def test_a_number_among_the_operands_moves_no_result() -> None:
    returned = "((u32[], f32[8,64]{1,0}), u32[], f32[8,64]{1,0})"
    program = read(f"  %s = {returned} all-reduce-start(%n, %x), channel_id=1\n")
    assert [(one.dtype, one.num_bytes) for one in collectives(program)] == [
        ("f32", 2048),
        ("u32", 4),
    ]
    cut = "((u32[], f32[8,64]{1,0}), f32[1,64]{1,0}, u32[])"
    program = read(f"  %f = {cut} fusion-start(%n, %x), kind=kLoop, calls=%cut\n", SLICE)
    assert [operation.num_bytes for operation, _ in program.kernels()] == [256]


def test_a_kernel_next_to_others_costs_what_it_costs_alone() -> None:
    plain = read("  ROOT %f = f32[1,64]{1,0} fusion(%x, %n), kind=kLoop, calls=%cut\n", SLICE)
    together = read(
        "  %f = ((f32[8,64]{1,0}, s32[]), f32[1,64]{1,0}, u32[]) fusion-start(%x, %n), "
        "kind=kLoop, calls=%cut\n"
        "  ROOT %e = f32[1,64]{1,0} fusion-done(%f)\n",
        SLICE,
    )
    h100 = find_device("h100")
    assert kernel_costs(together, h100) == kernel_costs(plain, h100)
    assert len(list(together.kernels())) == 1
    # Of the array that it cuts it reads the part.
    assert kernel_costs(plain, h100)[0].num_bytes == 2 * 256 + 4


def test_a_copy_next_to_kernels_reads_and_writes_once() -> None:
    program = read(
        "  %c = (f32[8,64]{1,0}, f32[8,64]{1,0}, u32[]) copy-start(%x)\n"
        "  ROOT %e = f32[8,64]{1,0} copy-done(%c)\n"
    )
    (cost,) = kernel_costs(program, find_device("h100"))
    assert cost.num_bytes == 2 * 2048
