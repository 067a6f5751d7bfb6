"""The fused kernels as operators with autograd, most of them under torch.ops.patchtst.

Shapes: M rows, D model width, I and O inputs and outputs of a linear layer, F FFN width. x and y are contiguous, of the
autocast type; weights, biases, gamma and beta are fp32, as the model has them, and so are their gradients. What the
kernels read of the weights comes beside them, as `launch.rounded` gives it: rounded, or up and down for w1 and w2.

norm: "batch" takes mean and var (D,), with `training` those of x itself; "layer" and "none" take none. Rates of dropout
come as levels (`model.fused.dropout.level`), with the seed (1,) of the step; level 0 drops nothing and needs no seed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.fused import launch
from model.fused.launch import Drop, Norm


@torch.library.custom_op("patchtst::norm_partials", mutates_args=())
def norm_partials(x: Tensor) -> Tensor:
    """Statistics of x (M, D) by blocks of rows, (blocks, 2, D); takes no gradient."""
    return launch.partials(x)


@norm_partials.register_fake
def _(x: Tensor) -> Tensor:
    return launch.empty_statistics(x, x.shape[1])


@torch.library.custom_op("patchtst::norm_unite", mutates_args=("running_mean", "running_var", "batches"))
def norm_unite(
    partials: Tensor, rows: int, running_mean: Tensor, running_var: Tensor, batches: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (D,) of all `rows` rows. Their gradient is part of the operators that take them.

    Running statistics move on as in torch.nn.BatchNorm1d, and batches counts one more.
    """
    return launch.unite(partials, rows, running_mean, running_var, batches, momentum)


