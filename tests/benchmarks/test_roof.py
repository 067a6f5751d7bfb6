"""The roofline's counting on a CPU: bytes and FLOPs of a step against the model of its cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.roof import Row, operators, plot
from model.flops import StepShape, train_step_flops

ROOT = Path(__file__).resolve().parents[2]


def test_a_product_moves_its_matrices_once_and_a_view_nothing() -> None:
    left, right = torch.randn(8, 16), torch.randn(16, 4)
    rows = {row.name: row for row in operators(lambda: (left @ right).view(-1), "cpu")}
    assert list(rows) == ["aten.mm"]
    assert (rows["aten.mm"].bytes_moved, rows["aten.mm"].flops) == (4 * (128 + 64 + 32), 2 * 8 * 16 * 4)
    assert rows["aten.mm"].kernel_s is None


def test_the_roof_time_is_the_longer_of_both() -> None:
    row = Row(name="mm", shapes="", calls=1, kernel_s=4e-6, kernels=1, bytes_moved=2_000, flops=10_000)
    assert row.roof_s(1e9, 1e12) == 2e-6
    assert row.roof_s(1e12, 1e10) == 1e-6
    assert "Roofline" in plot([row], {"bandwidth": 1e9, "flops": 1e12}, "A GPU")


def test_on_a_cpu_a_steps_flops_are_the_models_and_it_says_what_is_missing(tmp_path: Path) -> None:
    command = [
        sys.executable, "benchmarks/roof.py", "--rows", "1500", "--channels", "2",
        "--json", str(tmp_path / "roof.json"), "--set", "model.preset=tiny", "--set", "train.batch_size=4",
    ]  # fmt: skip
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "no GPU: kernels, their times and the roof cannot be measured here" in done.stdout
    found = json.loads((tmp_path / "roof.json").read_text())
    shape = StepShape(
        batch_size=4, num_channels=2, context_length=512, prediction_length=96, patch_length=12, patch_stride=12,
        d_model=64, num_heads=16, num_layers=1, ffn_dim=64,
    )  # fmt: skip
    assert found["roof"] is None
    assert sum(row["flops"] for row in found["rows"]) == pytest.approx(train_step_flops(shape), rel=1e-6)
