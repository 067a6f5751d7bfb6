"""Dropout of the fused layers: its rates, its sites, and the seed of a step.

A seed is drawn once a forward pass in training, on the device, by torch's generator of that device. So a replayed CUDA
graph draws another at each step, a checkpoint of the generator's state repeats what follows, and nothing waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

LEVELS = 65536  # rates are rounded to multiples of 1 / LEVELS, as 16 random bits decide about an element
POSITION_SITE = 0
FIRST_LAYER_SITE, SITES_OF_A_LAYER = 1, 3


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """One or more dropouts of a sublayer in a step: the seed (1,) int64, and the first one's site."""

    seed: Tensor
    site: int


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of elements that leave in training, by place in a layer. Dropout in attention is its backend's."""

    attention_output: float = 0.0  # after the output projection
    attention_path: float = 0.0  # before the residual of attention
    feed_forward: float = 0.0  # after the activation
    feed_forward_path: float = 0.0  # before the residual of the feed-forward

    @classmethod
    def of(cls, layer: Any) -> Self:
        """Those of a PatchTSTEncoderLayer, which has none at the attention's output."""
        return cls(
            attention_path=_rate(layer.dropout_path1),
            feed_forward=_rate(layer.ff[2]),
            feed_forward_path=_rate(layer.dropout_path3),
        )

    @property
    def attention(self) -> float:
        """Two dropouts one after the other are one: an element stays if it stays in both."""
        return 1 - (1 - self.attention_output) * (1 - self.attention_path)

    @property
    def any(self) -> bool:
        return max(self.attention, self.feed_forward, self.feed_forward_path) > 0


def _rate(module: nn.Module) -> float:
    return module.p if isinstance(module, nn.Dropout) else 0.0


def level(rate: float) -> int:
    """The rate in multiples of 1 / LEVELS, under 1."""
    return min(round(rate * LEVELS), LEVELS - 1)


@torch.library.custom_op("patchtst::dropout_seed", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def dropout_seed(like: Tensor) -> Tensor:
    """A new seed (1,) int64 on the device of `like`, from torch's generator there."""
    return torch.randint(2**62, (1,), dtype=torch.int64, device=like.device)


@dropout_seed.register_fake
def _(like: Tensor) -> Tensor:
    return like.new_empty(1, dtype=torch.int64)


def attention_site(layer: int) -> int:
    """The site of a layer's dropout after attention."""
    return FIRST_LAYER_SITE + SITES_OF_A_LAYER * layer


def feed_forward_site(layer: int) -> int:
    """The site of a layer's dropout after the activation; that of the path is the next one."""
    return attention_site(layer) + 1


def dropout_mask(seed: Tensor, site: int, rate: float, rows: int, columns: int) -> Tensor:
    """The factors (rows, columns), fp32, by which that dropout multiplies: 0, or 1 over the share that stays."""
    from model.fused.dropout_kernels import fused_dropout_mask  # imports triton

    mask = torch.empty(rows, columns, device=seed.device)
    grid = (-(-rows // 64), -(-columns // 64))
    fused_dropout_mask[grid](seed, site, mask, rows, D=columns, ROWS=64, COLUMNS=64, LEVEL=level(rate), num_warps=4)
    return mask
