"""The Hopper kernels as operators with autograd, under torch.ops.patchtst_hopper.

Shapes: M rows, D = 128 model width, W width of all heads, P the same padded (launch.py), O = 3 P, F FFN width.
Activations are contiguous and bf16.
Parameters are fp32 and get their gradients; what the kernels read instead are the packed weights of `pack`, which get
none. `hopper_reason` says which models they are for.

post: norms come after the sublayers, so the residual is norm(x), which is kept as x normalised, gamma and beta. Rates
of dropout come as levels with the seed (1,) of the step; level 0 drops nothing and needs no seed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.fused.hopper import launch, launch_backward
from model.fused.launch import Drop, Norm, empty_statistics


@torch.library.custom_op("patchtst_hopper::pack", mutates_args=())
def pack(
    wq: Tensor, wk: Tensor, wv: Tensor, bq: Tensor, bk: Tensor, bv: Tensor, gamma1: Tensor, beta1: Tensor, wo: Tensor,
    w1: Tensor, b1: Tensor, gamma2: Tensor, beta2: Tensor, w2: Tensor, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """A layer's weights as the kernels read them: the fields of `launch.Packed`, in that order. Takes no gradient."""
    attention = [(wq, bq), (wk, bk), (wv, bv)]
    return tuple(launch.pack(attention, (gamma1, beta1), wo, (w1, b1), (gamma2, beta2), w2, dtype))


