"""Compiling again where XLA needs the card to find a kernel."""

from typing import Any, cast

import jax
import pytest

from jaxgpt.planning.cross_compile import compile_lowered


class _Lowered:
    """A program that XLA refuses to compile with Triton."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.tried: list[dict[str, Any]] = []

    def compile(self, compiler_options: dict[str, Any]) -> str:
        self.tried.append(compiler_options)
        if compiler_options.get("xla_gpu_enable_triton_gemm", True):
            raise jax.errors.JaxRuntimeError(self.message)
        return "compiled"


def test_a_product_without_a_tile_of_triton_is_left_to_cublas(caplog) -> None:
    lowered = _Lowered("INTERNAL: No supported config found for HLO: %gemm_fusion_dot.29 = ...")
    assert compile_lowered(cast(Any, lowered), False) == "compiled"
    first, second = lowered.tried
    assert second == first | {"xla_gpu_enable_triton_gemm": False}
    assert "cuBLAS for all of them" in caplog.text


def test_other_errors_of_xla_are_raised() -> None:
    lowered = _Lowered("RESOURCE_EXHAUSTED: Shared memory size limit exceeded")
    with pytest.raises(jax.errors.JaxRuntimeError, match="Shared memory"):
        compile_lowered(cast(Any, lowered), False)
    assert len(lowered.tried) == 1
