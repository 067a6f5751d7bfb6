"""Residual attention on a GPU, captured: the gate of the official presets.

Run alone: .venv/bin/python -m pytest tests/model/residual/test_residual_gpu.py -q -s -n0
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.presets import build_fields
from tune.gate.check import check_arm
from tune.gate.numerics import GatedArm

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


@pytest.mark.parametrize("preset", ["etth", "ettm"])
def test_it_passes_the_gate_in_a_captured_step(preset: str) -> None:
    model: dict[str, Any] = build_fields(preset) | {
        "num_channels": 7, "prediction_length": 96, "attention": "eager", "layers": "transformers",
        "recompute": "never", "as_published": None, "residual_attention": True, "end_padding": True,
        "positions": "learned", "init": "torch",
    }  # fmt: skip
    arm = GatedArm(model=model, heads=model["num_heads"], engine="graph", precision="bf16", batch_size=33)
    result = check_arm(arm, torch.device("cuda"), None)
    assert result.problem is None
