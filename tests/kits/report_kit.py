"""Trials and sweeps made by hand, as MLflow would give them, for the report's tests."""

from __future__ import annotations

from typing import Any

from tune.tracking.reader import SweepRecord, TrialRecord

GPU_A = "GPU-aaaa"
ON_A = {"gpu_uuid": GPU_A, "device": "NVIDIA H100"}


def timed(s: float, *, windows: int = 1000, batch: int = 100) -> dict[str, float]:
    """What a trial says of its epochs of `s` seconds in steps of `batch` of all its `windows`."""
    steps = windows // batch
    return {
        "final/median_epoch_s": s,
        "final/epoch_all_windows_s": s * windows / (steps * batch),
        "final/windows_per_epoch": float(steps * batch),
        "final/steps_per_epoch": float(steps),
    }


def trial(
    arm: str = "none", seed: int = 1, *, s: float | None = 2.0, status: str = "done", reason: str = "", **given: Any
) -> TrialRecord:
    """A trial with an epoch time of `s` seconds. `tags`, `metrics` and `params` add to the usual values.

    `history`: metric -> a value for each epoch.
    """
    history = {name: list(enumerate(values, 1)) for name, values in given.pop("history", {}).items()}
    tags = {"arm": arm, "seed": str(seed), "timing_valid": "true", **ON_A, **given.pop("tags", {})}
    metrics = {"final/test_mse": 0.4, "final/val_mse": 0.3, **given.pop("metrics", {})} if status == "done" else {}
    if s is not None and status == "done":
        metrics |= timed(s)
    return TrialRecord(
        trial_id=f"pruning-{arm}-s{seed}",
        run_id="r",
        name="n",
        status=status,
        reason=reason,
        params={"train.epochs": "3", **given.pop("params", {})},
        tags=tags,
        metrics=metrics,
        history=history,
    )


def sweep(*trials: TrialRecord, **tags: str) -> SweepRecord:
    usual = {"sweep": "pruning", "baseline": "none", "question": "How fast?", "arms": "none,fast,other"}
    usual |= {"device": "NVIDIA H100", "environment": '{"gpus": 1}'}
    return SweepRecord(
        sweep_id="pruning-1", run_id="p", name="n", status="done", tags=usual | tags, params={}, metrics={},
        trials=trials,
    )  # fmt: skip