@norm_unite.register_fake
def _(
    partials: Tensor, rows: int, running_mean: Tensor, running_var: Tensor, batches: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    return partials.new_empty(partials.shape[2]), partials.new_empty(partials.shape[2])


@torch.library.custom_op("patchtst::normalise", mutates_args=())
def normalise(
    x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor, beta: Tensor, eps: float, norm: str,
    training: bool,
) -> Tensor:  # fmt: skip
    """norm(x) (M, D)."""
    return launch.normalise(x, Norm(kind=norm, mean=mean, var=var, gamma=gamma, beta=beta, eps=eps))


@normalise.register_fake
def _(
    x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor, beta: Tensor, eps: float, norm: str,
    training: bool,
) -> Tensor:  # fmt: skip
    return torch.empty_like(x)


@torch.library.custom_op("patchtst::normalise_backward", mutates_args=())
def normalise_backward(
    dy: Tensor, x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor, beta: Tensor, eps: float,
    norm: str, training: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradient of x, and those of beta and gamma, one after the other (2 D,)."""
    kind = Norm(kind=norm, mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)
    return launch.normalise_backward(dy.contiguous(), x, kind, training=training)


@normalise_backward.register_fake
def _(
    dy: Tensor, x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor, beta: Tensor, eps: float,
    norm: str, training: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(x), gamma.new_empty(2 * x.shape[1])


def _normalise_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.norm, ctx.training = inputs
    ctx.save_for_backward(*tensors)


def _normalise_gradient(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx, sums = normalise_backward(dy, *ctx.saved_tensors, ctx.eps, ctx.norm, ctx.training)
    dbeta, dgamma = sums.chunk(2)
    return dx, None, None, dgamma, dbeta, None, None, None


normalise.register_autograd(_normalise_gradient, setup_context=_normalise_context)


@torch.library.custom_op("patchtst::linear_add", mutates_args=())
def linear_add(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, rounded: Tensor, seed: Tensor | None, site: int,
    level: int, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """dropout(x weight^T + bias) + residual (M, O) for x (M, I), and its statistics by blocks; empty if unasked."""
    drop = Drop(seed=seed, site=site, levels=(level, 0))
    y, _, partials = launch.linear(x.contiguous(), rounded, bias, residual=residual, drop=drop, statistics=statistics)
    return y, partials


@linear_add.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, rounded: Tensor, seed: Tensor | None, site: int,
    level: int, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(residual), launch.empty_statistics(x, weight.shape[0], statistics)


@torch.library.custom_op("patchtst::linear_backward", mutates_args=())
def linear_backward(
    dy: Tensor, x: Tensor, weight: Tensor, seed: Tensor | None, site: int, level: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    drop = Drop(seed=seed, site=site, levels=(level, 0))
    dx, sums, dweight = launch.linear_backward(dy.contiguous(), weight, x.contiguous(), drop=drop)
    return dx, dweight, sums


@linear_backward.register_fake
def _(
    dy: Tensor, x: Tensor, weight: Tensor, seed: Tensor | None, site: int, level: int
) -> tuple[Tensor, Tensor, Tensor]:
    fp32 = {"dtype": torch.float32}
    return x.new_empty(x.shape), torch.empty_like(weight, **fp32), weight.new_empty(weight.shape[0], **fp32)


def _linear_add_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, _, _, rounded, seed, ctx.site, ctx.level, _ = inputs
    ctx.save_for_backward(x, rounded, seed)
    ctx.mark_non_differentiable(output[1])


def _linear_add_gradient(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *linear_backward(dy, *ctx.saved_tensors, ctx.site, ctx.level), dy, *[None] * 5


linear_add.register_autograd(_linear_add_gradient, setup_context=_linear_add_context)


@torch.library.custom_op("patchtst::feed_forward", mutates_args=())
def feed_forward(
    x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor,
    w2: Tensor, b2: Tensor, up: Tensor, down: Tensor, seed: Tensor | None, eps: float, norm: str, activation: str,
    post: bool, site: int, inside: int, path: int, training: bool, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """residual + dropout(w2 dropout(f(w1 norm(x) + b1)) + b2) for x (M, D), and its statistics by blocks of rows.

    f: gelu or relu. The residual is x, or norm(x) if `post`. inside, path: levels of dropout at `site` and `site` + 1.
    """
    kind = Norm(kind=norm, mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)
    drop = Drop(seed=seed, site=site, levels=(inside, path))
    return launch.feed_forward(x, kind, up, b1, down, b2, drop, activation=activation, post=post, statistics=statistics)


@feed_forward.register_fake
def _(
    x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor,
    w2: Tensor, b2: Tensor, up: Tensor, down: Tensor, seed: Tensor | None, eps: float, norm: str, activation: str,
    post: bool, site: int, inside: int, path: int, training: bool, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(x), launch.empty_statistics(x, x.shape[1], statistics)


@torch.library.custom_op("patchtst::feed_forward_backward", mutates_args=())
def feed_forward_backward(
    dy: Tensor, x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor, beta: Tensor, w1: Tensor,
    b1: Tensor, w2: Tensor, seed: Tensor | None, eps: float, norm: str, activation: str, post: bool, site: int,
    inside: int, path: int, training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, w1 and w2, and those of beta, gamma, b2 and b1, one after the other (3 D + F,)."""
    kind = Norm(kind=norm, mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)
    drop = Drop(seed=seed, site=site, levels=(inside, path))
    dx, sums, dw1, dw2 = launch.feed_forward_backward(
        dy.contiguous(), x, kind, w1, b1, w2, drop, activation=activation, post=post, training=training
    )
    return dx, dw1, dw2, sums


@feed_forward_backward.register_fake
def _(
    dy: Tensor, x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor, beta: Tensor, w1: Tensor,
    b1: Tensor, w2: Tensor, seed: Tensor | None, eps: float, norm: str, activation: str, post: bool, site: int,
    inside: int, path: int, training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    f, d = w1.shape
    return torch.empty_like(x), *(w1.new_empty(size, dtype=torch.float32) for size in ((f, d), (d, f), 3 * d + f))


def _feed_forward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, mean, var, gamma, beta, _, b1, _, _, up, down, seed, *ctx.rest, _ = inputs
    ctx.save_for_backward(x, mean, var, gamma, beta, up, b1, down, seed)
    ctx.mark_non_differentiable(output[1])


def _feed_forward_gradient(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    dx, dw1, dw2, sums = feed_forward_backward(dy, *ctx.saved_tensors, *ctx.rest)
    f, d = dw1.shape
    dbeta, dgamma, db2, db1 = sums.split([d, d, d, f])
    return dx, None, None, dgamma, dbeta, dw1, db1, dw2, db2, *[None] * 12


feed_forward.register_autograd(_feed_forward_gradient, setup_context=_feed_forward_context)
