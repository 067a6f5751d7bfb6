"""A small arm for the gate, and what measuring it may come to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from model.attention.eager import Eager, attend
from tune.gate.attention_error import AttentionErrors
from tune.gate.numerics import GatedArm, Measurement, NumericErrors

CPU = torch.device("cpu")
MODEL = {
    "num_channels": 3,
    "context_length": 48,
    "prediction_length": 24,
    "patch_length": 8,
    "patch_stride": 8,
    "d_model": 32,
    "num_heads": 4,
    "num_layers": 2,
    "ffn_dim": 32,
    "dropout": 0.3,
    "head_dropout": 0.1,
    "attention_dropout": 0.1,
    "norm_type": "batchnorm",
    "pre_norm": False,
    "attention": "eager",
}
ARM = GatedArm(model=MODEL, heads=4, engine="eager", precision="fp32", batch_size=8)
SMALL = NumericErrors(predictions=1e-7, gradients=2e-7, worst_series=3e-7)
GOOD = Measurement(arm=SMALL, eager=SMALL, batch_size=8, attention=AttentionErrors(arm=1e-7, eager=2e-7))
BAD = replace(GOOD, arm=replace(SMALL, predictions=3.1e-2), eager=replace(SMALL, predictions=1.2e-3))


def with_attention(attention: str, **changes: Any) -> GatedArm:
    return replace(ARM, model=MODEL | {"attention": attention}, **changes)


@dataclass(frozen=True)
class OnePercentOff(Eager):
    """eager with its scores scaled by 1 % too much."""

    name: str = "one_percent_off"

    def register(self) -> str:
        from transformers import AttentionInterface

        def scaled(*tensors: Any, scaling: float, **options: Any) -> Any:
            return attend(*tensors, scaling=1.01 * scaling, **options)

        AttentionInterface.register(self.name, scaled)
        return self.name


@dataclass(frozen=True)
class NotANumber(Eager):
    """eager with NaN in one place of its output."""

    name: str = "not_a_number"

    def register(self) -> str:
        from transformers import AttentionInterface

        def broken(*tensors: Any, **options: Any) -> Any:
            output, weights = attend(*tensors, **options)
            return output.masked_fill(torch.arange(output.numel()).view(output.shape) == 5, torch.nan), weights

        AttentionInterface.register(self.name, broken)
        return self.name
