"""A device's tensors arrive on the host as they are, whatever their shapes and kinds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tune.trial import host_copy
from tune.trial.host_copy import HostCopy

TENSORS = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "step": torch.tensor(3.0),
    "batches": torch.tensor(7),
    "mask": torch.tensor([True, False]),
}


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Host memory that needs no GPU; the numbers of elements asked for."""
    asked: list[int] = []

    def unpinned(elements: int, dtype: torch.dtype) -> torch.Tensor:
        asked.append(elements)
        return torch.empty(elements, dtype=dtype)

    monkeypatch.setattr(host_copy, "_pinned", unpinned)
    return asked


def _assert_same(copies: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    assert list(copies) == list(tensors)
    for name, tensor in tensors.items():
        assert copies[name].dtype == tensor.dtype and copies[name].is_contiguous()
        assert torch.equal(copies[name], tensor)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_values_shapes_and_kinds_are_kept(device: str, buffers: list[int]) -> None:
    _assert_same(HostCopy(torch.device(device)).of(TENSORS), TENSORS)


def test_memory_is_allocated_once_and_again_only_if_more_is_needed(buffers: list[int]) -> None:
    copy = HostCopy(torch.device("cuda"))
    small, large = {"a": torch.ones(3)}, {"a": torch.full((5,), 2.0)}
    for tensors in (small, small, large, small):
        _assert_same(copy.of(tensors), tensors)
    assert buffers == [3, 5]
