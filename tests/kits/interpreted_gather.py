"""The gather's kernel in Triton's interpreter: run by tests/test_interpreted.py in its own process."""

from __future__ import annotations

import pytest
import torch

from data_pipeline.feed import gather


@pytest.mark.parametrize(
    ("channels", "context", "horizon", "block"), [(7, 48, 12, 64), (862, 5, 3, 4096), (1, 9, 1, 16)]
)
def test_the_kernel_gathers_the_same_windows(
    channels: int, context: int, horizon: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "BLOCK", block)
    rows = torch.randn(120, channels)
    starts = torch.tensor([0, 120 - context - horizon, 17, 17, 3])
    expected = gather.Windows(rows, context, horizon, kernel=False).gather(starts)
    found = gather.Windows(rows, context, horizon, kernel=True).gather(starts)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
