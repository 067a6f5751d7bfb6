"""Runs planned trials through Ray Tune: a fixed list, blocks with one GPU each, or a search."""

from __future__ import annotations

import functools
import gc
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.cluster.share import Share
from tune.common import signals
from tune.common.secrets import looks_secret
from tune.driver.blocks import Assignment, Blocks
from tune.driver.budget import Budget
from tune.driver.collector import Collector
from tune.driver.entry import Entry, trial_entry
from tune.driver.gpu_leases import GpuLeases
from tune.driver.listed import Listed, MayBegin
from tune.driver.watchdogs import DriverNodeWatchdog, SignalWatchdog, TrialNodesWatchdog
from tune.machine.code_identity import packages_sha256
from tune.plan.plan import PlannedTrial
from tune.storage.check_folder import cache_place
from tune.storage.steps_file import FOLDER as STEPS
from tune.storage.sweep_dir import SweepDir
from tune.trial.job import TrialJob
from tune.worker.node_forkserver import NodeForkServers

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher


PENDING = "TUNE_MAX_PENDING_TRIALS_PG"  # Tune's setting: how many trials may wait for their actor
MAX_RETRIES = 2  # after the loss of a trial's process or node


@contextmanager
def _all_at_once(trials: int) -> Iterator[None]:
    """Inside, so many actors may start at the same time. With a searcher Tune starts one after another."""
    before = os.environ.get(PENDING)
    os.environ[PENDING] = str(trials)
    try:
        yield
    finally:
        os.environ.pop(PENDING)
        if before is not None:
            os.environ[PENDING] = before


def _own_resources(config: dict[str, Any]) -> Any:
    from ray import tune as ray_tune

    return ray_tune.PlacementGroupFactory([config["resources"]])


def _give_back() -> None:
    """Let Ray's objects give back what the run that has ended held, before another thread's garbage collection does.

    After a signal Ray may be gone. They would wait for it, and with them the thread that collects them: MLflow's sender
    did. So they keep all then, and the end of the driver's job gives it back.
    """
    from ray.air.execution.resources.placement_group import PlacementGroupResourceManager

    if signals.received() is None:
        gc.collect()
    else:
        PlacementGroupResourceManager.__del__ = lambda _: None


def _trial_name(trial: Any) -> str:
    """Also names the trial's folder: a trial that moved gets another, or its checkpoints would be mixed up."""
    name, attempt = str(trial.config["job"]["trial_id"]), trial.config.get("attempt", 1)
    return name if attempt == 1 else f"{name}-moved-{attempt - 1}"


