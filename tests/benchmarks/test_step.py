"""The benchmark of a step measures a preset as it is."""

from __future__ import annotations

import pytest

from benchmarks.step import Cell, fields
from model.presets import PRESETS
from tune.config.sweeps import Arm, SweepConfig
from tune.config.trial_config import ModelConfig
from tune.machine.device import DeviceFacts
from tune.plan.plan import make_plan

CPU = DeviceFacts(device_type="cpu", name="cpu")

SWEEP = SweepConfig(name="step", question="", baseline="cell", arms=(Arm(label="cell", changes={}),))


def _model(patch: int, **given: str) -> ModelConfig:
    cell = Cell(attention="eager", engine="eager", batch_size=128, patch_length=patch)
    return make_plan(SWEEP, overrides=fields(cell, given, None), repeats=1, seed=1, device=CPU).trials[0].config.model


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_keeps_its_own_stride_at_its_own_patch_length(preset: str) -> None:
    own = PRESETS[preset]["model.patch_length"]
    model = _model(own, **{"model.preset": preset})
    assert (model.patch_length, model.patch_stride) == (own, PRESETS[preset].get("model.patch_stride", own))


def test_another_patch_length_is_its_own_stride() -> None:
    model = _model(24, **{"model.preset": "ettm"})
    assert (model.patch_length, model.patch_stride) == (24, 24)


def test_a_stride_that_is_given_stays() -> None:
    assert _model(16, **{"model.preset": "ettm", "model.patch_stride": "4"}).patch_stride == 4
