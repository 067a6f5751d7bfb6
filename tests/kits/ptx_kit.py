"""Finds code in PTX that a compiler fault leaves: right in Triton's interpreter, wrong on a GPU.

LLVM's optimiser in Triton 3.6 sometimes computes two 32-bit shifts of the thread's number, such as (tid & 1) << 31 and
(tid & 7) << 2, as the two halves of one 64-bit number. It then forgets the `& 1`: the product tid * 2^31 runs over into
the upper half, and addresses in shared memory that are made of it are wrong. Seen on 2026-11-30 in a kernel that added
up gradients. On an H200 it read a misaligned address where there was one tile, and gave gradients 40 times too large
elsewhere, while the interpreter's results were right. The same kernel with a loop that is not written out is compiled
rightly.
"""

from __future__ import annotations

import re

# A 32-bit number times 2^28 to 2^31, as 64 bits: no index of ours needs that.
OVERFLOW = re.compile(r"mul\.wide\.u32\s+%rd\d+, %r\d+, (?:268435456|536870912|1073741824|2147483648);")


def miscompiled(ptx: str) -> list[str]:
    """The lines of PTX that show this fault."""
    return OVERFLOW.findall(ptx)
