"""Instructions, registers and resident warps of our attention kernels, compiled for each target. Needs no GPU.

    python benchmarks/attention_counts.py                         # the rows of the table and the variants, 42x16x8
    python benchmarks/attention_counts.py --shape 64x16x8 --targets 80,90

A shape is N x K x E: patches, heads, head width. "executed": instructions of one warp for a sequence; "a head": divided
by the heads of its tile. Fewer instructions and more resident warps are a reason to measure a variant, no proof that it
is faster.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.compiled import TARGETS, compile_for, counts

TYPES = {"lse": "*fp32", "scale": "fp32", "scale_log2": "fp32", "S": "i32"}


def variants(n: int, e: int, direction: str) -> list[Any]:
    """The launches that are compared: of the table without and with the kernels for half precision, and others."""
    import torch

    from model.attention.patch_launch import Choice, choose_launch

    back = direction == "backward"
    known = [choose_launch(n, e, torch.bfloat16, backward=back, half=half) for half in (False, True)]
    heads = max(1, 16 // e)
    if n <= 64:
        known += [Choice(heads=heads, half=True, stages=3)]
        known += [Choice(heads=1, half=True, stages=3)] if heads > 1 else []
    return list(dict.fromkeys(known))


def compiled(choice: Any, shape: tuple[int, int, int], direction: str, target: int, dtype: Any = None) -> Any:
    """The kernel of that launch for packed q, k and v of this shape (N, K, E); dtype: bf16 unless given."""
    import torch

    from model.attention.patch_launch import constants, options
    from model.attention.patch_op import kernel_of

    dtype = dtype or torch.bfloat16
    n, k, e = shape
    q = torch.empty(1, n, 3, k, e, dtype=dtype, device="meta")[:, :, 0]
    element = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}[dtype]
    fixed = constants(q, choice, backward=direction == "backward")
    return compile_for(kernel_of(direction, choice), target, fixed, TYPES, options(choice), element)


def main() -> None:
    """Compile and print; exit 2 for wrong options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="42x16x8", help="N x K x E (default 42x16x8)")
    parser.add_argument("--targets", default=",".join(map(str, TARGETS)), help="(default %(default)s)")
    options = parser.parse_args()
    try:
        n, k, e = map(int, options.shape.split("x"))
        targets = [int(target) for target in options.targets.split(",")]
        if not set(targets) <= set(TARGETS):
            raise ValueError
    except ValueError:
        parser.error(f"--shape takes three numbers as 42x16x8, --targets some of {', '.join(map(str, TARGETS))}")
    for target in targets:
        for direction in ("forward", "backward"):
            for choice in variants(n, e, direction):
                found = counts(compiled(choice, (n, k, e), direction, target))
                executed = found.executed(-(-n // choice.rows))
                kinds = " ".join(f"{name} {count}" for name, count in list(found.kinds.items())[:10])
                launch = f"heads {choice.heads} rows {choice.rows} warps {choice.warps} stages {choice.stages}"
                launch += " half" * choice.half
                print(
                    f"sm_{target} {direction:<8} {launch}: executed {executed:.0f}, a head "
                    f"{executed / choice.heads:.0f}, registers {found.registers}, spilled {found.spilled_bytes} bytes, "
                    f"shared {found.shared_bytes}, resident warps {found.resident_warps(target)}\n    {kinds}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
