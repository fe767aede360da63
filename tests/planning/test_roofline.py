"""Bytes and operations of kernels, in programs written by hand."""

import pytest

from jaxgpt.planning.devices import find_device
from jaxgpt.planning.program import read_program
from jaxgpt.planning.roofline import (
    LARGE_HEAD_SHARE,
    LAUNCH_SECONDS,
    PRODUCT_SHARE,
    SMALL_HEAD_SHARE,
    Cost,
    kernel_costs,
)

H100 = find_device("h100")
ROWS, WIDTH, IDS = 4096, 512, 8192


def cost_of(entry: str, fused: str = "") -> Cost:
    """The only kernel of a program whose last line is `entry`; `fused` is what it calls."""
    body = f"%fused (a: f32[1]) -> f32[1] {{\n{fused}\n}}\n" if fused else ""
    text = f"HloModule m\n{body}ENTRY %main (a: f32[1]) -> f32[1] {{\n{entry}\n}}\n"
    (cost,) = kernel_costs(read_program(text), H100)
    return cost


def fusion_of(result: str, fused: str) -> Cost:
    entry = f"  %a = bf16[1]{{0}} parameter(0)\n  ROOT %f = {result} fusion(%a), calls=%fused"
    return cost_of(entry, fused)


X = f"  %x = bf16[{ROWS},{WIDTH}]{{1,0}} parameter(0)\n"


def test_a_number_is_read_once_whatever_its_type_becomes() -> None:
    converted = f"{X}  ROOT %y = f32[{ROWS},{WIDTH}]{{1,0}} convert(%x)"
    assert fusion_of(f"f32[{ROWS},{WIDTH}]{{1,0}}", converted).num_bytes == ROWS * WIDTH * (2 + 4)
    # Both by itself and cut: all of it is read, but once.
    both = (
        f"{X}  %c = f32[{ROWS},{WIDTH}]{{1,0}} convert(%x)\n"
        f"  %s = f32[{ROWS},1]{{1,0}} slice(%c), slice={{[0:{ROWS}], [0:1]}}\n"
        f"  %n = f32[{ROWS},{WIDTH}]{{1,0}} negate(%c)\n"
        f"  ROOT %t = (f32[{ROWS},1]{{1,0}}, f32[{ROWS},{WIDTH}]{{1,0}}) tuple(%s, %n)"
    )
    results = f"(f32[{ROWS},1]{{1,0}}, f32[{ROWS},{WIDTH}]{{1,0}})"
    assert fusion_of(results, both).num_bytes == ROWS * (WIDTH * (2 + 4) + 4)


def test_a_cut_reads_whole_sectors_of_what_it_takes_also_behind_a_conversion() -> None:
    column = (
        f"{X}  %c = f32[{ROWS},{WIDTH}]{{1,0}} convert(%x)\n"
        f"  ROOT %s = f32[{ROWS},1]{{1,0}} slice(%c), slice={{[0:{ROWS}], [0:1]}}"
    )
    assert fusion_of(f"f32[{ROWS},1]{{1,0}}", column).num_bytes == ROWS * (32 + 4)
    half = f"{X}  ROOT %s = bf16[8,{WIDTH}]{{1,0}} slice(%x), slice={{[0:8], [0:{WIDTH}]}}"
    assert fusion_of(f"bf16[8,{WIDTH}]{{1,0}}", half).num_bytes == 2 * 8 * WIDTH * 2


def test_the_places_of_a_gather_are_read_and_of_the_table_the_rows() -> None:
    fused = (
        f"  %table = f32[{IDS},{WIDTH}]{{1,0}} parameter(0)\n"
        f"  %ids = s32[{ROWS}]{{0}} parameter(1)\n"
        f"  ROOT %rows = f32[{ROWS},{WIDTH}]{{1,0}} gather(%table, %ids), offset_dims={{1}}"
    )
    found = fusion_of(f"f32[{ROWS},{WIDTH}]{{1,0}}", fused).num_bytes
    assert found == ROWS * (2 * WIDTH * 4 + 4)


@pytest.mark.parametrize("num_rows", [16, 10 * IDS])
def test_a_scatter_reads_and_writes_the_rows_that_it_adds_to(num_rows: int) -> None:
    fused = (
        f"  %table = f32[{IDS},{WIDTH}]{{1,0}} parameter(0)\n"
        f"  %ids = s32[{num_rows}]{{0}} parameter(1)\n"
        f"  %new = bf16[{num_rows},{WIDTH}]{{1,0}} parameter(2)\n"
        f"  %wide = f32[{num_rows},{WIDTH}]{{1,0}} convert(%new)\n"
        f"  ROOT %sum = f32[{IDS},{WIDTH}]{{1,0}} scatter(%table, %ids, %wide), to_apply=%add"
    )
    found = fusion_of(f"f32[{IDS},{WIDTH}]{{1,0}}", fused).num_bytes
    # No more rows than the table has.
    changed = 2 * min(num_rows, IDS) * WIDTH * 4
    assert found == changed + num_rows * (WIDTH * 2 + 4)


