"""Triton kernels compiled for a GPU that is not there: registers, shared memory, instructions. Needs no GPU.

Instructions are those of the machine code, read with the nvdisasm that comes with triton.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS = (80, 86, 89, 90)  # compute capability, times ten
# Of one SM, from CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
REGISTERS = 65_536
PROGRAMS = {80: 32, 86: 16, 89: 24, 90: 32}
SHARED_BYTES = {80: 164 * 1024, 86: 100 * 1024, 89: 100 * 1024, 90: 228 * 1024}
WARPS = {80: 64, 86: 48, 89: 48, 90: 64}
# Of one program: an SM's, less the 1 KiB that the system takes of each.
PROGRAM_SHARED_BYTES = {target: most - 1024 for target, most in SHARED_BYTES.items()}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a compiled kernel takes. Instructions: as they lie in the code, and within its loops."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    warps: int  # of a program
    instructions: int
    in_loops: tuple[int, ...]
    kinds: dict[str, int]  # of the loops, or of everything where there is no loop; most frequent first

    def executed(self, trips: int) -> int:
        """By one warp, if every loop turns `trips` times."""
        return self.instructions + (trips - 1) * sum(self.in_loops)

    def resident_warps(self, target: int) -> int:
        """Warps that an SM holds at once."""
        by_registers = REGISTERS // (-(-self.registers // 8) * 8 * 32 * self.warps)
        by_shared = SHARED_BYTES[target] // (self.shared_bytes + 1024)
        return min(by_registers, by_shared, PROGRAMS[target], WARPS[target] // self.warps) * self.warps


def compile_for(
    kernel: Any, target: int, fixed: dict[str, Any], types: dict[str, str], options: dict[str, Any], element: str
) -> Any:
    """A jitted kernel compiled for `target` (90 is compute capability 9.0); pointers are aligned to 16 bytes.

    fixed: constexpr arguments. types: of the others, where they are not pointers to `element` ("*bf16").
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: "constexpr" if name in fixed else types.get(name, element) for name in names}
    source = ASTSource(
        kernel, signature, {(names.index(name),): value for name, value in fixed.items()},
        {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if signature[name].startswith("*")},
    )  # fmt: skip
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


def counts(compiled: Any) -> Counts:
    """What a kernel of `compile_for` takes."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        code = _run(knobs.nvidia.nvdisasm.path, "-c", file.name)
        usage = _run(knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
    lines, labels = [], {}
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L\S+):", line):
            labels[label.group(1)] = len(lines)
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([^;]+?)\s*;", line):
            lines.append(found.group(1))
    end = max(at for at, line in enumerate(lines) if line == "EXIT") + 1
    loops = [
        (labels[target.group(1)], at + 1)
        for at, line in enumerate(lines[:end])
        if (target := re.match(r"BRA.*?`\((\.L\S+)\)", line)) and labels[target.group(1)] < at
    ]
    within = [line for first, last in loops for line in lines[first:last]] or lines[:end]
    found_stack = re.search(r"STACK:(\d+)", usage)
    found_registers = re.search(r"REG:(\d+)", usage)
    assert found_registers and found_stack, usage
    return Counts(
        registers=int(found_registers.group(1)),
        spilled_bytes=int(found_stack.group(1)),
        shared_bytes=compiled.metadata.shared,
        warps=compiled.metadata.num_warps,
        instructions=end,
        in_loops=tuple(last - first for first, last in loops),
        kinds=dict(Counter(line.split()[0].split(".")[0] for line in within).most_common()),
    )


def _run(program: str, *arguments: str) -> str:
    return subprocess.run([str(Path(program)), *arguments], check=True, capture_output=True, text=True).stdout
