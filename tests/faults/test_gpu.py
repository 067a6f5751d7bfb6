"""A real GPU that runs out of memory in one arm of a sweep. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fault_kit import Faults
from sweep_kit import run
from trouble_kit import SMALL, Trouble

GOOD, HUNGRY, EPOCHS = "0.001", "0.002", 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_an_arm_that_fills_the_gpu_is_oom_with_its_peak_and_the_next_one_has_the_gpu_to_itself(
    tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = faults.moments.randint(1, EPOCHS)
    Trouble(tmp_path / "trouble", monkeypatch).in_arms({HUNGRY: {"fault": "gpu", "epoch": at}})
    over = ["--over", f"train.learning_rate={GOOD},{HUNGRY}", "--epochs", str(EPOCHS), "--repeats", "2"]
    ran = run(tmp_path, *SMALL, *over, "--set", "train.engine=eager")
    assert ran.code == 1, ran.err
    trials = ran.record().trials
    hungry = [trial for trial in trials if trial.tags["arm"] == f"learning_rate={HUNGRY}"]
    good = [trial for trial in trials if trial not in hungry]
    lost = sum(at - 1 - len(trial.history.get("loss/val_mse", [])) for trial in hungry)
    lost += sum(EPOCHS - len(trial.history["loss/val_mse"]) for trial in good)
    faults.injected("CUDA out of memory", times=len(hungry), lost=lost, detail=f"in epoch {at}")
    assert lost == 0
    assert {trial.status for trial in good} == {"done"}
    total_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    for trial in hungry:
        peak_gib = trial.metrics["final/peak_memory_gib"]
        assert trial.status == "oom"
        assert "CUDA out of memory" in trial.tags["reason"]
        assert f"GPU memory peak {peak_gib:.2f} GiB" in trial.tags["reason"]
        assert total_gib / 2 < peak_gib <= total_gib
