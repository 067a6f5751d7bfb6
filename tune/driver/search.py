"""A sweep that finds its arms: shapes are trained for their error, cells probed for their time, the best run in pairs.

All stages are one sweep: one folder, one outbox, one parent run. What comes next follows from the outbox
(tune/driver/search_steps.py), so a driver that is killed in any stage continues from there.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tune.common import signals
from tune.common.words import counted
from tune.console.progress import Progress
from tune.driver import error_trials, probes
from tune.driver.asha import Asha, make_asha
from tune.driver.collector import Collector
from tune.driver.finalists import reached, summary
from tune.driver.launcher import Launcher
from tune.driver.search_history import POLISH, PROBE, SEARCH, History, Trained
from tune.driver.search_steps import Final, Probe, Step, Train, able_shapes, limit_of, next_step
from tune.plan.cells import Labels
from tune.plan.plan import PlannedTrial, make_plan
from tune.plan.search_plan import SearchPlan
from tune.plan.shapes import FINALISTS, steps_of
from tune.plan.space import final_seed
from tune.stats.intervals import MIN_PAIRS
from tune.tracking.tracker import Tracker
from tune.trial.report import TrialEnd

CHOSEN = "finalists"  # in sweep.json: the final's cells besides the baseline, once they are chosen
# Of the final, to keep time for it: once, and for each trial beside its epochs. On an H200 it was 36 to 55 and 2 to 5 s
# (docs/measurements.md).
WARM_UP_S, GAP_S = 40.0, 6.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found."""

    plan: SearchPlan  # with the final's trials
    account: str  # of what the search did, for the report (tune.report.pareto.TAG)


class Search:
    """The stages of one sweep before its final."""

    def __init__(
        self, plan: SearchPlan, tracker: Tracker, launcher: Launcher, progress: Progress, tags: Mapping[str, str]
    ) -> None:
        self._plan, self._tracker, self._launcher, self._progress = plan, tracker, launcher, progress
        self._tags = tags  # of every trial
        self._longest_s = 0.0  # of the steps so far

    def run(self, collector: Collector, *, quiet: bool) -> Found | None:
        """Run what is left of the search, and choose the final's arms. None if it had to stop before."""
        cells = self._chosen()
        while cells is None:
            began_s = time.monotonic()
            time_is_up = self._time_is_up()
            step = self._next(time_is_up)
            if isinstance(step, Final) and time_is_up and not step.cells:  # more time may give a final
                self._launcher.budget.allows(math.inf)
                return None
            if isinstance(step, Final):
                cells = list(step.cells)
                self._launcher.folder.update(**{CHOSEN: cells})
            elif not self._run(step, collector):
                return None
            self._longest_s = max(self._longest_s, time.monotonic() - began_s)
        history = self._history()
        plan = final_plan(self._plan, history, cells, quiet=quiet)
        return Found(plan=plan, account=json.dumps(account(self._plan, history)))

    def _history(self) -> History:
        return History(self._plan, self._tracker.trials)

    def _chosen(self) -> list[Labels] | None:
        chosen = self._launcher.folder.read().get(CHOSEN)
        return None if chosen is None else [tuple(cell) for cell in chosen]

    def _time_is_up(self) -> bool:
        """Whether another step could leave too little time for the final."""
        return self._launcher.budget.left_s() < final_s(self._plan, self._history()) + self._longest_s

    def _next(self, time_is_up: bool) -> Step:
        at_a_time = error_trials.at_a_time(self._launcher, self._plan)
        step = next_step(self._plan, self._history(), at_a_time=at_a_time, time_is_up=time_is_up)
        if time_is_up and isinstance(step, Final):
            self._progress.say("search: the time left is for the final")
        return step

    def _run(self, step: Train | Probe, collector: Collector) -> bool:
        """Run one step. True if it came to its end."""
        history, tracker = self._history(), self._tracker
        trials = self._train(step, history, collector) if isinstance(step, Train) else self._probe(step, history)
        return all(tracker.status_of(trial.trial_id) is not None for trial in trials)

    def _train(self, step: Train, history: History, collector: Collector) -> list[PlannedTrial]:
        known = {each.cell: each.trial for each in history.trained}
        new = (cell for cell in step.cells if cell not in known)
        trials = known | {cell: self._plan.search_trial(cell, len(known) + at) for at, cell in enumerate(new, 1)}
        batch = [trials[cell] for cell in step.cells]
        own = {"batch": str(step.batch), **({POLISH: "true"} if step.polish else {})}
        with signals.deferred():
            for cell in step.cells:
                self._announce(trials[cell], cell, {"stage": SEARCH, **own})
        scheduler = self._scheduler()
        left = [trial for trial in batch if self._tracker.status_of(trial.trial_id) is None]
        left.sort(key=lambda trial: -(steps_of(trial) or 0))  # one that takes long and begins last would run alone
        why = "beside the fastest cell" if step.polish else f"of the {self._plan.draws} to train"
        self._progress.say(f"search: {counted(len(left), 'shape')} {why}, {len(history.trained)} trained so far")
        if scheduler is not None:
            by_id = {trial.trial_id: trial for trial in batch}
            collector.ending = lambda trial_id: self._stopped(by_id.get(trial_id), scheduler.stopped)
        if left:
            at_a_time = error_trials.at_a_time(self._launcher, self._plan)
            ended, until = self._tracker.ended, "the next step of the search"
            self._progress.expect(len(left), ended, at_a_time=at_a_time, until=until)
            error_trials.train(self._launcher, collector, self._plan, left, scheduler)
        return batch

    def _probe(self, step: Probe, history: History) -> list[PlannedTrial]:
        known = {each.cell: each.trial for each in history.probed}
        new = (cell for cell in step.cells if cell not in known)
        trials = known | {cell: self._plan.probe_trial(cell, len(known) + at) for at, cell in enumerate(new, 1)}
        with signals.deferred():
            for cell in step.cells:
                self._announce(trials[cell], cell, {"stage": PROBE})
        batch = [trials[cell] for cell in step.cells]
        self._progress.say(f"probes: the times of {counted(len(batch), 'cell')}, {len(known)} known so far")
        probes.probe(self._launcher, self._tracker, self._plan, batch, self._tags, self._progress.say)
        return batch

    def _announce(self, trial: PlannedTrial, cell: Labels, own: Mapping[str, str]) -> None:
        plan, shape = self._plan, self._plan.shape_of(cell)
        tags = {
            **self._tags,
            "arm": trial.arm,
            "seed": str(trial.seed),
            "cell": json.dumps(cell),
            "shape": "-".join(shape),
            "way": "-".join(plan.way_of(cell)),
            "work": plan.work(shape),
            "settings": plan.settings(plan.arm(cell)),
            **own,
        }
        params = trial.config.flat()
        self._tracker.plan_trial(trial_id=trial.trial_id, run_name=trial.run_name, params=params, tags=tags)

    def _scheduler(self) -> Asha | None:
        """ASHA with every earlier report. Ends the trials that it had stopped just before the driver was killed."""
        scheduler = make_asha(self._plan.trials[0].config.train.epochs, baseline=self._plan.baseline_trial)
        if scheduler is None:
            return None
        trained = {each.trial.trial_id: each for each in self._history().trained}
        scheduler.replay({trial_id: each.log for trial_id, each in trained.items()})
        for trial_id, reason in scheduler.stopped.items():
            self._end_stopped(trained[trial_id], reason)
        return scheduler

    def _end_stopped(self, each: Trained, reason: str) -> None:
        trial_id = each.trial.trial_id
        self._tracker.end_trial(
            trial_id=trial_id,
            status="stopped",
            reason=reason,
            metrics=summary(each.trial, each.log),
            tags=each.log.reported,
            model_dir=None,
            samples_dir=self._launcher.folder.kept_samples(trial_id),
        )
        self._progress.ended(trial_id, "stopped", reason)

    def _stopped(self, trial: PlannedTrial | None, reasons: Mapping[str, str]) -> TrialEnd | None:
        """The end of a trial that Tune completes without a report of its end: stopped, if the scheduler did it."""
        if trial is None or trial.trial_id not in reasons:
            return None
        metrics = summary(trial, self._tracker.trials[trial.trial_id])
        return TrialEnd(status="stopped", reason=reasons[trial.trial_id], metrics=metrics)


