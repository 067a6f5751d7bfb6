"""The Triton kernel of gather.py."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gather_windows(
    series: tl.tensor,
    starts: tl.tensor,
    past: tl.tensor,
    future: tl.tensor,
    channels: tl.tensor,
    of_past: tl.tensor,
    both: tl.tensor,
    chunks: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program copies BLOCK of the `both` numbers of a window, the first `of_past` of which are its past.

    Offsets in the series and in the batch are 64-bit.
    """
    program = tl.program_id(0)
    window = (program // chunks).to(tl.int64)
    at = (program % chunks) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(starts + window) * channels
    values = tl.load(series + first + at, mask=at < both)
    tl.store(past + window * of_past + at, values, mask=at < of_past)
    tl.store(future + window * (both - of_past) + (at - of_past), values, mask=(at >= of_past) & (at < both))
