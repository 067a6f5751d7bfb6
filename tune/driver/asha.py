"""ASHA over the epochs of a search: a trial whose validation error is among the worse ones at a rung is stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.result import DEFAULT_METRIC
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from tune.stats.pairs import MARGIN
from tune.storage.trial_log import TrialLog

REDUCTION = 3  # the best third goes on
FIRST_RUNG = 5  # one fifth of the epochs is trained before anything is stopped


def halving(epochs: int, *, baseline: str | None = None) -> Asha | None:
    """The scheduler for trials of so many epochs; None for one epoch, which leaves nothing to stop.

    baseline: id of the baseline's trial, where the search has one.
    """
    return Asha(epochs, baseline=baseline) if epochs > 1 else None


class Asha(AsyncHyperBandScheduler):
    """Ray's ASHA with a memory that outlives the driver, and reasons.

    Three things are left alone: the baseline, a trial at its last epoch, and a trial that is not more than MARGIN above
    the best one or the baseline at its epoch. Cells that differ only in speed have nearly the same error, and must not
    be told apart by its last digits; and what is as good as the baseline may be chosen for its speed.

    Ray's names for trials change with each run of the driver, ours do not: rungs are kept by our ids.
    """

    def __init__(self, epochs: int, *, baseline: str | None = None) -> None:
        super().__init__(
            time_attr="epoch",
            metric=DEFAULT_METRIC,  # Tune raises where a report lacks a named metric; a failed trial has none
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
        """Take in what trials of earlier runs of this sweep have reported, in the order in which it was recorded.

        A trial that has not ended and whose last report was judged to be its end is in `stopped` then: the driver was
        killed between the two.
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
        """`result` is flattened by Tune: our epoch reports keep their metrics one level down."""
        if "epoch" not in result:
            return TrialScheduler.CONTINUE
        trial_id, epoch = _trial_id(trial), result["epoch"]
        reason = self.reason_to_stop(trial_id, epoch, result["metrics/loss/val_mse"])
        if reason is None:
            return TrialScheduler.CONTINUE
        self.stopped[trial_id] = reason
        return TrialScheduler.STOP

    def reason_to_stop(self, trial_id: str, epoch: int, val_mse: float | None) -> str | None:
        """Why a trial with this error after this epoch is stopped; None: it goes on. The error is remembered."""
        if val_mse is None or not math.isfinite(val_mse):
            return None  # it ends by itself, as nan
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
        """Nothing: the last epoch was judged when it came."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: what a removed trial reported stays true."""


def _named(trial_id: str) -> Any:
    return SimpleNamespace(trial_id=trial_id)


def _trial_id(trial: Any) -> str:
    return str(trial.config["job"]["trial_id"])