def final_s(plan: SearchPlan, history: History) -> float:
    """Seconds that the final takes at least, as far as the search's times say: its pairs up to the first verdict."""
    timed = [epoch_s for each in history.probed if (epoch_s := each.epoch_s) is not None]
    timed = timed or [s for each in history.trained for m in each.log.epochs.values() if (s := m.get("time/train_s"))]
    epoch_s = statistics.median(timed) if timed else 0.0
    trials = (1 + FINALISTS) * min(plan.blocks, MIN_PAIRS)
    return WARM_UP_S + trials * (GAP_S + plan.trials[0].config.train.epochs * epoch_s)


def final_plan(plan: SearchPlan, history: History, cells: Sequence[Labels], *, quiet: bool) -> SearchPlan:
    """`plan` with the final's trials of these cells; without any if no trial of the search gave a result."""
    refused = tuple(trial for trial in plan.trials if trial.unsupported)
    if not cells:
        reasons = "; ".join(dict.fromkeys(each.log.reason for each in history.trained if each.log.reason))
        why = reasons or "all that ran was the baseline itself"
        print(f"no trial of the search gave a result to compare, there is no final: {why}", file=sys.stderr)
        return replace(plan, trials=refused)
    arms = tuple(plan.arm(cell) for cell in cells)
    if not quiet:
        print(f"final: the baseline and {', '.join(arm.label for arm in arms)}", file=sys.stderr)
    final = make_plan(
        replace(plan.sweep, arms=(*plan.sweep.arms, *arms)),
        overrides=plan.overrides,
        repeats=plan.repeats,
        seed=final_seed(plan.seed, plan.repeats),
        device=plan.device,
        data=plan.data,
    )
    return replace(plan, sweep=final.sweep, trials=(*final.trials, *refused))


def account(plan: SearchPlan, history: History) -> dict[str, object]:
    """What the search did: for the report, which knows the records but not the plan."""
    limit = limit_of(plan, history)
    return {
        "trained": len(history.trained),
        "of_polish": sum(each.polish for each in history.trained),
        "probed": len(history.probed),
        "able": len(able_shapes(plan, history)),
        "limit_val_mse": None if limit is None else limit.val_mse,
        "limit": None if limit is None else limit.why,
        "target_val_mse": plan.target_val_mse,
        "target_reached": reached(history.candidates, plan.target_val_mse),
        "complete": isinstance(next_step(plan, history, at_a_time=1), Final),
    }
