"""Run a sweep: connect, probe, plan, resume or start, one Tune trial per planned trial, close.

Resuming does not use `Tuner.restore`: the plan, the outbox and the recorded checkpoints already say what is left, so a
new Tuner runs just that. Nothing is unpickled, and no epoch is repeated that has a checkpoint (CONTRIBUTING.md).
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tune import adaptive, cluster, sweep_dir
from tune.callback import Collector
from tune.closing import GOOD, close_sweep, failures, open_tracker
from tune.errors import DiskFull, WrongInput
from tune.hardware import code_identity
from tune.holder import this_process
from tune.launch import Entry, Launcher, trial_entry
from tune.live import make_progress
from tune.mlflow_access import check_access
from tune.mlflow_store import JOB_TAG, PROJECT, redacted, settled_uri
from tune.prepare import cache_dir, prepare_data
from tune.progress import Progress
from tune.search import Plan, PlannedTrial, make_plan, plan_rows
from tune.shared_folders import check_nodes
from tune.space import SearchPlan, plan_sweep
from tune.sweep_dir import SweepDir
from tune.sweeps import SweepConfig
from tune.templates import Templates
from tune.tracking import Tracker, check_store

STORE_ANSWERS_WITHIN_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, as against what to run."""

    storage_path: Path  # absolute; sweeps and the Arrow cache lie here
    tracking_uri: str
    data_dir: Path  # absolute; holds the source files, downloaded into it where missing
    address: str | None = None
    gpu_model: str | None = None  # Ray's name of the one to use in a cluster with several
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None
    wait_for_gpus_s: float = 0.0  # how long the workers of a joined cluster may take to join
    trials: int | None = None  # of a sweep with a space: how many arms are drawn from it; None elsewhere
    fresh: bool = False
    resume: str | None = None
    isolate: bool = False  # every trial in a process that nothing was prepared in, with empty caches
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run of a sweep ended."""

    sweep_id: str
    statuses: Mapping[str, str]  # trial_id -> status, for every planned trial that ended
    failures: tuple[str, ...]  # trial ids of those that ended badly, but for arms whose failure is what they show
    interrupted: bool
    pending: int  # records that MLflow does not have yet


def run_sweep(
    sweep: SweepConfig,
    *,
    overrides: Mapping[str, Any],
    repeats: int,
    seed: int,
    options: Options,
    show_plan: Callable[[Plan], None],
    entry: Entry = trial_entry,
) -> Outcome:
    """Run `sweep` to its end, or go on with the unfinished one of the same plan. WrongInput for what cannot run.

    entry: what a worker runs for each trial; only benchmarks/scale.py, whose trials train nothing, gives its own.
    """
    check_store(options.tracking_uri, timeout_s=STORE_ANSWERS_WITHIN_S)
    check_access(options.tracking_uri, PROJECT, STORE_ANSWERS_WITHIN_S, _say(options))
    asked: dict[str, Any] = {"overrides": overrides, "repeats": repeats, "seed": seed}
    asked_key = _asked_key(sweep, asked, options)
    with cluster.connected(options.address) as ray:
        with sweep_dir.opening(options.storage_path, asked_key):  # a second one must not wait for the first one's GPUs
            if not options.fresh:
                sweep_dir.check_not_running(options.storage_path, asked_key)
            plan, launcher, tracker = _open(ray, sweep, asked, options, show_plan, asked_key, entry)
        with tracker:
            return _Run(plan, launcher.folder, launcher, options).run(tracker)


def _say(options: Options) -> Callable[[str], None]:
    return (lambda text: None) if options.quiet else (lambda text: print(text, file=sys.stderr, flush=True))


def _asked_key(sweep: SweepConfig, asked: Mapping[str, Any], options: Options) -> str:
    """Identity of what a command asks for, before any device is known: the same for two users of the same command."""
    arms = [(arm.label, dict(arm.changes)) for arm in sweep.arms]
    content = [sweep.name, arms, asked, options.trials, options.gpus_per_trial, redacted(options.tracking_uri)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _open(
    ray: Any,
    sweep: SweepConfig,
    asked: dict[str, Any],
    options: Options,
    show_plan: Callable[[Plan], None],
    asked_key: str,
    entry: Entry,
) -> tuple[Plan, Launcher, Tracker]:
    """Probe, plan, and open the sweep's folder and its outbox."""
    share = cluster.choose_share(
        ray,
        gpus_per_trial=options.gpus_per_trial,
        max_concurrent=options.max_concurrent,
        joined=options.address is not None,
        gpu_model=options.gpu_model,
        wait_s=options.wait_for_gpus_s,
    )
    forking = entry is trial_entry and not options.isolate
    templates = Templates(ray, share) if forking else None  # they import while everything else is made ready
    device, environment = cluster.probe(ray, share)
    asked = {**asked, "device": device}
    plan = make_plan(sweep, **asked)  # without the cells of a space: this one is for the data only
    series = prepare_data(
        plan.trials[0].config.data,
        data_dir=options.data_dir,
        storage_path=options.storage_path,
        quiet=options.quiet or options.address is None,  # without an address this was told before Ray started
    )
    if options.address is not None:
        data = plan.trials[0].config.data
        folders = {"storage": options.storage_path, "data_dir": options.data_dir}
        check_nodes(ray, share, **folders, dataset=data.dataset)
    plan = plan_sweep(sweep, draws=options.trials, channels=len(series.columns), **asked)
    show_plan(plan)
    if not plan.runnable:
        raise WrongInput(f"no trial of this plan can run here: {plan.trials[0].unsupported}")
    key = plan.key(data_sha256=series.source_sha256, tracking_uri=options.tracking_uri)
    with sweep_dir.opening(options.storage_path, key):
        folder = _open_folder(plan, {"key": key, "asked": asked_key}, environment, options)
        tracker = open_tracker(folder, options.tracking_uri)
    launcher = Launcher(
        folder=folder,
        share=share,
        device_type=device.device_type,
        gpu_name=device.name if device.device_type == "cuda" else None,
        data_dir=options.data_dir,
        cache_dir=cache_dir(options.storage_path),
        data_sha256=series.source_sha256,
        wait_s=options.wait_for_gpus_s,
        isolate=options.isolate,
        templates=templates,
        entry=entry,
    )
    return plan, launcher, tracker


