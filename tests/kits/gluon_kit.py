"""Gluon kernels without a GPU: each launch is compiled for Hopper, or only recorded."""

from __future__ import annotations

from typing import Any

import torch
from triton.backends.compiler import BaseBackend, GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import compile as compile_source
from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction
from triton.runtime.jit import native_specialize_impl

from model.fused.hopper.launch import Launch

HOPPER = GPUTarget("cuda", 90, 32)
MOST_SHARED = 232_448  # bytes that one program may have on compute capability 9.0


def compiled(launch: Launch) -> Any:
    """The launch's kernel, compiled on the CPU for the types of its arguments as Triton's own launcher reads them."""
    kernel = launch.kernel
    fixed = set(kernel.do_not_specialize or ())
    types: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for at, name in enumerate(kernel.arg_names):
        if name in launch.constants:
            types[name] = "constexpr"
            continue
        value = launch.arguments[name]
        given, key = native_specialize_impl(BaseBackend, value, False, name not in fixed, True)
        types[name] = "constexpr" if given == "constexpr" else given
        if isinstance(value, torch.Tensor) and key == "D":
            attributes[(at,)] = [["tt.divisibility", 16]]
    constants = {(kernel.arg_names.index(name),): value for name, value in launch.constants.items()}
    source_type = GluonASTSource if isinstance(kernel, GluonJITFunction) else ASTSource
    source = source_type(kernel, types, constants, attributes)
    return compile_source(source, target=HOPPER, options=dict(launch.options))
