"""A small arm for the gate, and what measuring it may come to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tune.gate.attention_error import AttentionErrors
from tune.gate.numerics import Measured, NumericErrors, Subject

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
SUBJECT = Subject(model=MODEL, heads=4, engine="eager", precision="fp32", batch_size=8)
SMALL = NumericErrors(predictions=1e-7, gradients=2e-7, worst_series=3e-7)
GOOD = Measured(arm=SMALL, eager=SMALL, batch_size=8, attention=AttentionErrors(arm=1e-7, eager=2e-7))
BAD = replace(GOOD, arm=replace(SMALL, predictions=3.1e-2), eager=replace(SMALL, predictions=1.2e-3))


def with_attention(attention: str, **changes: Any) -> Subject:
    return replace(SUBJECT, model=MODEL | {"attention": attention}, **changes)
