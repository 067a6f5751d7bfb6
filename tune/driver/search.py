"""A sweep that draws its arms: Optuna proposes, ASHA stops, then the best and the baseline run again in pairs.

Both stages are one sweep: one folder, one outbox, one parent run. The outbox holds everything that the second stage
needs of the first, so a driver that is killed in either stage continues from there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tune.console.progress import Progress
from tune.driver.asha import Asha, make_asha
from tune.driver.collector import Collector
from tune.driver.finalists import FINALISTS, RULE, Candidate, candidate, choose_finalists, summary
from tune.driver.launcher import Launcher
from tune.driver.optuna_searcher import OptunaSearcher
from tune.plan.plan import PlannedTrial, make_plan
from tune.plan.space import Labels, SearchPlan, final_seed
from tune.storage.trial_log import TrialLog
from tune.tracking.tracker import Tracker
from tune.trial.report import TrialEnd


class Search:
    """The first stage of one sweep."""

    def __init__(
        self, plan: SearchPlan, tracker: Tracker, launcher: Launcher, progress: Progress, tags: Mapping[str, str]
    ) -> None:
        self._plan, self._tracker, self._launcher, self._progress = plan, tracker, launcher, progress
        self._tags = tags  # of every trial
        self._trials: dict[str, PlannedTrial] = {}

    def run(self, collector: Collector) -> bool:
        """Run the trials that are left of the search. True once it is complete."""
        scheduler = self._scheduler()
        past = drawn(self._tracker)
        searcher = OptunaSearcher(self._plan, past=past, logs=lambda: self._tracker.trials, start=self._start)
        unfinished = sum(log.status is None for _, log in past.values())
        left = self._plan.draws - len(past) + unfinished
        if past:
            self._progress.say(f"search: {len(past) - unfinished} trials have ended, up to {left} are left")
        if left and searcher.has_more:
            if scheduler is not None:
                collector.ending = lambda trial_id: self._stopped(trial_id, scheduler.stopped)
            self._launcher.search(searcher, scheduler, left, collector)
        logs = [log for _, log in drawn(self._tracker).values()]
        return all(log.status for log in logs) and (len(logs) >= self._plan.draws or not searcher.has_more)

    def _scheduler(self) -> Asha | None:
        """ASHA with every earlier report. Ends the trials that it had stopped just before the driver was killed."""
        scheduler = make_asha(self._plan.trials[0].config.train.epochs, baseline=self._plan.baseline_trial)
        if scheduler is None:
            return None
        past = drawn(self._tracker)
        scheduler.replay({trial_id: log for trial_id, (_, log) in past.items()})
        for trial_id, reason in scheduler.stopped.items():
            labels, log = past[trial_id]
            metrics = summary(self._plan.search_trial(labels, 0), log)
            self._tracker.end_trial(
                trial_id=trial_id,
                status="stopped",
                reason=reason,
                metrics=metrics,
                tags=log.reported,
                model_dir=None,
                samples_dir=self._launcher.folder.kept_samples(trial_id),
            )
            self._progress.ended(trial_id, "stopped", reason)
        return scheduler

    def _start(self, trial: PlannedTrial, labels: Labels) -> dict[str, Any]:
        """Record a proposed trial, then return its job."""
        self._trials[trial.trial_id] = trial
        self._tracker.plan_trial(
            trial_id=trial.trial_id,
            run_name=trial.run_name,
            params=trial.config.flat(),
            tags={
                **self._tags,
                "arm": trial.arm,
                "seed": str(trial.seed),
                "stage": "search",
                "cell": json.dumps(labels),
                "settings": self._plan.settings(self._plan.arm(labels)),
            },
        )
        return self._launcher.job(trial, prepare_next=True).as_dict()

    def _stopped(self, trial_id: str, reasons: dict[str, str]) -> TrialEnd | None:
        """The end of a trial that Tune completes without a report of its end: stopped, if the scheduler did it."""
        if trial_id not in reasons:
            return None
        metrics = summary(self._trials[trial_id], self._tracker.trials[trial_id])
        return TrialEnd(status="stopped", reason=reasons[trial_id], metrics=metrics)


def drawn(tracker: Tracker) -> dict[str, tuple[Labels, TrialLog]]:
    """The trials of the search so far, by id in the order in which they were proposed."""
    return {
        trial_id: (tuple(json.loads(log.tags["cell"])), log)
        for trial_id, log in tracker.trials.items()
        if log.tags.get("stage") == "search"
    }


def trials_left(plan: SearchPlan, tracker: Tracker) -> int:
    """Number of trials left in both stages, with as many of the final as there can be."""
    ended = sum(log.status is not None for _, log in drawn(tracker).values())
    finished = sum(log.tags.get("stage") == "final" and log.status is not None for log in tracker.trials.values())
    return min(plan.draws, plan.space.cells) - ended + plan.blocks * (1 + FINALISTS) - finished


def final_plan(plan: SearchPlan, tracker: Tracker, *, quiet: bool) -> SearchPlan:
    """`plan` with the final's trials, chosen from the ended search; without any if no trial of it gave a result."""
    refused = tuple(trial for trial in plan.trials if trial.unsupported)
    trials = drawn(tracker)
    best = _best(plan, trials)
    if not best:
        reasons = "; ".join(dict.fromkeys(log.reason for _, log in trials.values() if log.reason))
        why = reasons or "all that ran was the baseline itself"
        print(f"no trial of the search gave a result to compare, there is no final: {why}", file=sys.stderr)
        return replace(plan, trials=refused)
    if not quiet:
        print(f"final: the baseline and {_named(best, trials)} ({RULE})", file=sys.stderr)
    arms = tuple(plan.arm(trials[finalist.trial_id][0]) for finalist in best)
    final = make_plan(
        replace(plan.sweep, arms=(*plan.sweep.arms, *arms)),
        overrides=plan.overrides,
        repeats=plan.repeats,
        seed=final_seed(plan.seed, plan.repeats),
        device=plan.device,
        data=plan.data,
    )
    return replace(plan, sweep=final.sweep, trials=(*final.trials, *refused))


def _best(plan: SearchPlan, trials: dict[str, tuple[Labels, TrialLog]]) -> list[Candidate]:
    candidates = [
        candidate(replace(plan.search_trial(labels, 0), trial_id=trial_id), log)
        for trial_id, (labels, log) in trials.items()
    ]
    return choose_finalists([known for known in candidates if known is not None], baseline=plan.baseline_computation())


def _named(best: list[Candidate], trials: dict[str, tuple[Labels, TrialLog]]) -> str:
    return ", ".join(
        f"{'-'.join(trials[finalist.trial_id][0])} (validation MSE {finalist.val_mse:.4g})" for finalist in best
    )
