"""Runs a sweep: connect, probe, plan, resume or start, one Tune trial for each planned trial, close.

Resuming does not use `Tuner.restore`. The plan, the outbox and the recorded checkpoints say which trials are left, and
a new Tuner runs those. Nothing is unpickled, and no epoch that has a checkpoint is repeated.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from tune.cluster import connect
from tune.common import signals
from tune.common.clock import SteadyClock
from tune.common.errors import DiskFull
from tune.common.process import PROCESS_TAG, this_process
from tune.common.program import PROGRAM
from tune.common.statuses import NO_FAILURE
from tune.config.repeats import AUTO
from tune.config.sweeps import SweepConfig
from tune.console.live import make_progress
from tune.console.progress import Progress
from tune.driver import search
from tune.driver.auto import Needed, first_trials, run_needed
from tune.driver.collector import Collector
from tune.driver.entry import Entry, trial_entry
from tune.driver.finish import STOPPED_WAIT_S, close_sweep, failures
from tune.driver.launcher import Launcher
from tune.driver.open import command_key, open_sweep_run
from tune.driver.options import Options, Outcome
from tune.driver.table import data_params, data_tags, run_for_errors, table_tags, waits_for_files
from tune.driver.warm_ups import warm_up_together
from tune.plan.estimate import history_of, outlook
from tune.plan.history import History
from tune.plan.placement import TAG as PLACEMENT
from tune.plan.plan import Plan, PlannedTrial
from tune.plan.planner import Planner
from tune.plan.search_plan import SearchPlan
from tune.plan.table import asks_for_errors
from tune.report.arms import REPEATS
from tune.report.data import FILE, TAG
from tune.report.pareto import TAG as SEARCH_TAG
from tune.storage import open_sweep
from tune.storage.sweep_dir import SweepDir
from tune.tracking.access import check_access
from tune.tracking.artifact_place import settle_artifacts
from tune.tracking.artifact_probe import artifact_root, check_artifacts
from tune.tracking.spans import WARM_UP, span
from tune.tracking.store import JOB_TAG, PROJECT, STOPPED, STORE_ANSWERS_WITHIN_S, check_store
from tune.tracking.tracker import Tracker
from tune.worker.node_forkserver import remove_own_sockets


def run_sweep(
    planner: Planner, *, options: Options, show_plan: Callable[[Plan], None], entry: Entry = trial_entry
) -> Outcome:
    """Run a sweep to its end, or continue the unfinished one of the same plan. WrongInput if it cannot run.

    entry: what a worker runs for each trial; only benchmarks give another entry.
    """
    options = replace(options, began_ms=options.began_ms or SteadyClock().now_ms())
    check_store(options.tracking_uri, timeout_s=STORE_ANSWERS_WITHIN_S)
    readable = check_access(options.tracking_uri, PROJECT, STORE_ANSWERS_WITHIN_S, _say(options))
    settle_artifacts(options.tracking_uri, PROJECT, options.storage_path, _say(options))
    if readable:  # otherwise its records and files wait
        root = artifact_root(options.storage_path, options.tracking_uri)
        check_artifacts(options.tracking_uri, PROJECT, root, _say(options))
    asked = command_key(planner, options)
    with (
        signals.sweeping_up(remove_own_sockets),
        contextlib.ExitStack() as at_the_end,
        connect.connected(options.address) as ray,
    ):
        with open_sweep.sweep_lock(options.storage_path, asked):  # else a second command waits for this one's GPUs
            if not options.fresh:
                open_sweep.check_not_running(options.storage_path, asked)
            plan, launcher, tracker = open_sweep_run(ray, planner, options, show_plan, asked, entry)
        if launcher.fork_servers is not None:
            at_the_end.callback(remove_own_sockets)  # Ray kills them before they can do so
        with tracker, signals.at_the_last(functools.partial(_interrupt, tracker)):
            try:
                return _Run(plan, launcher.folder, launcher, options).run(tracker)
            except KeyboardInterrupt:
                _interrupt(tracker)
                raise


def _interrupt(tracker: Tracker) -> None:
    """Close the sweep in MLflow as interrupted, unless it was closed before; waits a few seconds for MLflow."""
    if tracker.sweep_status is None:
        with contextlib.suppress(ValueError):  # no sweep was begun
            tracker.end_run()
            tracker.end_sweep(status="interrupted", metrics={}, files={})
    tracker.flush(STOPPED_WAIT_S)


def _say(options: Options) -> Callable[[str], None]:
    return (lambda text: None) if options.quiet else (lambda text: print(text, file=sys.stderr, flush=True))


class _Run:
    """One run of one sweep's folder."""

    def __init__(self, plan: Plan, folder: SweepDir, launcher: Launcher, options: Options) -> None:
        self.plan, self.folder, self.launcher, self.options = plan, folder, launcher, options
        self._searched: dict[str, str] = {}  # tag of the parent run: what the search did
        self._planned = plan.draws if isinstance(plan, SearchPlan) else len(plan.trials)

    def run(self, tracker: Tracker) -> Outcome:
        epochs = self.plan.trials[0].config.train.epochs
        if STOPPED in self.folder.read():
            self.folder.update(**{STOPPED: ""})
        with make_progress(total=0, epochs=epochs, quiet=self.options.quiet) as progress:
            tracker.announce_outages(progress.say)
            with signals.deferred():
                self._begin(tracker)
            collector = Collector(self.folder, tracker, progress, environment=self._environment)
            with contextlib.suppress(KeyboardInterrupt):  # a signal, or Ray on this machine was lost
                self._run_trials(tracker, progress, collector)
            _check_disk(collector, tracker)
            return self._close(tracker, progress)

    def _run_trials(self, tracker: Tracker, progress: Progress, collector: Collector) -> None:
        """Run the trials that are left. Raises KeyboardInterrupt if the sweep has to stop."""
        if isinstance(self.plan, SearchPlan) and not self._search(self.plan, tracker, progress, collector):
            return
        with signals.deferred():
            self._announce(tracker, first_trials(self.plan))
        if asks_for_errors(self.plan):
            run_for_errors(self.plan, self.launcher, tracker, progress, collector)
            return
        before, announce = tracker.ended, functools.partial(self._announce, tracker)

        def on_look(line: str) -> None:
            progress.say(line)
            self._expect(progress, needed.before_look(at_a_time), before)

        needed = Needed(self.plan, tracker, on_look)
        share = self.launcher.share
        at_a_time = share.at_a_time if share.gpus == 1 and self.plan.in_blocks else 1
        left = needed.before_look(at_a_time)
        self._expect(progress, left, before)
        if any(trial.trial_id in before for trial in self.plan.runnable):
            progress.say(_progress_line(before, left, self.plan))
        if left and self.launcher.budget.allows():
            with span(tracker, WARM_UP):
                warm_up_together(self.launcher, self.plan, left, progress.say)
            run_needed(self.launcher, needed, collector, announce)

    @functools.cached_property
    def _environment(self) -> str:
        """The environment of this run's trials, as a tag."""
        return json.dumps(self.folder.read()["environment"])

    def _expect(self, progress: Progress, left: Sequence[PlannedTrial], ended: Mapping[str, str]) -> None:
        """Tell the progress which trials are left, for its ETA: in blocks of one seed on GPUs, else one by one."""
        share = self.launcher.share
        in_blocks = share.gpus == 1 and self.plan.in_blocks
        blocks: dict[int | str, list[str]] = {}
        for trial in left:
            blocks.setdefault(trial.seed if in_blocks else trial.trial_id, []).append(trial.trial_id)
        found = outlook(self.plan, self._history, left, at_a_time=share.at_a_time)
        looks = self.plan.repeats == AUTO and all(self.plan.block(trial) + 1 < self.plan.blocks for trial in left)
        progress.expect_blocks(
            list(blocks.values()),
            share.at_a_time,
            ended,
            weights=found.weights,
            expected_s=found.seconds,
            until="the next look" if looks else None,
        )

    @functools.cached_property
    def _history(self) -> History:
        """What earlier sweeps took. Read once: a look must not wait for it."""
        return history_of(self.plan, self.folder.path.parent)

    def _search(self, plan: SearchPlan, tracker: Tracker, progress: Progress, collector: Collector) -> bool:
        """The stages that find the final's arms. True once the plan holds them."""
        self._announce(tracker, [trial for trial in plan.trials if trial.unsupported])
        tags = {"sweep": plan.sweep.name, "environment": self._environment}
        found = search.Search(plan, tracker, self.launcher, progress, tags).run(collector, quiet=self.options.quiet)
        if found is None:
            return False
        self.plan, self._searched = found.plan, {SEARCH_TAG: found.account}
        self._begin(tracker)  # now with all arms
        progress.begin_stage()  # the search's trials shared GPUs, and were not compiled
        return True

    def _begin(self, tracker: Tracker) -> None:
        plan, content = self.plan, self.folder.read()
        files = {"plan.json": content["trials"], "environment.json": content["environment"]}
        if TAG in content:
            files[FILE] = content[TAG]
        if "environments" in content:  # it was resumed in another one
            files["environments.json"] = content["environments"]
        tracker.begin_sweep(
            sweep_id=self.folder.sweep_id,
            name=self.folder.sweep_id,
            tags={
                "sweep": plan.sweep.name,
                **({} if plan.sweep.table else {"baseline": plan.sweep.baseline}),
                "question": plan.sweep.question,
                "arms": ",".join(arm.label for arm in plan.sweep.arms),
                "swept": ",".join(sorted(plan.sweep.swept)),
                "gpus_per_trial": f"{self.launcher.share.gpus:g}",
                "device": plan.device.name,
                "environment": self._environment,
                **_ablation_tag(plan.sweep),
                **_placement_tag(plan),
                **_batch_tag(plan),
                REPEATS: str(plan.repeats),
                **({STOPPED: content[STOPPED]} if STOPPED in content else {}),
                **self._searched,
                **data_tags(content),
                **table_tags(plan),
                **_who_runs(),
            },
            params={
                "sweep": plan.sweep.name,
                "repeats": plan.repeats,
                "trials": self._planned,
                **data_params(content),
            },
            files={name: json.dumps(file, indent=1) for name, file in files.items()},
            version=self.folder.format,
            driver_began_ms=self.options.began_ms,
        )

    def _announce(self, tracker: Tracker, trials: Sequence[PlannedTrial]) -> None:
        shared = {"sweep": self.plan.sweep.name, "environment": self._environment}
        arms, ended = {arm.label: arm for arm in self.plan.sweep.arms}, tracker.ended
        for trial in trials:
            tags = {**shared, "arm": trial.arm, "seed": str(trial.seed)}
            if trial.same_as is not None:
                tags["same_as"] = trial.same_as
            tags |= trial.config.rules.tags
            if trial.arm in arms and isinstance(self.plan, SearchPlan):
                tags |= {"stage": "final", "settings": self.plan.settings(arms[trial.arm])}
            tracker.plan_trial(trial_id=trial.trial_id, run_name=trial.run_name, params=trial.config.flat(), tags=tags)
            if trial.unsupported and trial.trial_id not in ended:
                tracker.end_trial(
                    trial_id=trial.trial_id,
                    status="unsupported",
                    reason=trial.unsupported,
                    metrics={},
                    tags={},
                    model_dir=None,
                )

    def _note_stop(self, tracker: Tracker, what_there_is: str) -> str | None:
        """Why a sweep with trials left stopped, and what there is, for its record too; None if it was interrupted."""
        budget, waits = self.launcher.budget, waits_for_files(self.plan, tracker.ended)
        if waits is None and not budget.used_up or signals.received() is not None:
            return None
        stopped = waits or f"stopped after {budget.minutes:g} minutes: {what_there_is}"
        self.folder.update(**{STOPPED: stopped})
        self._begin(tracker)
        return stopped

    def _close(self, tracker: Tracker, progress: Progress) -> Outcome:
        """End the sweep, unless trials are left or MLflow lacks records: then the same command continues it."""
        statuses, bad = tracker.ended, failures(tracker)
        needed = Needed(self.plan, tracker).of(self.plan.trials)
        interrupted = any(trial.trial_id not in statuses for trial in needed)
        stopped = self._note_stop(tracker, _what_there_is(self.plan, needed, statuses)) if interrupted else None
        uri, say = self.options.tracking_uri, progress.say
        tracker.end_run()  # the report tells of it; to send it and to draw the report is not in it
        pending = close_sweep(self.folder, tracker, uri, interrupted=interrupted, say=say)
        if not interrupted and not pending:
            sweep_id = self.folder.sweep_id
            signals.then(f"; {sweep_id} is finished: `{PROGRAM} report {sweep_id}` shows its table")
        for problem in tracker.problems:
            print(f"tracking: {problem}", file=sys.stderr)
        return Outcome(
            sweep_id=self.folder.sweep_id,
            statuses=statuses,
            failures=bad,
            interrupted=interrupted,
            stopped=stopped,
            pending=pending,
            unsent=tracker.unsent,
            blocked=tracker.blocked,
            refused=tracker.refused,
        )


