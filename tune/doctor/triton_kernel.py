"""A Triton kernel that shows whether any works. Importing this imports triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

SIZE = 128


@triton.jit
def _add_one(values, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    places = values + tl.arange(0, SIZE)
    tl.store(places, tl.load(places) + 1)


def runs() -> bool:
    """Whether the kernel computes what it should, on the first GPU. Raises what Triton raises if it cannot compile."""
    values = torch.zeros(SIZE, device="cuda")
    _add_one[(1,)](values, SIZE=SIZE)
    return bool((values == 1).all())
