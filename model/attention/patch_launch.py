"""How the kernels of patch are launched: a table, fixed, with the reason of each row. Importing this imports triton.

One table serves compute capability 8.0, 8.6, 8.9 and 9.0. The kernels use mma.sync and cp.async, which all of them
have, and every row stays under 99 KiB of shared memory, the most that a program may have on 8.6 and 8.9. What differs
is how many programs run side by side: an SM holds 65,536 registers, and 32 (8.0, 9.0), 24 (8.9) or 16 (8.6) programs.
Programs of one warp are bound by registers where a thread takes more than 64, 85 or 128 of them.
`benchmarks/attention_counts.py` prints instructions, registers and resident warps for each target, and the tests
compile every row for each target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

MAX_PATCHES = 128
MAX_HEAD_DIM = 64
MOST_SHARED_BYTES = 99 * 1024  # of a program on 8.6 and 8.9; the others have more


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How one kernel is launched."""

    heads: int  # heads of a tile
    rows: int = 16  # queries taken at a time: a power of two from 16
    warps: int = 1  # per program
    stages: int = 1  # of the loop over the queries: 1 loads when needed, more load ahead into shared memory
    recompute: bool = False  # backward takes maximum and sum again instead of reading lse
    registers: int | None = None  # most per thread: with fewer, more programs run side by side; None: ptxas chooses
    half: bool = False  # the kernels of patch_half_kernels


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table: where it holds (patches, head width, fp32), what it chooses, and why."""

    holds: Callable[[int, int, bool], bool]
    choice: dict[str, Any]  # of Choice, without `heads`
    why: str


FORWARD: tuple[Row, ...] = (
    Row(
        holds=lambda n, e, fp32: fp32 and n <= 64,
        choice={"rows": 16, "warps": 4},
        why="fp32 products without tensor cores: a tile's factors must be spread over more threads",
    ),
    Row(
        holds=lambda n, e, fp32: fp32,
        choice={"rows": 16, "warps": 8},
        why="the same with twice the scores",
    ),
    Row(
        holds=lambda n, e, fp32: n > 64 or e > 8 or n > 48,
        choice={"rows": 64, "warps": 4},
        why="fastest of --tune on an H100; fewer rows read the wider keys from shared memory more often",
    ),
    Row(
        holds=lambda n, e, fp32: True,
        choice={"rows": 16, "stages": 3},
        why="fastest of --tune on an H100: 48 rows for 42 patches instead of 64",
    ),
)
BACKWARD: tuple[Row, ...] = (
    Row(
        holds=lambda n, e, fp32: fp32 and n <= 64,
        choice={"rows": 16, "warps": 4, "recompute": True},
        why="as forward; p by lse would be 20 times less exact than eager at scores of 100",
    ),
    Row(
        holds=lambda n, e, fp32: fp32,
        choice={"rows": 16, "warps": 8, "recompute": True},
        why="the same with twice the scores",
    ),
    Row(
        holds=lambda n, e, fp32: n > 64 or e > 32,
        choice={"rows": 32, "warps": 4},
        why="fastest of --tune on an H100; one warp would spill",
    ),
    Row(
        holds=lambda n, e, fp32: n <= 48,
        choice={"rows": 16, "stages": 3},
        why="fastest of --tune on an H100: 0.061 ms, and 0.077 with one stage",
    ),
    Row(
        holds=lambda n, e, fp32: True,
        choice={"rows": 32, "stages": 3},
        why="fastest of --tune on an H100",
    ),
)
# Before the rows above, for half precision: fastest of --variants on an H200 (docs/measurements.md, 2026-11-30).
FORWARD_HALF: tuple[Row, ...] = (
    Row(
        holds=lambda n, e, fp32: not fp32 and n <= 48 and e <= 16,
        choice={"rows": 16, "stages": 3, "half": True},
        why="0.84 to 0.87 of the row above's time; of 64 patches 1.10",
    ),
)
BACKWARD_HALF: tuple[Row, ...] = (
    Row(
        holds=lambda n, e, fp32: not fp32 and (n <= 48 and e <= 16 or n <= 64 and e <= 8),
        choice={"rows": 16, "stages": 3, "half": True},
        why="0.77 to 0.83 of the row above's time, 0.94 with 64 patches, 0.99 with heads of 16; 2 stages 0.89 to 1.06",
    ),
)


def choose_launch(n: int, e: int, dtype: torch.dtype, *, backward: bool, half: bool = True) -> Choice:
    """The launch for N patches of head width E. Fixed, not tuned at run time, so that trials time nothing but training.

    half: whether the kernels for half precision may be taken; benchmarks compare them with those before.
    """
    rows = BACKWARD if backward else FORWARD
    if half:
        rows = (BACKWARD_HALF if backward else FORWARD_HALF) + rows
    row = next(row for row in rows if row.holds(n, e, dtype == torch.float32))
    return Choice(heads=max(1, 16 // e), **row.choice)


def constants(q: Tensor, choice: Choice, *, backward: bool, upcast: bool = False) -> dict[str, Any]:
    """What a kernel is compiled for, beside its launch: sizes, tile sizes, and how factors are multiplied.

    q: (S, N, K, E) as the kernel reads it. upcast: multiply half precision as fp32, for Triton's interpreter.
    """
    _, n, heads, e = q.shape
    rows = max(16, triton.next_power_of_2(n))
    first, rest = rows // 2, max(16, triton.next_power_of_2(n - rows // 2))
    a, b = (first, rest) if rest < first else (rows, 0)
    per_tile = min(choice.heads, heads)
    columns = max(16, triton.next_power_of_2(per_tile * e))
    fixed = {"N": n, "K": heads, "E": e, "ROW": q.stride(1), "HEADS": per_tile, "COLUMNS": columns}
    fixed |= {"ROWS": choice.rows, "KEYS_A": a, "KEYS_B": b, "UPCAST": upcast}
    if choice.half:
        compiled = not triton.knobs.runtime.interpret  # the interpreter runs no machine code
        return fixed | ({} if backward else {"APPROXIMATE": compiled})
    asked = q.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return fixed | {"PRECISION": "tf32" if asked else "ieee"} | ({"RECOMPUTE": choice.recompute} if backward else {})


def options(choice: Choice) -> dict[str, Any]:
    """What Triton is told beside the constants."""
    capped = {} if choice.registers is None else {"maxnreg": choice.registers}
    return {"num_warps": choice.warps, "num_stages": choice.stages} | capped
