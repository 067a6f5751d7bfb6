"""Hopper launches without a GPU: recorded instead of run, and their kernels compiled on the CPU for sm_90."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from ptx_kit import miscompiled
from torch import Tensor
from triton.backends.compiler import BaseBackend, GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import compile as compile_source
from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction
from triton.runtime.jit import native_specialize_impl

from model.fused.dropout import level
from model.fused.hopper import launch, launch_backward
from model.fused.launch import Drop, Norm

HOPPER = GPUTarget("cuda", 90, 32)
MOST_SHARED = 232_448  # bytes that one program may have on compute capability 9.0
D = 128


@dataclass(frozen=True)
class Compiled:
    """What a compiled kernel needs."""

    name: str
    shared: int  # bytes of a program
    registers: int  # of a thread
    stack: int  # bytes of a thread: spilled registers among them
    ptx: str


def compiled(given: launch.Launch) -> Compiled:
    """The launch's kernel, compiled for the types of its arguments as Triton's own launcher reads them."""
    kernel = given.kernel
    fixed = set(kernel.do_not_specialize or ())
    types: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for at, name in enumerate(kernel.arg_names):
        if name in given.constants:
            types[name] = "constexpr"
            continue
        value = given.arguments[name]
        types[name], key = native_specialize_impl(BaseBackend, value, False, name not in fixed, True)
        if isinstance(value, Tensor) and key == "D":
            attributes[(at,)] = [["tt.divisibility", 16]]
    constants = {(kernel.arg_names.index(name),): value for name, value in given.constants.items()}
    source_type = GluonASTSource if isinstance(kernel, GluonJITFunction) else ASTSource
    source = source_type(kernel, types, constants, attributes)
    found = compile_source(source, target=HOPPER, options=dict(given.options))
    assert not miscompiled(found.asm["ptx"]), (kernel.__name__, miscompiled(found.asm["ptx"]))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(found.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage.stdout)[1]) for name in ("REG", "STACK"))  # type: ignore[index]
    return Compiled(kernel.__name__, found.metadata.shared, registers, stack, found.asm["ptx"])


@contextmanager
def recorded(run: Callable[[launch.Launch], None] | None = None, programs: int | None = 132) -> Iterator[list[Any]]:
    """The launches inside, in order; none runs, unless `run` runs them. programs: None asks the GPU."""
    found: list[launch.Launch] = []

    def keep(given: launch.Launch) -> None:
        found.append(given)
        if run is not None:
            run(given)

    with mock.patch.object(launch, "run", keep):
        if programs is None:
            yield found
            return
        with (
            mock.patch.object(launch, "processors", lambda device: programs),
            mock.patch.object(launch_backward, "processors", lambda device: programs),
            mock.patch.object(launch_backward, "add_up", lambda partial: partial.sum(0)),
        ):
            yield found


def a_layer(
    rows: int, width: int, ffn: int, device: str = "cpu", seed: int = 0, dtype: Any = torch.bfloat16, *,
    post: bool = False, rate: float = 0.0,
) -> None:  # fmt: skip
    """Every launch of a layer, forward and backward, on random numbers. width: of all heads.

    post: norms come after the sublayers. rate: of dropout inside and before both residuals.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def random(*shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, device=device, generator=generator) * scale + mean

    def norm_of(x: Tensor, gamma: Tensor, beta: Tensor) -> Norm:
        mean, var = x.float().mean(0), x.float().var(0, unbiased=False)
        return Norm(mean=mean, var=var, gamma=gamma, beta=beta, eps=1e-5)

    x, dz = random(rows, D, mean=0.5).to(dtype), random(rows, D).to(dtype)
    attention = [(random(width, D, scale=0.09), random(width, scale=0.1)) for _ in range(3)]
    wo, up = random(D, width, scale=0.09), (random(ffn, D, scale=0.09), random(ffn, scale=0.1))
    w2, bo, b2 = random(D, ffn, scale=0.05), random(D, scale=0.1), random(D, scale=0.1)
    affine1, affine2 = ((random(D, scale=0.2, mean=1.0), random(D, scale=0.2)) for _ in range(2))
    packed = launch.pack(attention, affine1, wo, up, affine2, w2, dtype)
    padded = packed.out.shape[1]
    attended = random(rows, padded).to(dtype)
    norm1 = norm_of(x, *affine1)
    key = torch.tensor([2**40 + seed], device=device) if rate else None
    drop1, drop2 = (Drop(seed=key, site=site, levels=(level(rate), more)) for site, more in ((1, 0), (2, level(rate))))
    _, xhat = launch.qkv(x, norm1, packed.qkv, packed.qkv_bias, keep=True)
    residual, affine = (xhat, affine1) if post else (x, None)
    y, _ = launch.out(attended, packed.out, bo, residual, statistics=True, affine=affine, drop=drop1)
    norm2, held = norm_of(y, *affine2), (packed.up, packed.up_bias, packed.down)
    _, _, yhat = launch.feed_forward(y, norm2, *held, b2, keep=True, statistics=True, post=post, drop=drop2)
    dy = launch_backward.feed_forward_backward(dz, yhat, norm2, held, up[0], training=True, post=post, drop=drop2)[0]
    normalised = xhat if post else None
    r_sums = launch_backward.out_backward(dy, attended, packed.out, width, xhat=normalised, drop=drop1)[2][D:]
    dqkv = random(rows, 3 * padded).to(dtype)
    weights = tuple(weight for weight, _ in attention)
    launch_backward.qkv_backward(
        dqkv, xhat, dy, norm1, packed.qkv, weights, training=True, r_sums=r_sums if post else None
    )