def test_an_update_in_place_writes_the_part() -> None:
    fused = (
        f"  %all = f32[16,{WIDTH}]{{1,0}} parameter(0)\n"
        f"  %one = f32[1,{WIDTH}]{{1,0}} parameter(1)\n"
        "  %i = s32[] parameter(2)\n"
        f"  ROOT %new = f32[16,{WIDTH}]{{1,0}} dynamic-update-slice(%all, %one, %i, %i)"
    )
    assert fusion_of(f"f32[16,{WIDTH}]{{1,0}}", fused).num_bytes == 2 * WIDTH * 4 + 4


def test_the_workspace_of_a_product_is_not_counted() -> None:
    size = 8192
    matrix = f"bf16[{size},{size}]{{1,0}}"
    product = cost_of(
        f"  %a = {matrix} parameter(0)\n"
        f"  ROOT %c = ({matrix}, s8[33554432]{{0}}) custom-call(%a, %a), "
        'custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":'
        '{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}'
    )
    assert product.num_bytes == 3 * size * size * 2
    assert product.flops == 2 * size**3
    assert product.seconds == pytest.approx(2 * size**3 / (H100.peak_flops * PRODUCT_SHARE))


def test_a_kernel_of_pallas_reads_its_operands_and_writes_its_results() -> None:
    rows = f"bf16[{ROWS},{WIDTH}]{{1,0}}"
    gradient = cost_of(
        f"  %x = {rows} parameter(0)\n  %dy = {rows} parameter(1)\n"
        f"  %scale = f32[{WIDTH}]{{0}} parameter(2)\n"
        f"  ROOT %c = ({rows}, f32[64,{WIDTH}]{{1,0}}) custom-call(%x, %dy, %scale), "
        'custom_call_target="__gpu$xla.gpu.triton"'
    )
    assert gradient.num_bytes == 3 * ROWS * WIDTH * 2 + (64 + 1) * WIDTH * 4
    assert gradient.flops == 0


def test_a_product_reads_the_sum_that_it_adds_to() -> None:
    matrix = f"bf16[{ROWS},{ROWS}]{{1,0}}"
    product = cost_of(
        f"  %a = {matrix} parameter(0)\n  %b = {matrix} parameter(1)\n"
        f"  %sum = {matrix} parameter(2)\n"
        f"  ROOT %c = ({matrix}, s8[33554432]{{0}}) custom-call(%a, %b, %sum), "
        'custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":'
        '{"beta":1,"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}'
    )
    assert (product.num_bytes, product.flops) == (4 * ROWS * ROWS * 2, 2 * ROWS**3)


@pytest.mark.parametrize(("head_dim", "share"), [(64, SMALL_HEAD_SHARE), (128, LARGE_HEAD_SHARE)])
@pytest.mark.parametrize(
    ("target", "path", "num_products"),
    [
        ("__cudnn$fmhaSoftmax", "attention", 2),
        ("__cudnn$fmhaSoftmaxBackward", "attention", 5),
        ("__gpu$xla.gpu.triton", "attention", 2),
        # Scores and their gradient are made for keys, and again for queries.
        ("__gpu$xla.gpu.triton", "transpose(attention)", 7),
    ],
)
def test_attention_multiplies_half_of_all_scores(
    target: str, path: str, num_products: int, head_dim: int, share: float
) -> None:
    rows, tokens, heads = 8, 2048, 16
    array = f"bf16[{rows},{tokens},{heads},{head_dim}]{{3,2,1,0}}"
    cost = cost_of(
        f"  %a = {array} parameter(0)\n"
        f"  ROOT %c = {array} custom-call(%a, %a, %a), "
        f'custom_call_target="{target}", metadata={{op_name="{path}"}}'
    )
    assert cost.flops == num_products * 2 * rows * heads * tokens**2 * head_dim / 2
    assert cost.seconds == pytest.approx(cost.flops / (H100.peak_flops * share))


def test_a_small_kernel_takes_as_long_as_its_launch() -> None:
    cost = cost_of("  %a = f32[8]{0} parameter(0)\n  ROOT %b = f32[8]{0} negate(%a)")
    assert (cost.seconds, cost.num_bytes) == (LAUNCH_SECONDS, 64)