def _what_there_is(plan: Plan, needed: Sequence[PlannedTrial], statuses: Mapping[str, str]) -> str:
    """How much has ended of the trials that are needed: their blocks where they make pairs, else the trials."""
    runnable = [trial for trial in needed if trial.unsupported is None]
    ended = [trial for trial in runnable if trial.trial_id in statuses]
    if isinstance(plan, SearchPlan) and not ended:
        return f"{len(statuses)} trials of its search have ended"
    if not plan.in_blocks:
        return f"{len(ended)} of {len(runnable)} trials"
    left = {trial.seed for trial in runnable if trial.trial_id not in statuses}
    seeds, begun = {trial.seed for trial in runnable}, {trial.seed for trial in ended} & left
    of = f"at most {len(seeds)}" if plan.repeats == AUTO else f"{len(seeds)}"
    return f"{len(seeds - left)} of {of} blocks" + (f", {len(begun)} in part" if begun else "")


def _check_disk(collector: Collector, tracker: Tracker) -> None:
    """Raises DiskFull if that ended the run, as the end of the sweep would be written to the same disk."""
    if collector.disk_full is not None:
        raise DiskFull(f"{collector.disk_full}; {len(tracker.ended)} trials have ended")


def _ablation_tag(sweep: SweepConfig) -> dict[str, str]:
    """The tag of the parent run with the pairs of arms whose ratios a report shows; none if the sweep names none."""
    return {"ladder": json.dumps([asdict(step) for step in sweep.ablation])} if sweep.ablation else {}


