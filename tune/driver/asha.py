"""ASHA over the epochs of a search: stops a trial whose validation error at a rung is not among the best third."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.result import DEFAULT_METRIC
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from tune.stats.pairs import MARGIN
from tune.storage.trial_log import TrialLog

REDUCTION = 3  # the best third continues
FIRST_RUNG = 5  # nothing is stopped before one fifth of the epochs


def make_asha(epochs: int, *, baseline: str | None = None) -> Asha | None:
    """The scheduler for trials of this many epochs; None for one epoch, after which nothing is left to stop.

    baseline: id of the baseline's trial, if the search has one.
    """
    return Asha(epochs, baseline=baseline) if epochs > 1 else None


class Asha(AsyncHyperBandScheduler):
    """Ray's ASHA with a memory that outlives the driver, and with reasons.

    It never stops the baseline, a trial at its last epoch, or a trial at most MARGIN above the best one or the baseline
    at its epoch. Cells that differ only in speed have nearly the same error, whose last digits must not decide between
    them; and a trial as good as the baseline may be chosen for its speed.

    Rungs are kept by our trial ids, as Ray's change with each run of the driver.
    """

    def __init__(self, epochs: int, *, baseline: str | None = None) -> None:
        super().__init__(
            time_attr="epoch",
            metric=DEFAULT_METRIC,  # Tune raises if a report lacks a named metric; a failed trial has none
            mode="min",
            max_t=epochs - 1,
            grace_period=max(1, epochs // FIRST_RUNG),
            reduction_factor=REDUCTION,
            stop_last_trials=False,
        )
        self.stopped: dict[str, str] = {}  # trial id -> why
        self._seen: dict[int, dict[str, float]] = {}  # epoch -> trial id -> validation MSE
        self._epochs, self._baseline = epochs, baseline

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it beside its state; ours is never read back

    def replay(self, past: Mapping[str, TrialLog]) -> None:
        """Take in the reports of earlier runs of this sweep, in the order in which they were recorded.

        If the driver was killed between a decision to stop a trial and the record of its end, the trial is in
        `stopped` afterwards.
        """
        for trial_id in past:
            self.on_trial_add(None, SimpleNamespace(config={"job": {"trial_id": trial_id}}))
        reports = [(log.recorded.get(epoch, 0), trial_id, epoch) for trial_id, log in past.items()
                   for epoch in sorted(log.epochs)]  # fmt: skip
        for _, trial_id, epoch in sorted(reports, key=lambda report: report[0]):
            log = past[trial_id]
            reason = self.reason_to_stop(trial_id, epoch, log.epochs[epoch].get("loss/val_mse", math.nan))
            if reason is not None and log.status is None and epoch == max(log.epochs):
                self.stopped[trial_id] = reason

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _named(_trial_id(trial)))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """`result` is flattened by Tune, as our epoch reports keep their metrics one level down."""
        if "epoch" not in result:
            return TrialScheduler.CONTINUE
        trial_id, epoch = _trial_id(trial), result["epoch"]
        reason = self.reason_to_stop(trial_id, epoch, result["metrics/loss/val_mse"])
        if reason is None:
            return TrialScheduler.CONTINUE
        self.stopped[trial_id] = reason
        return TrialScheduler.STOP

    def reason_to_stop(self, trial_id: str, epoch: int, val_mse: float | None) -> str | None:
        """Why a trial with this error after this epoch is stopped; None if it continues. The error is remembered."""
        if val_mse is None or not math.isfinite(val_mse):
            return None  # the trial itself ends, with the status nan
        seen = self._seen.setdefault(epoch, {})
        seen[trial_id] = val_mse
        if epoch >= self._epochs:
            return None
        action = super().on_trial_result(None, _named(trial_id), {"epoch": epoch, DEFAULT_METRIC: val_mse})
        best = min(seen.values())
        spared = max(best, seen.get(self._baseline or "", best))
        if action != TrialScheduler.STOP or trial_id == self._baseline or val_mse <= spared * (1 + MARGIN):
            return None
        whose = "the best of them" if spared == best else "the baseline"
        return (
            f"stopped after epoch {epoch} by ASHA: validation MSE {val_mse:.4g} is not in the best third of the "
            f"{len(seen)} trials seen there, and more than {MARGIN:.0%} above {whose}, {spared:.4g}"
        )

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the last epoch was seen when it was reported."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: the reports of a removed trial still count."""


def _named(trial_id: str) -> Any:
    return SimpleNamespace(trial_id=trial_id)


def _trial_id(trial: Any) -> str:
    return str(trial.config["job"]["trial_id"])
