"""The official PatchTST recipe as a peer trains it: plain PyTorch, eager, fp32, a DataLoader with workers.

Written from the description of the recipe (github.com/yuqinie98/PatchTST, PatchTST_supervised): reversible instance
norm without weights, a 42nd patch of end padding, learned positions, post-norm layers with batch norm, attention scores
added up over the layers, dropout after positions, attention, feed-forward and inside it, Adam with OneCycleLR.

Shapes: B windows, C channels, L context, H horizon, S = B C sequences, N patches, D model width, K heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class PeerLayer(nn.Module):
    """A post-norm layer whose attention scores go on to the next one."""

    def __init__(self, d_model: int, heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(d_model, d_model) for _ in range(3))
        self.out = nn.Sequential(nn.Linear(d_model, d_model), nn.Dropout(dropout))
        self.forward_part = nn.Sequential(
            nn.Linear(d_model, ffn_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(ffn_dim, d_model)
        )
        self.drop_attention, self.drop_forward = nn.Dropout(dropout), nn.Dropout(dropout)
        self.norm_attention, self.norm_forward = nn.BatchNorm1d(d_model), nn.BatchNorm1d(d_model)

    def forward(self, x_SND: Tensor, scores_SKNN: Tensor | None) -> tuple[Tensor, Tensor]:
        s, n, d = x_SND.shape
        q, k, v = (
            part(x_SND).view(s, n, self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) * (d // self.heads) ** -0.5
        if scores_SKNN is not None:
            scores = scores + scores_SKNN
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(s, n, d)
        x_SND = _normed(self.norm_attention, x_SND + self.drop_attention(self.out(mixed)))
        return _normed(self.norm_forward, x_SND + self.drop_forward(self.forward_part(x_SND))), scores


class PeerModel(nn.Module):
    """past [B, L, C] -> forecast [B, H, C]."""

    def __init__(
        self, *, context_length: int, prediction_length: int, patch_length: int, patch_stride: int, d_model: int,
        num_heads: int, num_layers: int, ffn_dim: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch_length, self.patch_stride = patch_length, patch_stride
        patches = (context_length - patch_length) // patch_stride + 2  # with the padded one
        self.embed = nn.Linear(patch_length, d_model)
        self.positions = nn.Parameter(torch.empty(patches, d_model).uniform_(-0.02, 0.02))
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(PeerLayer(d_model, num_heads, ffn_dim, dropout) for _ in range(num_layers))
        self.head = nn.Linear(patches * d_model, prediction_length)

    def forward(self, past_BLC: Tensor) -> Tensor:
        mean = past_BLC.mean(1, keepdim=True).detach()
        std = (past_BLC.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt().detach()
        b, _, c = past_BLC.shape
        series_BCL = nn.functional.pad(((past_BLC - mean) / std).transpose(1, 2), (0, self.patch_stride), "replicate")
        patches = series_BCL.unfold(-1, self.patch_length, self.patch_stride).reshape(b * c, -1, self.patch_length)
        x_SND, scores = self.drop(self.embed(patches) + self.positions), None
        for layer in self.layers:
            x_SND, scores = layer(x_SND, scores)
        forecast_BCH = self.head(x_SND.transpose(1, 2).reshape(b, c, -1))
        return forecast_BCH.transpose(1, 2) * std + mean


def _normed(norm: nn.BatchNorm1d, x_SND: Tensor) -> Tensor:
    return norm(x_SND.transpose(1, 2)).transpose(1, 2)


class PeerWindows(torch.utils.data.Dataset):
    """Windows cut one by one from an array [T, C], as the recipe's data set does."""

    def __init__(self, values_TC: np.ndarray, context_length: int, prediction_length: int) -> None:
        self.values, self.context, self.horizon = values_TC, context_length, prediction_length

    def __len__(self) -> int:
        return len(self.values) - self.context - self.horizon + 1

    def __getitem__(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        middle = at + self.context
        return self.values[at:middle], self.values[middle : middle + self.horizon]


class PeerTraining:
    """The recipe's loop, one step at a time."""

    def __init__(
        self, fields: dict[str, Any], values_TC: np.ndarray, *, batch_size: int, learning_rate: float, workers: int,
        device: str,
    ) -> None:  # fmt: skip
        names = ("context_length", "prediction_length", "patch_length", "patch_stride", "d_model", "num_heads",
                 "num_layers", "ffn_dim", "dropout")  # fmt: skip
        self.device = torch.device(device)
        self.model = PeerModel(**{name: fields[name] for name in names}).to(self.device).train()
        windows = PeerWindows(values_TC, fields["context_length"], fields["prediction_length"])
        self._loader = torch.utils.data.DataLoader(
            windows, batch_size=batch_size, shuffle=True, drop_last=True, num_workers=workers,
            multiprocessing_context="spawn" if workers else None, persistent_workers=bool(workers),
        )  # fmt: skip
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=learning_rate)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, max_lr=learning_rate, pct_start=0.3, total_steps=1_000_000
        )
        self._batches = self._endless()

    def step(self) -> Tensor:
        """Load a batch, train on it; the loss, on the device."""
        past, future = (part.to(self.device) for part in next(self._batches))
        self._optimizer.zero_grad()
        loss = nn.functional.mse_loss(self.model(past), future)
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        return loss.detach()

    def _endless(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self._loader
