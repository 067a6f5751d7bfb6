"""Each Hopper launch carried out in fp64 on the CPU, with the kernel's own tiles, chunks, boxes and rounding.

The plain kernels around them are carried out too, as wholes: Triton's interpreter runs them in interpreted_hopper.py.

A TMA box is read with zeros outside its tensor and stored without what lies there. Values are rounded where a kernel
rounds them, to the type of the tensor: with fp32 activations only the algebra is left, in bf16 also the rounding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from model.fused.hopper.launch import Launch


def emulate(launch: Launch) -> None:
    """Write what the launch writes."""
    name = launch.kernel.__name__
    if name in WHOLE:
        WHOLE[name](**launch.arguments, **launch.constants)
        return
    for pid in range(launch.grid[0]):
        PROGRAMS[name](pid, launch.grid[0], **launch.arguments, **launch.constants)


def load(box: Any, row: int, column: int) -> Tensor:
    rows, columns = box.block_shape
    found = torch.zeros(rows, columns, dtype=torch.float64, device=box.base.device)
    there = box.base[row : row + rows, column : column + columns]
    found[: there.shape[0], : there.shape[1]] = there.double()
    return found


def store(box: Any, row: int, column: int, values: Tensor) -> None:
    assert list(values.shape) == list(box.block_shape)
    there = box.base[row : row + values.shape[0], column : column + values.shape[1]]
    there.copy_(values[: there.shape[0], : there.shape[1]])


def rounded(values: Tensor, like: Any) -> Tensor:
    return values.to(like.base.dtype).double()


def _gelu(h: Tensor) -> tuple[Tensor, Tensor]:
    phi = 0.5 * torch.erfc(-h / math.sqrt(2))
    return h * phi, phi + h * torch.exp(-h * h / 2) / math.sqrt(2 * math.pi)


def keeps(seed: Tensor, site: int, row: int, rows: int, columns: int, level: int, column: int = 0) -> Tensor:
    """Which elements stay of a tile at (row, column): the bits of `model/fused/dropout_kernels.py`, in 64 bits."""
    low = 0xFFFF_FFFF
    key = int(seed.item())
    k0, k1 = key & low, key >> 32 & low
    i = torch.arange(row, row + rows, device=seed.device)[:, None]
    j = torch.arange(column, column + columns, device=seed.device)[None, :]
    nothing = torch.zeros_like(i + j)
    c0, c1, c2, c3 = (i >> 4 << 3 | i & 7) + nothing, (j >> 4 << 2 | (j & 7) >> 1) + nothing, nothing + site, nothing
    for _ in range(7):
        b, a = c2 * 0xCD9E8D57, c0 * 0xD2511F53  # what runs over in 64 bits leaves both halves as they are
        c0, c1, c2, c3 = (b >> 32 & low) ^ c1 ^ k0, b & low, (a >> 32 & low) ^ c3 ^ k1, a & low
        k0, k1 = k0 + 0x9E3779B9 & low, k1 + 0xBB67AE85 & low
    word = torch.where((j & 8) > 0, torch.where((i & 8) > 0, c3, c1), torch.where((i & 8) > 0, c2, c0))
    return (word >> (j & 1) * 16 & 0xFFFF) >= level


def mask(seed: Tensor, site: int, row: int, rows: int, columns: int, level: int, column: int = 0) -> Any:
    """What dropout multiplies a tile by; 1 for level 0."""
    return keeps(seed, site, row, rows, columns, level, column) * (65536 / (65536 - level)) if level else 1.0


def _statistics(y: Tensor, tile: int, m: int, partial: Tensor) -> None:
    valid = y[: min(64, m - tile * 64)]
    partial[tile, 0] = valid.mean(0)
    partial[tile, 1] = ((valid - valid.mean(0)) ** 2).sum(0)


def _normalised(rows: Tensor, mean: Tensor, var: Tensor, eps: float, box: Any) -> Tensor:
    return rounded((rows - mean.double()) / torch.sqrt(var.double() + eps), box)


def _feed_forward(pid: int, step: int, **a: Any) -> None:
    rounds = -(-(a["tiles"] - pid) // (3 * step))
    for tile in ((r * 3 + group) * step + pid for r in range(rounds) for group in range(3)):
        if tile >= a["tiles"]:
            continue
        x = load(a["x_rows"], tile * 64, 0)
        xhat = _normalised(x, a["mean"], a["var"], a["eps"], a["y"])
        if a["KEEP"]:
            store(a["xhat"], tile * 64, 0, xhat)
        acc = torch.zeros_like(x)
        for first in range(0, a["F"], a["SLICE"]):
            h = xhat @ load(a["w1"], first, 0).T + a["b1"][first : first + a["SLICE"]]
            stays = keeps(a["seed"], a["site"], tile * 64, 64, a["SLICE"], a["INSIDE"], first) if a["INSIDE"] else 1
            acc += rounded(_gelu(h)[0] * stays, a["y"]) @ load(a["w2"], 0, first).T
        acc *= 65536 / (65536 - a["INSIDE"])
        thin = (acc + a["b2"]) * mask(a["seed"], a["site"] + 1, tile * 64, 64, a["D"], a["PATH"])
        y = rounded(thin + (xhat * a["gamma"] + a["beta"] if a["POST"] else x), a["y"])
        store(a["y"], tile * 64, 0, y)
        if a["STATISTICS"]:
            _statistics(y, tile, a["M"], a["partial"])


def _feed_forward_backward(pid: int, _: int, **a: Any) -> None:
    slices = a["F"] // 128
    chunk, f0 = pid // slices, (pid % slices) * 128
    for local in (0, 64):
        f = f0 + local
        up, down, b1 = load(a["w1"], f, 0), load(a["w2"], 0, f), a["b1"][f : f + 64]
        dw1, dw2 = torch.zeros_like(up), torch.zeros_like(up)
        db1 = up.new_zeros(64)
        for tile in range(chunk * a["tiles"] // a["chunks"], (chunk + 1) * a["tiles"] // a["chunks"]):
            xt, yt = load(a["xhat"], tile * 64, 0), load(a["dy"], tile * 64, 0)
            stays = keeps(a["seed"], a["site"], tile * 64, 64, 64, a["INSIDE"], f).T if a["INSIDE"] else 1
            g, slope = (value * stays for value in _gelu(up @ xt.T + b1[:, None]))
            dh = slope * (down.T @ yt.T)
            db1 += dh.sum(1)
            dw1 += rounded(dh, a["dh"]) @ xt
            dw2 += rounded(g, a["dh"]) @ yt
            store(a["dh"], tile * a["F"] + f, 0, rounded(dh, a["dh"]))
        a["parts1"][pid, local : local + 64] = dw1
        a["parts2"][pid, local : local + 64] = dw2
        a["partsb"][0, pid, local : local + 64] = db1


def _input_gradient(pid: int, step: int, **a: Any) -> None:
    m, pieces = a["M"], a["PIECES"]
    dbeta, dgamma = a["sums"][: a["PARTS"]].double().sum(0)
    if a["POST"]:
        dbeta, dgamma = dbeta + a["r_sums"][: a["D"]], dgamma + a["r_sums"][a["D"] :]
    if pid == 0:
        a["dbeta"].copy_(dbeta)
        a["dgamma"].copy_(dgamma)
    rstd = 1 / torch.sqrt(a["var"].double() + a["eps"])
    scale = rstd * a["gamma"] / m
    total = torch.zeros_like(rstd)
    for tile in range(pid, a["tiles"], step):
        for half in (slice(0, 64), slice(64, 128)):
            acc = rstd.new_zeros(64, 64)
            for j in range(pieces):
                left = (
                    load(a["a"], tile * 128 * pieces + j * 128, 0).T if a["TILED"] else load(a["a"], tile * 64, j * 128)
                )
                acc += left @ load(a["w_piece"], j * 128, half.start)
            if a["REST"]:
                acc += load(a["a_rest"], tile * 64, pieces * 128) @ load(a["w_rest"], pieces * 128, half.start)
            if a["POST"]:
                acc += load(a["r"], tile * 64, half.start) * a["gamma"][half]
            dx = acc * rstd[half]
            if a["TRAINING"]:
                dx = dx - (load(a["xhat"], tile * 64, half.start) * (dgamma * scale)[half] + (dbeta * scale)[half])
            if a["RESIDUAL"] and not a["POST"]:
                r = load(a["r"], tile * 64, half.start)
                dx = dx + r
                total[half] += r.sum(0)
            store(a["dx"], tile * 64, half.start, dx)
    if a["SUMS"]:
        a["row_sums"][pid] = total


def _qkv(pid: int, step: int, **a: Any) -> None:
    bias = a["bias"].new_zeros(a["PIECES"] * 128 + a["REST"], dtype=torch.float64)
    bias[: a["OUT"]] = a["bias"]
    for tile in range(pid, a["tiles"], step):
        xhat = _normalised(load(a["x"], tile * 64, 0), a["mean"], a["var"], a["eps"], a["y"])
        if a["KEEP"]:
            store(a["xhat"], tile * 64, 0, xhat)
        for first in range(0, a["PIECES"] * 128, 128):
            store(a["y"], tile * 64, first, xhat @ load(a["w"], first, 0).T + bias[first : first + 128])
        if a["REST"]:
            first = a["PIECES"] * 128
            store(a["y_rest"], tile * 64, first, xhat @ load(a["w_rest"], first, 0).T + bias[first:])


def _out(pid: int, step: int, **a: Any) -> None:
    for tile in range(pid, a["tiles"], step):
        product = load(a["x"], tile * 64, 0) @ load(a["w"], 0, 0).T + a["bias"]
        residual = load(a["r"], tile * 64, 0)
        residual = residual * a["gamma"] + a["beta"] if a["POST"] else residual
        thin = product * mask(a["seed"], a["site"], tile * 64, 64, a["D"], a["LEVEL"])
        y = rounded(thin + residual, a["y"])
        store(a["y"], tile * 64, 0, y)
        if a["STATISTICS"]:
            _statistics(y, tile, a["M"], a["partial"])


def _weight_gradient(pid: int, _: int, **a: Any) -> None:
    slices, inner = a["SLICES"], a["INNER"]
    whole = slices * a["chunks"]
    if pid < whole:
        of, chunk, column = a["chunks"], pid // slices, (pid % slices) * 128
    else:
        of, chunk, column = a["rest_chunks"], pid - whole, slices * 128
    dw = a["parts"].new_zeros(128, inner, dtype=torch.float64)
    sums = dw.new_zeros(3, 128)
    for tile in range(chunk * a["tiles"] // of, (chunk + 1) * a["tiles"] // of):
        dy = torch.cat([load(a["dy"], tile * 64, column + half * 64) for half in range(2)], 1)
        if a["POST"]:
            xhat = torch.cat([load(a["xhat"], tile * 64, half * 64) for half in range(2)], 1)
            sums[1] += dy.sum(0)
            sums[2] += (dy * xhat).sum(0)
        dy = dy * mask(a["seed"], a["site"], tile * 64, 64, 128, a["LEVEL"])
        sums[0] += dy.sum(0)
        dy = rounded(dy, a["dy"])
        dw += dy.T @ load(a["x"], tile * 64, 0)
        for half in range(2 if a["DX"] else 0):
            first = half * (inner // 2)
            w = torch.cat([load(a["w"], rows, first) for rows in (0, 64)])
            store(a["dx"], tile * 64, first, dy @ w)
    a["parts"][0, pid] = dw
    a["partsb"][:, pid] = sums[: len(a["partsb"])]


def _residual_gradient(pid: int, step: int, **a: Any) -> None:
    sums = a["partial"].new_zeros(3, a["D"], dtype=torch.float64)
    for tile in range(pid, a["tiles"], step):
        for half in (slice(0, 64), slice(64, 128)):
            dy, xhat = load(a["dy"], tile * 64, half.start), load(a["xhat"], tile * 64, half.start)
            thin = dy * mask(a["seed"], a["site"], tile * 64, 64, 64, a["LEVEL"], half.start)
            if a["WRITE"]:
                store(a["out"], tile * 64, half.start, thin * a["SCALE"])
            for at, values in enumerate((thin, dy, dy * xhat)):
                sums[at, half] += values.sum(0)
    a["partial"][pid] = sums[: 3 if a["POST"] else 1].flatten()


def _padded(rows: Tensor, size: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])


def _pack(**a: Any) -> None:
    weight = torch.cat([_padded(a[name].double(), a["P"]) for name in ("wq", "wk", "wv")])
    bias = torch.cat([_padded(a[name].double(), a["P"]) for name in ("bq", "bk", "bv")])
    a["qkv"].copy_(weight * a["gamma1"])
    a["qkv_bias"].copy_(bias + weight @ a["beta1"].double())
    a["up"].copy_(a["w1"].double() * a["gamma2"])
    a["up_bias"].copy_(a["b1"] + a["w1"].double() @ a["beta2"].double())
    a["out"].copy_(_padded(a["wo"].T, a["P"]).T)
    a["down"].copy_(a["w2"])


def _reduce(**a: Any) -> None:
    slices, chunks, rest = a["SLICES"], a["CHUNKS"], a["REST_CHUNKS"]
    blocks: list[slice] = [slice(first, slices * chunks, slices) for first in range(slices)]
    blocks += [slice(slices * chunks, slices * chunks + rest)] if rest else []
    rows, i = a["ROWS"], a["IN"]

    def added(parts: Tensor) -> Tensor:
        return torch.cat([parts[block].double().sum(0) for block in blocks])[:rows]

    product, biases = added(a["parts"][0])[:, :i], [added(sums) for sums in a["partsb"]]
    a["dbias"].copy_(torch.cat(biases))
    bias = biases[0]
    if len(a["parts"]) == 2:
        a["dw_turned"].copy_(added(a["parts"][1])[:, :i].T)
    if not a["NORM"]:
        a["dw"].copy_(product)
        return
    a["dw"].copy_(product * a["gamma"] + bias[:, None] * a["beta"])
    names = ("w0", "w1", "w2")[: rows // a["STRIDE"]]
    weight = torch.cat([_padded(a[name].double(), a["STRIDE"]) for name in names])
    a["sums"][:, 0] = (weight * bias[:, None]).view(-1, a["LINES"], i).sum(1)
    a["sums"][:, 1] = (weight * product).view(-1, a["LINES"], i).sum(1)


WHOLE = {
    "fused_pack_weights": _pack,
    "fused_reduce_weight_gradients": _reduce,
}
PROGRAMS = {
    "hopper_residual_gradient": _residual_gradient,
    "hopper_feed_forward": _feed_forward,
    "hopper_feed_forward_backward": _feed_forward_backward,
    "hopper_input_gradient": _input_gradient,
    "hopper_qkv": _qkv,
    "hopper_out": _out,
    "hopper_weight_gradient": _weight_gradient,
}
