"""Shared by the attention benchmarks: inputs at a shape, the exact result in fp64, and the errors allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Sequences x patches x heads x head width: S, N, K, E.
Shape = tuple[int, int, int, int]
# Relative Frobenius error of the output and of each gradient, by precision.
ALLOWED_ERRORS = {"bf16": 2e-2, "fp16": 3e-3, "tf32": 5e-3, "fp32": 1e-5}


def dtype_of(precision: str) -> torch.dtype:
    """The type of q, k and v."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def make_inputs(shape: Shape, precision: str, seed: int) -> tuple[list[Tensor], Tensor]:
    """q, k, v as (S, K, N, E) views of (S, N, K * E) projections, and the gradient of the output (S, N, K, E)."""
    import torch

    generator = torch.Generator("cuda").manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator, device="cuda").to(dtype_of(precision)) for _ in range(4)]
    return [tensor.transpose(1, 2).requires_grad_() for tensor in tensors[:3]], tensors[3]


def exact(leaves: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
    """Eager attention in fp64 for `make_inputs`' tensors: output (S, N, K, E), then dq, dk, dv (S, K, N, E)."""
    import torch

    q, k, v = leaves_64 = [leaf.detach().double().requires_grad_() for leaf in leaves]
    weights = torch.softmax(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5, -1)
    output = (weights @ v).transpose(1, 2)
    return output, *torch.autograd.grad(output, leaves_64, gradient.double())


def relative_error(computed: Tensor, true: Tensor) -> float:
    """Frobenius norm of the difference over that of `true`."""
    return ((computed.double() - true).norm() / true.norm()).item()
