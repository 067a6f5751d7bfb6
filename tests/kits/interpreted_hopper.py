"""The plain kernels around the Hopper ones in Triton's interpreter: run by tests/model/fused/test_hopper.py.

They are compared with their emulation, which the tests of whole layers use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import emulated_hopper
import pytest
import torch

from model.fused.hopper import launch, launch_backward
from model.fused.launch import Norm

REAL = launch.run


def _both(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> None:
    """What `action` returns is the same whether its launches run or are emulated."""
    found = []
    for run in (REAL, emulated_hopper.emulate):
        monkeypatch.setattr(launch, "run", run)
        found.append(action())
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [8, 88])
def test_packing_folds_the_norms_and_rounds(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    d, f = 128, 128
    attention = [(torch.randn(width, d), torch.randn(width)) for _ in range(3)]
    norms = [(torch.randn(d), torch.randn(d)) for _ in range(2)]
    wo, up, w2 = torch.randn(d, width), (torch.randn(f, d), torch.randn(f)), torch.randn(d, f)
    _both(monkeypatch, lambda: launch.pack(attention, norms[0], wo, up, norms[1], w2, torch.float32))


@pytest.mark.parametrize(
    ("rows", "weights", "inputs", "lines", "at_once"), [(264, 3, 64, 8, 16), (128, 1, 64, 16, 8), (128, 0, 40, 4, 32)]
)
def test_parts_are_added_up(
    monkeypatch: pytest.MonkeyPatch, rows: int, weights: int, inputs: int, lines: int, at_once: int
) -> None:
    shared = launch_backward.share(rows, 9, 11)
    products = 2 if weights == 1 else 1
    parts = launch_backward.Parts(torch.randn(products, shared.programs, 128, 64), torch.randn(shared.programs, 128))
    norm = Norm(mean=torch.zeros(1), var=torch.zeros(1), gamma=torch.randn(inputs), beta=torch.randn(inputs), eps=1e-5)
    given = tuple(torch.randn(rows // weights, inputs) for _ in range(weights))

    def action() -> list[torch.Tensor]:
        turned = torch.zeros(inputs, rows)
        found = launch_backward._reduce(
            parts, shared, (rows, inputs), lines=lines, at_once=at_once, weights=given,
            norm=norm if weights else None, turned=turned if products == 2 else None,
        )  # fmt: skip
        return [*found, turned]

    _both(monkeypatch, action)
