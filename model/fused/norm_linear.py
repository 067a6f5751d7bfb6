"""The projections of attention as one operator: norm, then a linear layer; what goes on to the residual comes with it.

So the gradients of both uses of x meet inside the kernels. Shapes: M rows, I inputs, O outputs. Types as in ops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.fused import launch
from model.fused.launch import Norm


@torch.library.custom_op("patchtst::norm_linear", mutates_args=())
def forward_op(
    x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor | None, beta: Tensor | None, weight: Tensor,
    bias: Tensor, eps: float, norm: str, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """norm(x) weight^T + bias (M, O), and norm(x) (M, I) if `keep`, else an empty tensor. Has no gradient."""
    kind = Norm(kind=norm, mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)
    y, xn, _ = launch.linear(x, weight, bias, kind, keep=keep)
    return y, xn


@forward_op.register_fake
def _(
    x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor | None, beta: Tensor | None, weight: Tensor,
    bias: Tensor, eps: float, norm: str, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return x.new_empty((x.shape[0], weight.shape[0])), x.new_empty((x.shape[0] if keep else 0, x.shape[1]))


@torch.library.custom_op("patchtst::norm_linear_backward", mutates_args=())
def backward_op(
    dy: Tensor, residual: Tensor, x: Tensor, xn: Tensor | None, mean: Tensor | None, var: Tensor | None,
    gamma: Tensor | None, beta: Tensor | None, weight: Tensor, eps: float, norm: str, training: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x and weight; those of beta and gamma (with a norm) and of bias, one after the other.

    residual: the other gradient, of xn = norm(x) if that is given, else of x.
    """
    kind = Norm(kind=norm, mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)
    dx, sums, dweight = launch.linear_backward(
        dy.contiguous(), weight, x, kind, residual.contiguous(), xn=xn, training=training
    )
    return dx, dweight, sums


@backward_op.register_fake
def _(
    dy: Tensor, residual: Tensor, x: Tensor, xn: Tensor | None, mean: Tensor | None, var: Tensor | None,
    gamma: Tensor | None, beta: Tensor | None, weight: Tensor, eps: float, norm: str, training: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    sums = (2 * x.shape[1] if norm != "none" else 0) + weight.shape[0]
    return torch.empty_like(x), *(weight.new_empty(size, dtype=torch.float32) for size in (weight.shape, sums))


class NormLinear(torch.autograd.Function):
    """(x, mean, var, gamma, beta, weight, bias, eps, norm, post, training) -> norm(x) weight^T + bias, and a residual.

    The residual is x itself, or norm(x) if `post`. Not an operator, as an operator cannot return what it takes.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor | None, beta: Tensor | None,
        weight: Tensor, bias: Tensor, eps: float, norm: str, post: bool, training: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        keep = post and norm != "none"
        rounded = launch.rounded(weight, x)  # once for both passes
        y, xn = forward_op(x, mean, var, gamma, beta, rounded, bias, eps, norm, keep)
        ctx.save_for_backward(x, xn if keep else None, mean, var, gamma, beta, rounded)
        ctx.rest = eps, norm, training
        return y, xn if keep else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dx, dweight, sums = backward_op(*gradients, *ctx.saved_tensors, *ctx.rest)
        o = dweight.shape[0]
        if len(sums) == o:
            return dx, None, None, None, None, dweight, sums, *[None] * 4
        dbeta, dgamma, dbias = sums.split([dx.shape[1], dx.shape[1], o])
        return dx, None, None, dgamma, dbeta, dweight, dbias, *[None] * 4
