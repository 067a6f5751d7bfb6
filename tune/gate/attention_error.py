"""An arm's attention function alone: how far its output and gradients are from fp64, and how far eager's are.

Reported, not enforced. In the gate's model the rounding of complete layers at bf16 hides a scale that is 3 % off; for
the function alone it does not. Measured is the function that a backend registers, at the trial's shape and precision.
The trial reaches its kernels another way if the fused layers pass q, k and v in one tensor, or if an engine compiles.

Shapes: S sequences (batch x channels), K heads, N patches, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.attention import get_backend
from tune.engine.precision import autocast, set_matmul_precision

SEED = 20_260_102
SHARPNESS = 1.5  # deviation of queries and keys; that of scores is then about 2, so that a wrong softmax shows
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Attention = Callable[..., tuple[Tensor, Any]]


@dataclass(frozen=True, kw_only=True)
class AttentionErrors:
    """The largest of four relative Frobenius norms against fp64: output, and gradients of q, k and v."""

    arm: float
    eager: float


def measure_attention(name: str, shape_SKNE: tuple[int, ...], precision: str, device: torch.device) -> AttentionErrors:
    """The errors of backend `name` on inputs rounded to `precision`. Raises what it raises; sets matmul precision."""
    generator = torch.Generator(device).manual_seed(SEED)
    dtype = DTYPES.get(precision, torch.float32)
    scales = (SHARPNESS, SHARPNESS, 1.0, 1.0)  # of q, k, v and the output's gradient
    # In memory as the projections write it: (S, N, K, E), heads beside each other
    s, k, n, e = shape_SKNE
    drawn_SNKE = [scale * torch.randn((s, n, k, e), generator=generator, device=device) for scale in scales]
    *qkv_SNKE, grad_SNKE = (tensor.to(dtype) for tensor in drawn_SNKE)
    true = _run(_function("eager"), [tensor.double() for tensor in qkv_SNKE], grad_SNKE.double(), "fp64")
    errors = {}
    for backend in ("eager", name):
        got = _run(_function(backend), qkv_SNKE, grad_SNKE, precision)
        ratios = [
            _relative((mine.double() - right).norm(), right.norm()) for mine, right in zip(got, true, strict=True)
        ]
        errors[backend] = torch.stack(ratios).max().item()  # NaN if any is
    return AttentionErrors(arm=errors[name], eager=errors["eager"])


def _relative(difference: Tensor, norm: Tensor) -> Tensor:
    """0 where both are 0: with one patch, softmax is constant and the gradients of q and k are exactly 0."""
    return torch.where((difference == 0) & (norm == 0), 0.0, difference / norm)


def _function(name: str) -> Attention:
    from transformers import AttentionInterface
    from transformers.models.patchtst.modeling_patchtst import eager_attention_forward

    function: Attention = AttentionInterface().get_interface(get_backend(name).register(), eager_attention_forward)
    return function


def _run(attend: Attention, qkv_SNKE: list[Tensor], grad_SNKE: Tensor, precision: str) -> tuple[Tensor, ...]:
    """Output (S, N, K, E), and the gradients of q, k and v."""
    set_matmul_precision(precision)
    leaves_SKNE = [tensor.transpose(1, 2).detach().requires_grad_() for tensor in qkv_SNKE]
    scale = grad_SNKE.shape[-1] ** -0.5
    with autocast(grad_SNKE.device.type, precision):
        output_SNKE, _ = attend(nn.Module().train(), *leaves_SKNE, None, dropout=0.0, scaling=scale)
    gradients = torch.autograd.grad(output_SNKE, leaves_SKNE, grad_SNKE.to(output_SNKE.dtype))
    return output_SNKE.detach(), *gradients
