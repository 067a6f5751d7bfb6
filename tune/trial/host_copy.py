"""Tensors of a GPU on the host with one copy for each dtype: hundreds of small ones would each wait for the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class HostCopy:
    """Keeps its host memory from one copy to the next, pinned: the GPU writes there without a copy in between."""

    def __init__(self, device: torch.device) -> None:
        self._apart = device.type != "cpu"  # whether the tensors lie in another memory
        self._room: dict[torch.dtype, Tensor] = {}

    def of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of `tensors` on the host, contiguous; good until the next call or training step."""
        if not self._apart:
            return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        found: dict[str, Tensor] = {}
        for dtype in {tensor.dtype for tensor in tensors.values()}:
            kind = {name: tensor.detach() for name, tensor in tensors.items() if tensor.dtype == dtype}
            flat = self._copy(torch.cat([tensor.reshape(-1) for tensor in kind.values()]))
            pieces = flat.split([tensor.numel() for tensor in kind.values()])
            found |= {name: piece.view(kind[name].shape) for name, piece in zip(kind, pieces, strict=True)}
        return {name: found[name] for name in tensors}

    def _copy(self, flat: Tensor) -> Tensor:
        room = self._room.get(flat.dtype)
        if room is None or room.numel() < flat.numel():
            room = self._room[flat.dtype] = _pinned(flat.numel(), flat.dtype)
        return room[: flat.numel()].copy_(flat)  # waits for the device


def _pinned(elements: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(elements, dtype=dtype, pin_memory=True)
