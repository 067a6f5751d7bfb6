"""Norms around fused layers, in pieces: statistics by blocks of rows, their union, and what makes gradients.

Tensors x dx dxn dy: M rows x D columns, contiguous. NORM: "batch", over all rows of a column, "layer", over all columns
of a row, or "none". A tile holds all columns of its rows, so layer norm needs no statistics from elsewhere. Batch
norm's come by blocks: mean and M2, the sum of squared distances from it. Blocks are united as in Chan, Golub and
LeVeque (1979), so nothing cancels, however large the mean.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def block_statistics(
    values: tl.tensor, valid: tl.tensor, start: tl.tensor, M: tl.tensor, ROWS: tl.constexpr
) -> tl.tensor:
    """Mean and M2 of the columns of a tile (ROWS, D) whose rows from M on are not valid."""
    count = tl.minimum(M - start, ROWS).to(tl.float32)
    mean = tl.sum(tl.where(valid, values, 0.0), 0) / count
    away = tl.where(valid, values - mean[None, :], 0.0)
    return mean, tl.sum(away * away, 0)


@triton.jit
def store_statistics(
    partial: tl.tensor,
    values: tl.tensor,
    valid: tl.tensor,
    start: tl.tensor,
    M: tl.tensor,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Write the statistics of block start / ROWS to partial (blocks, 2, D)."""
    mean, m2 = block_statistics(values, valid, start, M, ROWS)
    column = tl.arange(0, COLUMNS)
    at = (start // ROWS) * (2 * D) + column
    tl.store(partial + at, mean, mask=column < D)
    tl.store(partial + at + D, m2, mask=column < D)


@triton.jit
def fused_norm_partials(
    x: tl.tensor,
    partial: tl.tensor,
    M: tl.tensor,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Statistics of each block of ROWS rows. Grid: ceil(M / ROWS)."""
    start = tl.program_id(0) * ROWS
    row = start + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    valid = (row < M)[:, None] & (column < D)[None, :]
    values = tl.load(x + row.to(tl.int64)[:, None] * D + column[None, :], mask=valid, other=0.0).to(tl.float32)
    store_statistics(partial, values, valid, start, M, D, ROWS, COLUMNS)


@triton.jit(do_not_specialize=["M"])  # M - 1 divides, and a specialised M of 1 would be a constant
def fused_norm_unite(
    partial: tl.tensor,
    mean_out: tl.tensor,
    var_out: tl.tensor,
    running_mean: tl.tensor,
    running_var: tl.tensor,
    batches: tl.tensor,
    momentum: tl.tensor,
    M: tl.tensor,
    PARTS: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    """Mean and biased variance of all M rows from their blocks; running ones move on. Grid: ceil(D / COLUMNS).

    The running variance takes the unbiased one, as torch.nn.BatchNorm1d does. batches counts the batches.
    """
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (column < D)[None, :]
    block = tl.arange(0, BLOCKS)
    count = tl.maximum(tl.minimum(M - block * ROWS, ROWS), 0).to(tl.float32)[:, None]
    at = partial + block[:, None] * (2 * D) + column[None, :]
    there = (block < PARTS)[:, None] & inside
    first_mean = tl.load(at, mask=there, other=0.0)
    first_m2 = tl.load(at + D, mask=there, other=0.0)  # with the means, as a program mostly waits for memory
    total = count * first_mean
    for first in range(BLOCKS, PARTS, BLOCKS):
        later = tl.maximum(tl.minimum(M - (first + block) * ROWS, ROWS), 0).to(tl.float32)[:, None]
        there = (first + block < PARTS)[:, None] & inside
        total += later * tl.load(at + first * (2 * D), mask=there, other=0.0)
    mean = tl.sum(total, 0) / M
    away = first_mean - mean[None, :]
    squares = first_m2 + count * away * away
    for first in range(BLOCKS, PARTS, BLOCKS):
        later = tl.maximum(tl.minimum(M - (first + block) * ROWS, ROWS), 0).to(tl.float32)[:, None]
        there = (first + block < PARTS)[:, None] & inside
        away = tl.load(at + first * (2 * D), mask=there, other=0.0) - mean[None, :]
        squares += tl.load(at + first * (2 * D) + D, mask=there, other=0.0) + later * away * away
    var = tl.sum(squares, 0) / M
    tl.store(mean_out + column, mean, mask=column < D)
    tl.store(var_out + column, var, mask=column < D)
    old = tl.load(running_mean + column, mask=column < D, other=0.0)
    tl.store(running_mean + column, old + momentum * (mean - old), mask=column < D)
    old = tl.load(running_var + column, mask=column < D, other=0.0)
    unbiased = var * (M / (M - 1.0))
    tl.store(running_var + column, old + momentum * (unbiased - old), mask=column < D)
    if tl.program_id(0) == 0:
        tl.store(batches, tl.load(batches) + 1)


@triton.jit
def normalised(
    values: tl.tensor,
    there: tl.tensor,
    column: tl.tensor,
    inside: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    eps: tl.tensor,
    D: tl.constexpr,
    NORM: tl.constexpr,
) -> tl.tensor:
    """xhat = (values - mean) / sqrt(var + eps) of a tile, and 1 / sqrt(var + eps) as (1, COLUMNS) or (ROWS, 1).

    Layer norm asks for all D columns in the tile.
    """
    if NORM == "layer":
        centred = tl.where(there, values - (tl.sum(tl.where(there, values, 0.0), 1) / D)[:, None], 0.0)
        rstd = (1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps))[:, None]
    else:
        rstd = (1.0 / tl.sqrt(tl.load(var + column, mask=inside, other=1.0) + eps))[None, :]
        centred = values - tl.load(mean + column, mask=inside, other=0.0)[None, :]
    return centred * rstd, rstd


@triton.jit
def scaled(
    xhat: tl.tensor, there: tl.tensor, column: tl.tensor, inside: tl.tensor, gamma: tl.tensor, beta: tl.tensor
) -> tl.tensor:
    """The norm's output gamma xhat + beta of a tile; zero outside."""
    scale = tl.load(gamma + column, mask=inside, other=0.0)
    shift = tl.load(beta + column, mask=inside, other=0.0)
    return tl.where(there, xhat * scale[None, :] + shift[None, :], 0.0)


@triton.jit
def load_normalised(
    x: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    D: tl.constexpr,
    NORM: tl.constexpr,
) -> tl.tensor:
    """A tile of x after the norm, in fp32; zero outside."""
    inside = column < D
    there = (row < M)[:, None] & inside[None, :]
    values = tl.load(x + row.to(tl.int64)[:, None] * D + column[None, :], mask=there, other=0.0).to(tl.float32)
    if NORM != "none":
        xhat, _ = normalised(values, there, column, inside, mean, var, eps, D, NORM)
        values = scaled(xhat, there, column, inside, gamma, beta)
    return values


@triton.jit
def norm_gradient(
    grad: tl.tensor,
    x: tl.tensor,
    at: tl.tensor,
    there: tl.tensor,
    column: tl.tensor,
    inside: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    gamma: tl.tensor,
    base: tl.tensor,
    eps: tl.tensor,
    D: tl.constexpr,
    NORM: tl.constexpr,
) -> tl.tensor:
    """What a tile's program can do of the norm's backward pass for grad, the gradient of the norm's output.

    Writes the sums over its rows of grad and of grad xhat to base and base + D. Layer norm: returns the gradient of x.
    Batch norm: returns grad itself, as the rest needs these sums over all rows.
    """
    values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    xhat, rstd = normalised(values, there, column, inside, mean, var, eps, D, NORM)
    tl.store(base + column, tl.sum(tl.where(there, grad, 0.0), 0), mask=inside)
    tl.store(base + D + column, tl.sum(tl.where(there, grad * xhat, 0.0), 0), mask=inside)
    if NORM == "layer":
        grad = tl.where(there, grad * tl.load(gamma + column, mask=inside, other=0.0)[None, :], 0.0)
        first = tl.sum(grad, 1) / D
        second = tl.sum(grad * xhat, 1) / D
        grad = rstd * (grad - first[:, None] - xhat * second[:, None])
    return grad


@triton.jit
def fused_normalise(
    x: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    y: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORM: tl.constexpr,
) -> None:
    """y = norm(x). Grid: ceil(M / ROWS)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    values = load_normalised(x, row, column, mean, var, gamma, beta, eps, M, D, NORM)
    there = (row < M)[:, None] & (column < D)[None, :]
    tl.store(y + row.to(tl.int64)[:, None] * D + column[None, :], values.to(y.dtype.element_ty), mask=there)


@triton.jit
def fused_normalise_backward(
    dy: tl.tensor,
    x: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    gamma: tl.tensor,
    dx: tl.tensor,
    partial: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORM: tl.constexpr,
) -> None:
    """Sums (blocks, 2 D) of dy and dy xhat; layer norm: dx too, batch norm writes none. Grid: ceil(M / ROWS)."""
    block = tl.program_id(0)
    row = block * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < D
    there = (row < M)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * D + column[None, :]
    grad = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
    base = partial + block * (2 * D)
    grad = norm_gradient(grad, x, at, there, column, inside, mean, var, gamma, base, eps, D, NORM)
    if NORM == "layer":
        tl.store(dx + at, grad.to(dx.dtype.element_ty), mask=there)


@triton.jit
def fused_norm_backward(
    dxn: tl.tensor,
    x: tl.tensor,
    residual: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    gamma: tl.tensor,
    sums: tl.tensor,
    dx: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TRAINING: tl.constexpr,
    RESIDUAL: tl.constexpr,
) -> None:
    """Batch norm: dx = gamma rstd (dxn - mean(dxn) - xhat mean(dxn xhat)), plus the residual's gradient. Grid: blocks.

    sums (2, D): of dxn and of dxn xhat, over all rows. Not TRAINING: statistics were constants. Ioffe and Szegedy 2015.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < D
    there = (row < M)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * D + column[None, :]
    grad = tl.load(dxn + at, mask=there, other=0.0).to(tl.float32)
    values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    xhat, rstd = normalised(values, there, column, inside, mean, var, eps, D, "batch")
    if TRAINING:
        first = tl.load(sums + column, mask=inside, other=0.0) / M
        second = tl.load(sums + D + column, mask=inside, other=0.0) / M
        grad = grad - first[None, :] - xhat * second[None, :]
    grad = grad * (rstd * tl.load(gamma + column, mask=inside, other=0.0)[None, :])
    if RESIDUAL:
        grad += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    tl.store(dx + at, grad.to(dx.dtype.element_ty), mask=there)


@triton.jit
def store_part(
    base: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    out: tl.tensor,
    column: tl.tensor,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """A block's part of a weight's gradient (OUT, IN) to base: left^T right, at rows `out` and columns `column`."""
    part = tl.dot(tl.trans(left), right, input_precision=PRECISION)
    tl.store(base + out[:, None] * IN + column[None, :], part, mask=(out < OUT)[:, None] & (column < IN)[None, :])


@triton.jit
def fused_sum_partials(
    partial: tl.tensor,
    total: tl.tensor,
    second: tl.tensor,
    third: tl.tensor,
    PARTS: tl.constexpr,
    SIZE: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Sum of partial (PARTS, SIZE), in a fixed order: to total, from FIRST on to second, from SECOND on to third.

    Grid: ceil(SIZE / COLUMNS).
    """
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((BLOCK, COLUMNS), dtype=tl.float32)
    for first in range(0, PARTS, BLOCK):
        part = first + tl.arange(0, BLOCK)
        there = (part < PARTS)[:, None] & (column < SIZE)[None, :]
        sums += tl.load(partial + part.to(tl.int64)[:, None] * SIZE + column[None, :], mask=there, other=0.0)
    result = tl.sum(sums, 0)
    tl.store(total + column, result, mask=column < FIRST)
    tl.store(second + column - FIRST, result, mask=(column >= FIRST) & (column < SECOND))
    tl.store(third + column - SECOND, result, mask=(column >= SECOND) & (column < SIZE))
