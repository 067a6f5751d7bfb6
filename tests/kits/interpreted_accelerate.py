"""accelerate() with its kernels in Triton's interpreter, on a CPU: run by tests/test_interpreted.py.

A process of its own: Triton decides when it is imported whether it interprets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate_kit import forecasts, plain_model, trainer_losses
from transformers import PatchTSTForPrediction

from model import fused, swap
from model.fused import launch
from model.fused.encoder import FusedEncoder
from tune.api.accelerate import accelerate, restore

STEPS = 3


@pytest.fixture(autouse=True)
def _takes_the_cpu_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its fp32 for a precision of the fused layers, whose products the interpreter computes in fp16 and fp32."""
    monkeypatch.setattr(swap, "device_facts", lambda model: ("cuda", (9, 0)))
    monkeypatch.setattr(fused, "unsupported_reason", lambda **_: None)
    monkeypatch.setattr(launch, "SUM_COLUMNS", 1024)  # few programs: the interpreter takes its time for each


def test_trained_by_transformers_trainer_an_accelerated_model_has_the_loss_curve_of_the_plain_one(
    tmp_path: Path,
) -> None:
    plain, ours = plain_model(), accelerate(plain_model(), batch_size=2)
    assert isinstance(ours.model.encoder, FusedEncoder) and ours.config._attn_implementation == "patch"
    losses = {
        name: trainer_losses(model, tmp_path / name, steps=STEPS, batch=2, use_cpu=True)
        for name, model in (("plain", plain), ("ours", ours))
    }
    assert len(losses["ours"]) == STEPS and losses["ours"] == pytest.approx(losses["plain"], rel=1e-5)
    # What the Trainer saved is a plain checkpoint, of the same weights as the plain model's
    saved: Any = PatchTSTForPrediction.from_pretrained(tmp_path / "ours")
    assert type(saved.model.encoder).__name__ == "PatchTSTEncoder"
    torch.testing.assert_close(forecasts(saved), forecasts(plain), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forecasts(ours), forecasts(saved), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(forecasts(restore(ours)), forecasts(saved), rtol=0, atol=0)


def test_the_check_passes_in_half_precision_and_keeps_its_figures() -> None:
    done: Any = accelerate(plain_model(pre_norm=False), precision="fp16", layers="fused", batch_size=2).acceleration
    assert done.attention and done.layers and not done.reasons and done.batch_size == 2
    for found in done.checks.values():
        assert 1e-6 < found.arm.predictions < 2 * found.eager.predictions + 1e-6
        assert 1e-5 < found.arm.gradients < 2 * found.eager.gradients + 1e-6
