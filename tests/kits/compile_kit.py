"""Compiles kernels for GPUs that are not there, as they would be launched, and reads what they need of a GPU."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ptx_kit import miscompiled

TYPES = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64", int: "i32",
    float: "fp32",
}  # fmt: skip


@dataclass
class Recorder:
    """Takes a kernel's place: keeps what it is launched with and runs nothing."""

    kernel: Any
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **options: self.calls.append((arguments, options))


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A kernel as compiled for one compute capability."""

    ptx: str
    shared: int  # bytes of a program
    registers: int  # of a thread
    spilled: int  # bytes of a thread in local memory


def compile_call(
    kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any], capability: int, folder: Path
) -> Compiled:
    """What that launch runs on a GPU of that capability (80, 86, 89, 90). Tensors may lie on the device "meta"."""
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    names = kernel.arg_names
    launch = {name: value for name, value in options.items() if name not in names}
    fixed = {name: value for name, value in options.items() if name in names}
    types = {
        name: TYPES[value.dtype if isinstance(value, torch.Tensor) else type(value)]
        for name, value in zip(names, arguments, strict=False)
    } | dict.fromkeys(fixed, "constexpr")
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if types[name].startswith("*")}
    source = ASTSource(kernel, types, {(names.index(name),): value for name, value in fixed.items()}, aligned)
    made = compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=launch)
    assert not miscompiled(made.asm["ptx"]), (kernel.__name__, miscompiled(made.asm["ptx"]))
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(made.asm["cubin"])
    dump = Path(get_ptxas(capability).path).with_name("cuobjdump")
    command = [str(dump), "--dump-resource-usage", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {name: int(value) for name, value in re.findall(r"(REG|LOCAL|STACK):(\d+)", text)}
    return Compiled(
        ptx=made.asm["ptx"],
        shared=made.metadata.shared,
        registers=used["REG"],
        spilled=used["LOCAL"] + used["STACK"],
    )
