"""Shared by the attention benchmarks: inputs at a shape, the exact result, and launches of our own kernels on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Sequences x patches x heads x head width: S, N, K, E.
Shape = tuple[int, int, int, int]
# Relative Frobenius error of the output and of each gradient, by precision.
ALLOWED_ERRORS = {"bf16": 2e-2, "fp16": 3e-3, "tf32": 5e-3, "fp32": 1e-5}
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "tf32": 4}


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


def log_sum_exp(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """What the forward kernel leaves for the backward pass, (S, K, N), from (S, N, K, E) queries and keys."""
    import torch

    scores = q.detach().transpose(1, 2).float() @ k.detach().permute(0, 2, 3, 1).float() * scale
    return (torch.logsumexp(scores, -1) / math.log(2)).contiguous()


class Launches:
    """Launches of one of our kernels at one shape, on inputs that rotate: three times the L2 cache before one repeats.

    direction: "forward" or "backward". A `choice` is a model.attention.patch_op.Choice.
    """

    def __init__(self, shape: Shape, direction: str, precision: str) -> None:
        from benchmarks.graph_timing import sets_to_flush

        self.direction = direction
        self.scale = shape[3] ** -0.5
        self.dtype = dtype_of(precision)
        self.count = sets_to_flush(4 * math.prod(shape) * self.dtype.itemsize)
        inputs = [make_inputs(shape, precision, seed) for seed in range(self.count)]
        self.sets = [(*(leaf.detach().transpose(1, 2) for leaf in leaves), grad) for leaves, grad in inputs]
        self.into = tuple(self.sets[0][3].new_empty(shape) for _ in range(3))
        self.lse = [log_sum_exp(q, k, self.scale) for q, k, _, _ in self.sets] if direction == "backward" else []

    def calls(self, choice: Any) -> list[Callable[[], Any]]:
        """One launch for each set of inputs."""
        return [lambda at=at: self._launch(at, choice) for at in range(self.count)]

    def outputs(self, choice: Any) -> tuple[Tensor, ...]:
        """Of one launch: o and lse, or dq, dk and dv, which the next launch overwrites."""
        return self._launch(0, choice) or self.into

    def _launch(self, at: int, choice: Any) -> Any:
        from model.attention import patch_op

        q, k, v, grad = self.sets[at]
        if self.direction == "forward":
            return patch_op.forward(q, k, v, self.scale, choice)
        return patch_op.backward(grad, q, k, v, self.lse[at], self.scale, choice, self.into)