def _keep_secrets_from_actors() -> None:
    """Tune copies AWS keys of this process into its actors' runtime environment, which Ray writes into its logs."""
    from ray.tune.execution import class_cache

    names = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not looks_secret(name, os.environ.get(name, ""))}
    class_cache.ENV_VARS_TO_PROPAGATE = names


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Runs trials of one sweep. Its fields are what all of them have in common."""

    folder: SweepDir
    share: Share  # what a trial gets, and how many run at a time
    device_type: str
    gpu_name: str | None  # of the GPU that the plan was made for; None on a CPU
    data_dir: Path  # absolute
    cache_dir: Path  # absolute
    data_sha256: str  # of the source file that was planned with
    data_sha256_of: Mapping[str, str] = field(default_factory=dict)  # the same of a table, by data set
    wait_s: float = 0.0  # how long a cluster that has lost all nodes for trials may take to bring one
    save_forecasts: bool = False  # whether each trial's forecasts of the test set are kept
    isolate: bool = False  # whether each trial gets a cold process and empty caches
    fork_servers: NodeForkServers | None = None  # the nodes' own; None: each actor starts one
    budget: Budget = field(default_factory=Budget)  # the time of this command
    entry: Entry = trial_entry

    def job(
        self, trial: PlannedTrial, *, prepare_next: bool, moved_because: str | None = None, fixed: bool = False
    ) -> TrialJob:
        """The job of `trial`, which continues from the trial's newest checkpoint if there is one.

        fixed: whether only the trial itself decides when it ends. On a GPU it then trains on while an epoch is
        reported; on a CPU the processes that report it would slow down the next epoch.
        """
        return TrialJob(
            trial_id=trial.trial_id,
            config=trial.config,
            device_type=self.device_type,
            data_dir=str(self.data_dir),
            cache_dir=str(self.cache_dir),
            cpus=self.share.cpus,
            exclusive=self.share.exclusive,
            data_sha256=self.data_sha256_of.get(trial.config.data.dataset, self.data_sha256),
            gate_dir=None if self.isolate else str(self.caches / "gate"),
            resume_from=self.folder.checkpoints(trial.trial_id),
            sweep_id=self.folder.sweep_id,
            steps_file=str(self.folder.path / STEPS / trial.trial_id),
            packages_sha256=packages_sha256(),
            gpu_name=self.gpu_name,
            compile_dir=str(self._isolated if self.isolate else self.caches / "compile"),
            save_forecasts=self.save_forecasts,
            isolate=self.isolate,
            prepare_next=prepare_next,
            moved_because=moved_because,
            may_hand_over=self.device_type == "cuda",
            awaits_answer=not fixed or self.device_type == "cpu",
            fork_servers={} if self.fork_servers is None else self.fork_servers.sockets,
        )

    @functools.cached_property
    def caches(self) -> Path:
        """The folder of the caches that trials of all sweeps share."""
        return cache_place(self.folder.path.parent)

    def warm_up_job(self, trial: PlannedTrial, part: str, probe_steps: int, at_a_time: int) -> TrialJob:
        """The job that fills the caches for `trial`, beside those of other arms."""
        return replace(
            self.job(trial, prepare_next=False),
            warm_up=part,
            probe_steps=probe_steps,
            resume_from=(),
            exclusive=False,
            cpus=max(1, self.share.cpus // at_a_time),
        )

    @functools.cached_property
    def _isolated(self) -> Path:
        """The folder of each isolated trial's own cache while it runs."""
        return cache_place(self.folder.path) / "isolated"

    def run(
        self,
        trials: Sequence[PlannedTrial],
        collector: Collector,
        *,
        in_blocks: bool = False,
        needed: Callable[[Iterable[PlannedTrial]], list[PlannedTrial]] = list,
        announce: Callable[[Sequence[PlannedTrial]], None] = lambda trials: None,
    ) -> None:
        """Run `trials` in their order (FIFO). in_blocks: run those of one seed on one GPU.

        needed: which of the trials of blocks have to run, asked again before each. announce: is given each of these
        before it begins.

        Blocks are kept with a single GPU too: a resumed block continues where it began, whatever GPUs there are then.
        """
        if in_blocks and self.share.gpus == 1:
            self._run_blocks(trials, collector, needed, announce)
            return
        resources = {"CPU": self.share.cpus, "GPU": self.share.gpus, **self.share.resources}

        def suggestion(trial: PlannedTrial, followed: bool) -> dict[str, Any]:
            job = self.job(trial, prepare_next=followed, fixed=True)
            return {"job": job.as_dict(), "resources": resources}

        most, may_begin = self.share.at_a_time, self.may_begin(collector)
        searcher = Listed(trials, suggestion, at_a_time=most, may_begin=may_begin, in_blocks=in_blocks)
        self.run_suggested(searcher, None, most, collector)

    def may_begin(self, collector: Collector) -> MayBegin:
        """Whether a block's trials may begin: all of them must fit into the command's time, as far as is known.

        The trials of a block that has begun go on while there is any time: a part of a block makes few pairs.
        """

        def fits(block: Sequence[PlannedTrial], begun: bool) -> bool:
            if self.budget.minutes is None or begun:
                return self.budget.allows()
            return self.budget.allows(collector.expected_s([trial.trial_id for trial in block]))

        return fits

    def _run_blocks(
        self,
        trials: Sequence[PlannedTrial],
        collector: Collector,
        needed: Callable[[Iterable[PlannedTrial]], list[PlannedTrial]],
        announce: Callable[[Sequence[PlannedTrial]], None],
    ) -> None:
        import ray

        from tune.driver.dispatcher import BlockScheduler, Dispatcher

        begun = self.folder.blocks()
        may_begin, record = self.may_begin(collector), self.folder.save_blocks
        blocks = Blocks(trials, begun=begun, record=record, needed=needed, may_begin=may_begin)
        seeds = {str(trial.seed) for trial in trials}
        wanted = {begun[seed] for seed in seeds & begun.keys()}
        with GpuLeases(ray, self.share, most=min(self.share.at_a_time, len(seeds)), wanted=wanted) as leases:
            dispatcher = Dispatcher(blocks, leases, self._job_of, announce)
            how: dict[str, Any] = {"search_alg": dispatcher, "scheduler": BlockScheduler(dispatcher), "num_samples": -1}
            self._fit(collector, None, len(leases), **how)

    def _job_of(self, assignment: Assignment) -> TrialJob:
        moved_because = assignment.moved_because
        return self.job(assignment.trial, prepare_next=assignment.followed, moved_because=moved_because, fixed=True)

    def run_suggested(
        self, searcher: Searcher, scheduler: TrialScheduler | None, at_a_time: int, collector: Collector
    ) -> None:
        """Run what `searcher` suggests as {"job", "resources"}, up to its end; `scheduler` may stop some early."""
        how: dict[str, Any] = {"search_alg": searcher, "scheduler": scheduler, "num_samples": -1}
        with _all_at_once(at_a_time):
            self._fit(collector, None, at_a_time, **how)

    def _fit(
        self,
        collector: Collector,
        resources: dict[str, float] | None,
        at_a_time: int,
        *,
        param_space: dict[str, Any] | None = None,
        **how: Any,
    ) -> None:
        """Run Tune to its end. resources: what Ray gives to a trial; None: as each trial's configuration says."""
        from ray import tune as ray_tune

        tuner = ray_tune.Tuner(
            ray_tune.with_resources(self.entry, _own_resources if resources is None else resources),
            param_space=param_space or {},
            tune_config=ray_tune.TuneConfig(
                max_concurrent_trials=at_a_time,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
                reuse_actors=True,  # an actor computes nothing: each trial has a fresh process (worker/supervisor.py)
                **how,
            ),
            run_config=ray_tune.RunConfig(
                name=self.folder.next_attempt(),
                storage_path=str(self.folder.path),
                callbacks=[
                    SignalWatchdog(),
                    collector,
                    DriverNodeWatchdog(),
                    TrialNodesWatchdog(self.share.fits, self.wait_s, collector.say),
                ],
                stop=collector.stop,
                verbose=0,
                failure_config=ray_tune.FailureConfig(max_failures=MAX_RETRIES),
            ),
        )
        _keep_secrets_from_actors()
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # tracebacks of what we say in a line ourselves
        shutil.rmtree(self._isolated, ignore_errors=True)  # left by a killed run
        try:
            with signals.calls_into_library():
                tuner.fit()
        finally:
            _give_back()
            shutil.rmtree(self._isolated, ignore_errors=True)