def _placement_tag(plan: Plan) -> dict[str, str]:
    """The tag of the parent run with the feed that was chosen by measuring, and why; none if one was named."""
    placement = plan.placement
    return {} if placement is None else {PLACEMENT: f"{placement.feed}: {placement.reason}"}


def _batch_tag(plan: Plan) -> dict[str, str]:
    """The tag of the parent run with the batch of the arms that name none, which follows from the data's windows."""
    batch = plan.data.default_batch
    return {} if batch is None else {"default_batch": str(batch)}


def _who_runs() -> dict[str, str]:
    """Tags of the parent run: the user, host and process, and one tag for each Ray job that ran a part of the sweep."""
    process = this_process()
    job = {JOB_TAG + process.job: process.since} if process.job else {}
    tags = {"user": process.user, "host": process.host, PROCESS_TAG: process.as_json(), **job}
    return {name: value for name, value in tags.items() if value}


def _progress_line(ended: Mapping[str, str], left: list[PlannedTrial], plan: Plan) -> str:
    until = " before the next look" if plan.repeats == AUTO and left else ""
    bad = sum(status not in NO_FAILURE for status in ended.values())
    failed = f" ({bad} of them failed and are not run again; --fresh runs everything)" if bad else ""
    return f"{len(ended)} trials have ended{failed}, {len(left)} are left{until}"