def _open_folder(plan: Plan, keys: dict[str, str], environment: dict[str, Any], options: Options) -> SweepDir:
    """The folder of the unfinished sweep with this key, or a new one."""
    code = code_identity()
    environment = {"device": plan.device.as_dict(), **environment, **code}
    folder, why = sweep_dir.choose(
        options.storage_path, key=keys["key"], environment=environment, fresh=options.fresh, resume=options.resume
    )
    if not options.quiet:
        print(why, file=sys.stderr)
    if folder is not None:
        folder.run_on(environment)
        return folder
    content = {
        "sweep": plan.sweep.name,
        **keys,
        "created_s": time.time(),
        "code": code,
        "environment": environment,
        "tracking_uri": redacted(settled_uri(options.tracking_uri)),
        "trials": plan_rows(plan.trials),
    }
    return sweep_dir.create(options.storage_path, plan.sweep.name, content)


class _Run:
    """One run of one sweep's folder."""

    def __init__(self, plan: Plan, folder: SweepDir, launcher: Launcher, options: Options) -> None:
        self.plan, self.folder, self.launcher, self.options = plan, folder, launcher, options
        self._planned = plan.draws if isinstance(plan, SearchPlan) else len(plan.trials)

    def run(self, tracker: Tracker) -> Outcome:
        epochs = self.plan.trials[0].config.train.epochs
        with make_progress(total=0, epochs=epochs, quiet=self.options.quiet) as progress:
            tracker.tell(progress.say)
            self._begin(tracker)
            collector = Collector(self.folder, tracker, progress, environment=self._environment)
            if isinstance(self.plan, SearchPlan) and not self._search(self.plan, tracker, progress, collector):
                _check_room(collector, tracker)
                return self._close(tracker, progress)
            self._announce(tracker, self.plan.trials)
            ended = tracker.ended
            left = [trial for trial in self.plan.runnable if trial.trial_id not in ended]
            self._expect(progress, left, ended)
            if len(left) < len(self.plan.runnable):
                progress.say(_what_is_left(ended, left))
            if left:
                self.launcher.run(left, collector, in_blocks=self.plan.in_blocks)
            _check_room(collector, tracker)
            return self._close(tracker, progress)

    @functools.cached_property
    def _environment(self) -> str:
        """What this run's trials run on, as a tag."""
        return json.dumps(self.folder.read()["environment"])

    def _expect(self, progress: Progress, left: Sequence[PlannedTrial], ended: Mapping[str, str]) -> None:
        """Say what is left, for the time that it takes: on GPUs in blocks of one seed, else trial by trial."""
        share = self.launcher.share
        in_blocks = share.gpus == 1 and self.plan.in_blocks
        blocks: dict[int | str, list[str]] = {}
        for trial in left:
            blocks.setdefault(trial.seed if in_blocks else trial.trial_id, []).append(trial.trial_id)
        progress.expect_blocks(list(blocks.values()), share.at_a_time, ended)

    def _search(self, plan: SearchPlan, tracker: Tracker, progress: Progress, collector: Collector) -> bool:
        """The stage that draws the final's arms; True once the plan holds them."""
        self._announce(tracker, [trial for trial in plan.trials if trial.unsupported])
        progress.expect(adaptive.trials_left(plan, tracker), tracker.ended)
        tags = {"sweep": plan.sweep.name, "environment": self._environment}
        if not adaptive.Search(plan, tracker, self.launcher, progress, tags).run(collector):
            return False
        self.plan = adaptive.final_plan(plan, tracker, quiet=self.options.quiet)
        self._begin(tracker)  # now with all arms
        return True

    def _begin(self, tracker: Tracker) -> None:
        plan, content = self.plan, self.folder.read()
        files = {"plan.json": content["trials"], "environment.json": content["environment"]}
        if "environments" in content:  # it was resumed in another one
            files["environments.json"] = content["environments"]
        tracker.begin_sweep(
            sweep_id=self.folder.sweep_id,
            name=self.folder.sweep_id,
            tags={
                "sweep": plan.sweep.name,
                "baseline": plan.sweep.baseline,
                "question": plan.sweep.question,
                "arms": ",".join(arm.label for arm in plan.sweep.arms),
                "swept": ",".join(sorted(plan.sweep.swept)),
                "gpus_per_trial": f"{self.launcher.share.gpus:g}",
                "device": plan.device.name,
                "environment": self._environment,
                **_ladder(plan.sweep),
                **_who_runs(),
            },
            params={"sweep": plan.sweep.name, "repeats": plan.repeats, "trials": self._planned},
            files={name: json.dumps(file, indent=1) for name, file in files.items()},
        )

    def _announce(self, tracker: Tracker, trials: Sequence[PlannedTrial]) -> None:
        shared = {"sweep": self.plan.sweep.name, "environment": self._environment}
        arms, ended = {arm.label: arm for arm in self.plan.sweep.arms}, tracker.ended
        for trial in trials:
            tags = {**shared, "arm": trial.arm, "seed": str(trial.seed)}
            if trial.same_as is not None:
                tags["same_as"] = trial.same_as
            if trial.config.as_published is not None:
                tags["as_published"] = trial.config.as_published
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

    def _close(self, tracker: Tracker, progress: Progress) -> Outcome:
        """End the sweep, unless trials are left or MLflow lacks records: then the same command goes on from here."""
        statuses, bad = tracker.ended, failures(tracker)
        interrupted = any(trial.trial_id not in statuses for trial in self.plan.trials)
        uri, say = self.options.tracking_uri, progress.say
        pending = close_sweep(self.folder, tracker, uri, interrupted=interrupted, say=say)
        for problem in tracker.problems:
            print(f"tracking: {problem}", file=sys.stderr)
        return Outcome(
            sweep_id=self.folder.sweep_id,
            statuses=statuses,
            failures=bad,
            interrupted=interrupted,
            pending=pending,
        )


def _check_room(collector: Collector, tracker: Tracker) -> None:
    """Raises DiskFull where that ended the run: the end of the sweep would be written to the same disk."""
    if collector.disk_full is not None:
        raise DiskFull(f"{collector.disk_full}; {len(tracker.ended)} trials have ended")


def _ladder(sweep: SweepConfig) -> dict[str, str]:
    return {"ladder": json.dumps([asdict(rung) for rung in sweep.ladder])} if sweep.ladder else {}


def _who_runs() -> dict[str, str]:
    """Tags of the parent run: who runs it, and one tag for each Ray job that ran it or a part of it."""
    holder = this_process()
    tags = {"user": holder.user, "host": holder.host, **({JOB_TAG + holder.job: holder.since} if holder.job else {})}
    return {name: value for name, value in tags.items() if value}


def _what_is_left(ended: Mapping[str, str], left: list[PlannedTrial]) -> str:
    bad = sum(status not in GOOD for status in ended.values())
    unlucky = f" ({bad} of them failed and are not run again; --fresh runs everything)" if bad else ""
    return f"{len(ended)} trials have ended{unlucky}, {len(left)} are left"
