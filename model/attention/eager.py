"""eager: matrix product, softmax, matrix product, as transformers' PatchTST does it. The reference of every gate."""

from __future__ import annotations

from dataclasses import dataclass

from model.attention.base import Workload


@dataclass(frozen=True)
class Eager:
    """Plain PyTorch: the (N, N) scores are written to memory and read again."""

    name: str = "eager"
    description: str = "matmul, softmax, matmul in plain PyTorch; runs everywhere; the reference"
    # Without compilation softmax_warp_forward/backward; compiled, inductor names its kernel triton_..._softmax_...
    kernel_patterns: tuple[str, ...] = (r"(?i)softmax",)
    cpu_patterns: tuple[str, ...] = (r"aten::_softmax$", r"aten::_softmax_backward_data$")

    def unsupported_reason(self, work: Workload) -> str | None:
        """None: it runs on every device, precision and shape."""
        return None

    def missing_package(self, *, importing: bool) -> str | None:
        """None: PyTorch has it."""
        return None

    def register(self) -> str:
        """transformers knows it by this name already."""
        return "eager"
