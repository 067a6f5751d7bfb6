"""ASHA over the epochs of a search: a trial whose validation error is among the worse ones at a rung is stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.result import DEFAULT_METRIC
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from tune.finalists import MARGIN
from tune.outbox import TrialLog

REDUCTION = 3  # the best third goes on
FIRST_RUNG = 5  # one fifth of the epochs is trained before anything is stopped


def halving(epochs: int) -> Halving | None:
    """The scheduler for trials of so many epochs; None for one epoch, which leaves nothing to stop."""
    return Halving(epochs) if epochs > 1 else None


class Halving(AsyncHyperBandScheduler):
    """Ray's ASHA with a memory that outlives the driver, and reasons.

    Two things are left alone: a trial at its last epoch, and a trial within MARGIN of the best one at its epoch. Cells
    that differ only in speed have nearly the same error, and must not be told apart by its last digits.

    Ray's names for trials change with each run of the driver, ours do not: rungs are kept by our ids.
    """

    def __init__(self, epochs: int) -> None:
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
        self._epochs = epochs

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it beside its state; ours is never read back

    def replay(self, past: Mapping[str, TrialLog]) -> None:
        """Take in what trials of earlier runs of this sweep have reported."""
        for trial_id, log in past.items():
            trial = SimpleNamespace(config={"job": {"trial_id": trial_id}})
            self.on_trial_add(None, trial)
            for epoch, metrics in sorted(log.epochs.items()):
                self.judge(trial_id, epoch, metrics.get("loss/val_mse", math.nan))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _named(_trial_id(trial)))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """`result` is flattened by Tune: our epoch reports keep their metrics one level down."""
        if "epoch" not in result:
            return TrialScheduler.CONTINUE
        trial_id, epoch = _trial_id(trial), result["epoch"]
        reason = self.judge(trial_id, epoch, result["metrics/loss/val_mse"])
        if reason is None:
            return TrialScheduler.CONTINUE
        self.stopped[trial_id] = reason
        return TrialScheduler.STOP

    def judge(self, trial_id: str, epoch: int, val_mse: float | None) -> str | None:
        """Why a trial with this error after this epoch is stopped; None: it goes on. The error is remembered."""
        if val_mse is None or not math.isfinite(val_mse):
            return None  # it ends by itself, as nan
        seen = self._seen.setdefault(epoch, {})
        seen[trial_id] = val_mse
        if epoch >= self._epochs:
            return None
        action = super().on_trial_result(None, _named(trial_id), {"epoch": epoch, DEFAULT_METRIC: val_mse})
        best = min(seen.values())
        if action != TrialScheduler.STOP or val_mse <= best * (1 + MARGIN):
            return None
        return (
            f"stopped after epoch {epoch} by ASHA: validation MSE {val_mse:.4g} is not in the best third of the "
            f"{len(seen)} trials seen there, and more than {MARGIN:.0%} above the best of them, {best:.4g}"
        )

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the last epoch was judged when it came."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: what a removed trial reported stays true."""


def _named(trial_id: str) -> Any:
    return SimpleNamespace(trial_id=trial_id)


def _trial_id(trial: Any) -> str:
    return str(trial.config["job"]["trial_id"])
