"""Copies a GPU's tensors to the host, one copy for each dtype: hundreds of small copies would each wait for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class HostCopy:
    """Keeps its host memory from one copy to the next. It is pinned: the GPU writes there without another copy."""

    def __init__(self, device: torch.device) -> None:
        self._separate = device.type != "cpu"  # whether the tensors are in another memory
        self._buffers: dict[torch.dtype, Tensor] = {}

    def of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of `tensors` on the host, contiguous; valid until the next call or training step."""
        if not self._separate:
            return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        copies: dict[str, Tensor] = {}
        for dtype in {tensor.dtype for tensor in tensors.values()}:
            same_dtype = {name: tensor.detach() for name, tensor in tensors.items() if tensor.dtype == dtype}
            flat = self._copy(torch.cat([tensor.reshape(-1) for tensor in same_dtype.values()]))
            pieces = flat.split([tensor.numel() for tensor in same_dtype.values()])
            copies |= {name: piece.view(tensors[name].shape) for name, piece in zip(same_dtype, pieces, strict=True)}
        return {name: copies[name] for name in tensors}

    def _copy(self, flat: Tensor) -> Tensor:
        buffer = self._buffers.get(flat.dtype)
        if buffer is None or buffer.numel() < flat.numel():
            buffer = self._buffers[flat.dtype] = _pinned(flat.numel(), flat.dtype)
        return buffer[: flat.numel()].copy_(flat)  # waits for the device


def _pinned(elements: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(elements, dtype=dtype, pin_memory=True)