@pack.register_fake
def _(
    wq: Tensor, wk: Tensor, wv: Tensor, bq: Tensor, bk: Tensor, bv: Tensor, gamma1: Tensor, beta1: Tensor, wo: Tensor,
    w1: Tensor, b1: Tensor, gamma2: Tensor, beta2: Tensor, w2: Tensor, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return tuple(launch.empty_packed(wo, w1, dtype))


@torch.library.custom_op("patchtst_hopper::norm_linear", mutates_args=())
def norm_linear(
    x: Tensor, mean: Tensor, var: Tensor, packed: Tensor, packed_bias: Tensor, eps: float, keep: bool
) -> tuple[Tensor, Tensor]:
    """The batch norm of x (M, D), then packed weights: (M, O), and x normalised, empty unless `keep`. No gradient."""
    norm = Norm(mean=mean, var=var, gamma=mean, beta=mean, eps=eps)  # gamma and beta are in the packed weights
    return launch.qkv(x, norm, packed, packed_bias, keep=keep)


@norm_linear.register_fake
def _(
    x: Tensor, mean: Tensor, var: Tensor, packed: Tensor, packed_bias: Tensor, eps: float, keep: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty((x.shape[0], packed.shape[0])), x.new_empty((x.shape[0] if keep else 0, x.shape[1]))


@torch.library.custom_op("patchtst_hopper::norm_linear_backward", mutates_args=())
def norm_linear_backward(
    dy: Tensor, residual: Tensor, sums: Tensor | None, xhat: Tensor, var: Tensor, gamma: Tensor, beta: Tensor,
    wq: Tensor, wk: Tensor, wv: Tensor, packed: Tensor, eps: float, training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x (with the residual's), of q's, k's and v's weights (O, D) and biases (O,), of gamma and beta.

    sums: of the residual's gradient, if that goes through the norm (`linear_backward`).
    """
    norm = Norm(mean=var, var=var, gamma=gamma, beta=beta, eps=eps)  # the mean is in xhat
    weights = (wq, wk, wv)
    dy, residual = dy.contiguous(), residual.contiguous()
    return launch_backward.qkv_backward(dy, xhat, residual, norm, packed, weights, training=training, r_sums=sums)


@norm_linear_backward.register_fake
def _(
    dy: Tensor, residual: Tensor, sums: Tensor | None, xhat: Tensor, var: Tensor, gamma: Tensor, beta: Tensor,
    wq: Tensor, wk: Tensor, wv: Tensor, packed: Tensor, eps: float, training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    o, d = packed.shape
    return torch.empty_like(xhat), wq.new_empty((o, d)), wq.new_empty(o), wq.new_empty(d), wq.new_empty(d)


class NormLinear(torch.autograd.Function):
    """q, k and v of the batch norm of x (M, D), in one tensor (M, O), the residual, and what stands for its sums.

    The residual is x again or, with `post`, x normalised, which `linear_add` scales and shifts. The gradients of both
    uses of x meet in the kernel of dx. With `post` it also takes the sums of the residual's gradient, which come as the
    gradient of the last output (2 D,). `training`: mean and var are those of x. `keep`: a gradient will be asked for.
    Without mean and var x is normalised. Not an operator, as an operator cannot return what it takes.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor, beta: Tensor, wq: Tensor,
        wk: Tensor, wv: Tensor, bq: Tensor, bk: Tensor, bv: Tensor, packed: Tensor, packed_bias: Tensor, eps: float,
        training: bool, keep: bool, post: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        normal = mean is None or var is None
        if mean is None or var is None:
            mean, var, eps, training = torch.zeros_like(gamma), torch.ones_like(gamma), 0.0, False
        qkv, xhat = norm_linear(x, mean, var, packed, packed_bias, eps, not normal and (keep or post))
        if normal:
            xhat = x
        if keep:
            ctx.save_for_backward(xhat, var, gamma, beta, wq, wk, wv, packed)
        ctx.rest = eps, training
        ctx.post = post
        sums = x.new_empty(2 * x.shape[1] if post else 0, dtype=torch.float32)
        return qkv, xhat.view_as(xhat) if post else x.view_as(x), sums

    @staticmethod
    def backward(ctx: Any, dqkv: Tensor, residual: Tensor, sums: Tensor) -> tuple[Tensor | None, ...]:
        given = sums if ctx.post else None
        found = norm_linear_backward(dqkv, residual, given, *ctx.saved_tensors, *ctx.rest)
        dx, dw, dbias, dgamma, dbeta = found
        width, padded = ctx.saved_tensors[4].shape[0], dw.shape[0] // 3
        weights, biases = ([part[:width] for part in parts.split(padded)] for parts in (dw, dbias))
        return dx, None, None, dgamma, dbeta, *weights, *biases, *[None] * 6


@torch.library.custom_op("patchtst_hopper::linear_add", mutates_args=())
def linear_add(
    x: Tensor, weight: Tensor, bias: Tensor, packed: Tensor, residual: Tensor, gamma: Tensor | None,
    beta: Tensor | None, sums: Tensor | None, seed: Tensor | None, site: int, level: int, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """dropout(x (M, P) weight^T + bias) + residual, and its statistics by blocks of rows (empty unless asked for).

    residual (M, D); with gamma and beta it is what `NormLinear` normalised, and they are applied to it. Their gradients
    are that of `sums` (2 D,), which holds no values: sums over rows of dy and of dy residual.
    """
    affine = (gamma, beta) if gamma is not None and beta is not None else None
    drop = Drop(seed=seed, site=site, levels=(level, 0))
    return launch.out(x.contiguous(), packed, bias, residual, statistics=statistics, affine=affine, drop=drop)


@linear_add.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, packed: Tensor, residual: Tensor, gamma: Tensor | None,
    beta: Tensor | None, sums: Tensor | None, seed: Tensor | None, site: int, level: int, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(residual), empty_statistics(residual, residual.shape[1], statistics)


@torch.library.custom_op("patchtst_hopper::linear_backward", mutates_args=())
def linear_backward(
    dy: Tensor, x: Tensor, packed: Tensor, width: int, xhat: Tensor | None, seed: Tensor | None, site: int, level: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (M, P), weight (D, W) and bias (D,); with xhat sums over rows of dy and dy xhat follow it (3 D,).

    width: W.
    """
    drop = Drop(seed=seed, site=site, levels=(level, 0))
    return launch_backward.out_backward(dy.contiguous(), x.contiguous(), packed, width, xhat=xhat, drop=drop)


@linear_backward.register_fake
def _(
    dy: Tensor, x: Tensor, packed: Tensor, width: int, xhat: Tensor | None, seed: Tensor | None, site: int, level: int
) -> tuple[Tensor, Tensor, Tensor]:
    d, fp32 = dy.shape[1], {"dtype": torch.float32}
    return x.new_empty(x.shape), dy.new_empty((d, width), **fp32), dy.new_empty(d if xhat is None else 3 * d, **fp32)


def _linear_add_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, packed, residual, gamma, _, _, seed, ctx.site, ctx.level, _ = inputs
    ctx.post, ctx.width = gamma is not None, weight.shape[1]
    ctx.save_for_backward(x, packed, residual if ctx.post else None, seed)
    ctx.mark_non_differentiable(output[1])


def _linear_add_gradient(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, packed, residual, seed = ctx.saved_tensors
    dx, dw, sums = linear_backward(dy, x, packed, ctx.width, residual, seed, ctx.site, ctx.level)
    d = dw.shape[0]
    return dx, dw, sums[:d], None, dy, None, None, sums[d:] if ctx.post else None, *[None] * 4


linear_add.register_autograd(_linear_add_gradient, setup_context=_linear_add_context)


@torch.library.custom_op("patchtst_hopper::feed_forward", mutates_args=())
def feed_forward(
    x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor,
    up: Tensor, up_bias: Tensor, down: Tensor, seed: Tensor | None, eps: float, post: bool, site: int, inside: int,
    path: int, training: bool, keep: bool, statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """residual + dropout(w2 dropout(gelu(w1 norm(x) + b1)) + b2), its statistics by blocks, and x normalised.

    x (M, D). Statistics are empty unless asked for. The residual is x, or norm(x) if `post`. inside, path: levels of
    dropout at `site` and `site` + 1. `training`: mean and var are those of x. `keep`: a gradient will be asked for;
    else the last is empty. It is for the gradient only.
    """
    norm = Norm(mean=mean, var=var, gamma=gamma, beta=beta, eps=eps)
    drop = Drop(seed=seed, site=site, levels=(inside, path))
    return launch.feed_forward(
        x, norm, up, up_bias, down, b2, keep=keep, statistics=statistics, post=post, drop=drop
    )  # fmt: skip


@feed_forward.register_fake
def _(
    x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor,
    up: Tensor, up_bias: Tensor, down: Tensor, seed: Tensor | None, eps: float, post: bool, site: int, inside: int,
    path: int, training: bool, keep: bool, statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    blocks = empty_statistics(x, x.shape[1], statistics)
    return torch.empty_like(x), blocks, x.new_empty((x.shape[0] if keep else 0, x.shape[1]))


@torch.library.custom_op("patchtst_hopper::feed_forward_backward", mutates_args=())
def feed_forward_backward(
    dy: Tensor, xhat: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, up: Tensor, up_bias: Tensor,
    down: Tensor, seed: Tensor | None, eps: float, post: bool, site: int, inside: int, path: int, training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x (with the residual's), w1, w2, b1, b2, gamma and beta."""
    norm = Norm(mean=var, var=var, gamma=gamma, beta=beta, eps=eps)  # the mean is in xhat
    packed, drop = (up, up_bias, down), Drop(seed=seed, site=site, levels=(inside, path))
    return launch_backward.feed_forward_backward(
        dy.contiguous(), xhat, norm, packed, w1, training=training, post=post, drop=drop
    )


@feed_forward_backward.register_fake
def _(
    dy: Tensor, xhat: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, up: Tensor, up_bias: Tensor,
    down: Tensor, seed: Tensor | None, eps: float, post: bool, site: int, inside: int, path: int, training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    f, d = w1.shape
    sizes = (f, d, d, d)
    return torch.empty_like(xhat), torch.empty_like(w1), w1.new_empty((d, f)), *(w1.new_empty(size) for size in sizes)


def _feed_forward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, _, var, gamma, beta, w1, _, _, _, up, up_bias, down, seed, *ctx.rest, ctx.keep, _ = inputs
    ctx.save_for_backward(output[2], var, gamma, beta, w1, up, up_bias, down, seed)
    ctx.mark_non_differentiable(*output[1:])


def _feed_forward_gradient(ctx: Any, dy: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    assert ctx.keep, "feed_forward keeps what its gradient needs only where `keep` says so"
    found = feed_forward_backward(dy, *ctx.saved_tensors, *ctx.rest)
    dx, dw1, dw2, db1, db2, dgamma, dbeta = found
    return dx, None, None, dgamma, dbeta, dw1, db1, dw2, db2, *[None] * 12


feed_forward.register_autograd(_feed_forward_gradient, setup_context=_feed_forward_context)
