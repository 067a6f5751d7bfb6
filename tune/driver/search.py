"""A sweep that draws its arms: Optuna proposes, ASHA stops, then the best and the baseline run again in pairs.

Both stages are one sweep: one folder, one outbox, one parent run. Everything that the second needs of the first is in
the outbox, so that a driver killed in either goes on from there (CONTRIBUTING.md).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tune.console.progress import Progress
from tune.driver.asha import Asha, halving
from tune.driver.collector import Collector
from tune.driver.finalists import FINALISTS, RULE, Candidate, candidate, choose, summary
from tune.driver.launcher import Launcher
from tune.driver.optuna_searcher import OptunaSearcher
from tune.plan.plan import PlannedTrial, computation, make_plan
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
        """Run what is left of the search; True once it is complete."""
        scheduler = self._scheduler()
        past = drawn(self._tracker)
        proposer = OptunaSearcher(self._plan, past=past, logs=lambda: self._tracker.trials, start=self._start)
        unfinished = sum(log.status is None for _, log in past.values())
        left = self._plan.draws - len(past) + unfinished
        if past:
            self._progress.say(f"search: {len(past) - unfinished} trials have ended, up to {left} are left")
        if left and proposer.has_more:
            if scheduler is not None:
                collector.ending = lambda trial_id: self._stopped(trial_id, scheduler.stopped)
            self._launcher.search(proposer, scheduler, left, collector)
        logs = [log for _, log in drawn(self._tracker).values()]
        return all(log.status for log in logs) and (len(logs) >= self._plan.draws or not proposer.has_more)

    def _scheduler(self) -> Asha | None:
        """ASHA with all that was reported; ends what it had stopped just before the driver was killed."""
        scheduler = halving(self._plan.trials[0].config.train.epochs, baseline=self._plan.baseline_trial)
        if scheduler is None:
            return None
        past = drawn(self._tracker)
        scheduler.replay({trial_id: log for trial_id, (_, log) in past.items()})
        for trial_id, reason in scheduler.stopped.items():
            labels, log = past[trial_id]
            metrics = summary(self._plan.search_trial(labels, 0).config, log)
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
        """Put a proposed trial on record, then hand out its job."""
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
        """How a trial ends that Tune completes without its own word: stopped, if it was the scheduler."""
        if trial_id not in reasons:
            return None
        metrics = summary(self._trials[trial_id].config, self._tracker.trials[trial_id])
        return TrialEnd(status="stopped", reason=reasons[trial_id], metrics=metrics)


def drawn(tracker: Tracker) -> dict[str, tuple[Labels, TrialLog]]:
    """The trials of the search so far, by id in the order in which they were proposed."""
    return {
        trial_id: (tuple(json.loads(log.tags["cell"])), log)
        for trial_id, log in tracker.trials.items()
        if log.tags.get("stage") == "search"
    }


def trials_left(plan: SearchPlan, tracker: Tracker) -> int:
    """Trials still to run in both stages; of the final's arms as many as there can be."""
    ended = sum(log.status is not None for _, log in drawn(tracker).values())
    finished = sum(log.tags.get("stage") == "final" and log.status is not None for log in tracker.trials.values())
    return min(plan.draws, plan.space.cells) - ended + plan.repeats * (1 + FINALISTS) - finished


def final_plan(plan: SearchPlan, tracker: Tracker, *, quiet: bool) -> SearchPlan:
    """`plan` with the final's trials, chosen from the ended search; without any where no trial of it gave a result."""
    refused = tuple(trial for trial in plan.trials if trial.unsupported)
    found = drawn(tracker)
    best = _best(plan, found)
    if not best:
        reasons = "; ".join(dict.fromkeys(log.reason for _, log in found.values() if log.reason))
        why = reasons or "all that ran was the baseline itself"
        print(f"no trial of the search gave a result to compare, there is no final: {why}", file=sys.stderr)
        return replace(plan, trials=refused)
    if not quiet:
        print(f"final: the baseline and {_named(best, found)} ({RULE})", file=sys.stderr)
    arms = tuple(plan.arm(found[one.trial_id][0]) for one in best)
    final = make_plan(
        replace(plan.sweep, arms=(*plan.sweep.arms, *arms)),
        overrides=plan.overrides,
        repeats=plan.repeats,
        seed=final_seed(plan.seed, plan.repeats),
        device=plan.device,
        channels=plan.channels,
    )
    return replace(plan, sweep=final.sweep, trials=(*final.trials, *refused))


def _best(plan: SearchPlan, found: dict[str, tuple[Labels, TrialLog]]) -> list[Candidate]:
    configs = {trial_id: plan.search_trial(labels, 0).config for trial_id, (labels, _) in found.items()}
    candidates = [candidate(trial_id, log, computation(configs[trial_id])) for trial_id, (_, log) in found.items()]
    return choose([one for one in candidates if one], baseline=plan.baseline_computation())


def _named(best: list[Candidate], found: dict[str, tuple[Labels, TrialLog]]) -> str:
    return ", ".join(f"{'-'.join(found[one.trial_id][0])} (validation MSE {one.val_mse:.4g})" for one in best)
