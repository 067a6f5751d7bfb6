"""The fused kernels as operators with autograd, under torch.ops.patchtst: norm_linear, linear_add, feed_forward.

Shapes: M rows, D model width, I and O inputs and outputs of a linear layer, F FFN width. x and y are contiguous, of the
autocast type; weights, biases, gamma and beta are fp32, as the model has them, and so are their gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.fused import launch
from model.fused.launch import Norm


@torch.library.custom_op("patchtst::norm_partials", mutates_args=())
def norm_partials(x: Tensor) -> Tensor:
    """Statistics of x (M, D) by blocks of rows, (blocks, 2, D); takes no gradient."""
    return launch.partials(x)


@norm_partials.register_fake
def _(x: Tensor) -> Tensor:
    return launch.empty_statistics(x, x.shape[1])


@torch.library.custom_op("patchtst::norm_unite", mutates_args=())
def norm_unite(partials: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (D,) of all `rows` rows. Their gradient is part of the operators that take them."""
    return launch.unite(partials, rows)


@norm_unite.register_fake
def _(partials: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    return partials.new_empty(partials.shape[2]), partials.new_empty(partials.shape[2])


@torch.library.custom_op("patchtst::norm_linear", mutates_args=())
def norm_linear(
    x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor, eps: float,
    training: bool,
) -> Tensor:  # fmt: skip
    """Batch norm of x (M, I), then weight (O, I) and bias: (M, O). `training`: mean and var are those of x."""
    norm = Norm(mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)
    return launch.linear(x, weight.to(x.dtype), bias, norm)[0]


@norm_linear.register_fake
def _(
    x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor, eps: float,
    training: bool,
) -> Tensor:  # fmt: skip
    return x.new_empty((x.shape[0], weight.shape[0]))


@torch.library.custom_op("patchtst::norm_linear_backward", mutates_args=())
def norm_linear_backward(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, eps: float,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x and weight, and those of beta, gamma and bias, one after the other (2 I + O,)."""
    norm = Norm(mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)
    dxn, sums, dweight = launch.linear_backward(dy.contiguous(), weight.to(x.dtype), x, norm)
    return launch.norm_backward(dxn, x, None, norm, sums, training=training), dweight, sums


@norm_linear_backward.register_fake
def _(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, eps: float,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(x), torch.empty_like(weight), gamma.new_empty(2 * x.shape[1] + weight.shape[0])


def _norm_linear_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mean, var, gamma, beta, weight, _, ctx.eps, ctx.training = inputs
    ctx.save_for_backward(x, mean, var, gamma, beta, weight)


def _norm_linear_gradient(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, mean, var, gamma, beta, weight = ctx.saved_tensors
    dx, dweight, sums = norm_linear_backward(dy, x, mean, var, gamma, beta, weight, ctx.eps, ctx.training)
    dbeta, dgamma, dbias = sums.split([*[x.shape[1]] * 2, weight.shape[0]])
    return dx, None, None, dgamma, dbeta, dweight, dbias, None, None


norm_linear.register_autograd(_norm_linear_gradient, setup_context=_norm_linear_context)


@torch.library.custom_op("patchtst::linear_add", mutates_args=())
def linear_add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, I) weight^T + bias + residual (M, O), and the statistics of it by blocks of rows."""
    return launch.linear(x.contiguous(), weight.to(x.dtype), bias, None, residual)


@linear_add.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(residual), launch.empty_statistics(x, weight.shape[0])


@torch.library.custom_op("patchtst::linear_backward", mutates_args=())
def linear_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    dx, sums, dweight = launch.linear_backward(dy.contiguous(), weight.to(x.dtype), x.contiguous())
    return dx, dweight, sums


@linear_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(weight), weight.new_empty(weight.shape[0])


def _linear_add_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, _ = inputs
    ctx.save_for_backward(x, weight)
    ctx.mark_non_differentiable(output[1])


def _linear_add_gradient(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor, ...]:
    return *linear_backward(dy, *ctx.saved_tensors), dy


linear_add.register_autograd(_linear_add_gradient, setup_context=_linear_add_context)


@torch.library.custom_op("patchtst::feed_forward", mutates_args=())
def feed_forward(
    x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor,
    eps: float, training: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x + w2 gelu(w1 norm(x) + b1) + b2 for x (M, D), and the statistics of it by blocks of rows."""
    norm = Norm(mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)
    return launch.feed_forward(x, norm, w1.to(x.dtype), b1, w2.to(x.dtype), b2)


@feed_forward.register_fake
def _(
    x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor,
    eps: float, training: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(x), launch.empty_statistics(x, x.shape[1])


@torch.library.custom_op("patchtst::feed_forward_backward", mutates_args=())
def feed_forward_backward(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor,
    eps: float, training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, w1 and w2, and those of beta, gamma, b2 and b1, one after the other (3 D + F,)."""
    norm = Norm(mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)
    dy = dy.contiguous()
    dxn, sums, dw1, dw2 = launch.feed_forward_backward(dy, x, norm, w1.to(x.dtype), b1, w2.to(x.dtype))
    return launch.norm_backward(dxn, x, dy, norm, sums, training=training), dw1, dw2, sums


@feed_forward_backward.register_fake
def _(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor,
    eps: float, training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    f, d = w1.shape
    return torch.empty_like(x), torch.empty_like(w1), torch.empty_like(w2), w1.new_empty(3 * d + f)


def _feed_forward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, _, ctx.eps, ctx.training = inputs
    ctx.save_for_backward(*tensors)
    ctx.mark_non_differentiable(output[1])


def _feed_forward_gradient(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    dx, dw1, dw2, sums = feed_forward_backward(dy, *ctx.saved_tensors, ctx.eps, ctx.training)
    f, d = dw1.shape
    dbeta, dgamma, db2, db1 = sums.split([d, d, d, f])
    return dx, None, None, dgamma, dbeta, dw1, db1, dw2, db2, None, None


feed_forward.register_autograd(_feed_forward_gradient, setup_context=_feed_forward_context)
