"""Before the first timed trial all arms pass the gate and compile at once, in processes that train nothing.

Compiling waits for a core, not for the GPU: on a host with 16 cores four arms at once took as long as one
(docs/measurements.md). An arm's gate and its training compile different code, so each has a process of its own. A
warm-up leaves nothing but files, gate results and compiled code, and carries no times. What fails in one is recorded
nowhere: the arm's first trial then does the same alone on its GPU, and what it meets there counts.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from model.pruning import SCORES
from tune.common import signals
from tune.common.files import make_private, write_atomically
from tune.driver.gpu_leases import count_gpus
from tune.driver.launcher import Launcher
from tune.gate.memory import reference_bytes
from tune.machine.code_identity import packages_sha256
from tune.machine.device import GIB, DeviceFacts
from tune.plan.memory import training_gib
from tune.plan.plan import Plan, PlannedTrial
from tune.trial.job import GATE, TRAINING

LOOK_S = 1.0  # how long a signal may wait
LONGEST_S = 900.0  # of a wave: what has not ended by then is given up, as a gate that another trial measures is
# Parts of warm-ups that run on a core at a time. Such a part is one process for most of its time, and a second wave
# takes as long as the first (docs/measurements.md): so one wave that shares cores a little is shorter.
PARTS_OF_A_CORE = 1.5
MEMORY_SHARE = 0.8  # of a GPU, for all warm-ups on it
ABOVE_REFERENCE = 2.0  # a warm-up's memory: so many times the gate's fp64 step,
CONTEXT_GIB = 1.0  # and the device's context
SCORED = 2.0  # what scoring heads takes beside a training step: as much again; reckoned, not measured
HOST_GIB = 3.0  # of the node's memory, for each process; reckoned generously, not measured
FOLDER = "warmed"  # beside the caches: one file for each arm that was warmed up


def warm_up_together(
    launcher: Launcher,
    plan: Plan,
    left: Sequence[PlannedTrial],
    say: Callable[[str], None],
    *,
    probe_steps: int = 0,
) -> None:
    """Warm up the arms of the trials that are `left`, unless an earlier sweep has, or only one could run at a time.

    say: is given a line for each. probe_steps: of the probes that the warm-up is for; 0: it is for trials.
    """
    import ray

    if launcher.isolate or not launcher.share.exclusive:
        return
    notes = _Notes(launcher, probing=probe_steps > 0)
    new = [trial for trial in _one_of_each(left) if not notes.has(trial)]
    parts = _parts(new)
    at_a_time = _at_a_time(ray, launcher, plan, parts)
    if at_a_time < 2:
        return
    first = "probe" if probe_steps else "trial"
    say(f"{len(new)} arms pass the gate and compile, {at_a_time} processes at a time; the first {first} follows")
    task = _task(ray, launcher, at_a_time)
    arms = {trial.arm: _Arm(parts=sum(trial in part.trials for part in parts)) for trial in new}
    for wave in _waves(parts, at_a_time):
        jobs = [launcher.warm_up_job(part.trials[0], part.kind, probe_steps, at_a_time).as_dict() for part in wave]
        for part, took_s, problem in _results(ray, dict(zip(map(task.remote, jobs), wave, strict=True))):
            for trial in part.trials:
                arm = arms[trial.arm]
                arm.ended(took_s, problem)
                if arm.parts:
                    continue
                number = f"[{sum(not arm.parts for arm in arms.values())}/{len(arms)} warm]"
                if arm.problem is None:
                    notes.write(trial)
                    say(f"{number} {trial.arm} in {arm.took_s:.0f} s")
                else:
                    say(f"{number} {trial.arm} not: {arm.problem}; its first {first} tries again, alone")


@dataclass(kw_only=True)
class _Arm:
    """How far an arm's warm-up is."""

    parts: int  # that have not ended
    took_s: float = 0.0  # the longest so far
    problem: str | None = None  # the first one

    def ended(self, took_s: float, problem: str | None) -> None:
        self.parts -= 1
        self.took_s, self.problem = max(self.took_s, took_s), self.problem or problem


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process does."""

    kind: str  # GATE or TRAINING
    trials: tuple[PlannedTrial, ...]  # of the arms that it is for


def warm(launcher: Launcher, trials: Sequence[PlannedTrial], *, probing: bool) -> list[PlannedTrial]:
    """Those of the trials whose arms have been warmed up."""
    notes = _Notes(launcher, probing=probing)
    return [trial for trial in trials if notes.has(trial)]


def _parts(new: Sequence[PlannedTrial]) -> list[Part]:
    """What the arms need: compiled code, where their engines compile, and the gate. They take about equally long.

    Arms that differ in their feed share a gate; in their number of workers, what they compile too. The first have to
    wait for their turn to time kernels, so they come first.
    """
    compiling = [trial for trial in new if trial.config.compiles]
    trainings, gates = _alike(compiling, {"num_workers"}), _alike(new, {"feed", "num_workers"})
    return [
        *(Part(kind=TRAINING, trials=each) for each in trainings),
        *(Part(kind=GATE, trials=each) for each in gates),
    ]


def _alike(trials: Sequence[PlannedTrial], ignored: set[str]) -> list[tuple[PlannedTrial, ...]]:
    """Groups of trials that differ in their seeds and in these fields of their data only."""
    groups: dict[str, tuple[PlannedTrial, ...]] = {}
    for trial in trials:
        content = _content(trial)
        content["data"] = {name: value for name, value in content["data"].items() if name not in ignored}
        key = json.dumps(content, sort_keys=True)
        groups[key] = (*groups.get(key, ()), trial)
    return list(groups.values())


def _waves(parts: Sequence[Part], at_a_time: int) -> list[Sequence[Part]]:
    """As few groups of at most `at_a_time` as possible, about equally large.

    A wave ends before the next one begins: a newcomer would keep those of the wave before from timing kernels, which
    they do once nobody compiles on their GPU (tune/trial/turns.py).
    """
    size = math.ceil(len(parts) / math.ceil(len(parts) / at_a_time))
    return [parts[at : at + size] for at in range(0, len(parts), size)]


def _results(ray: Any, running: dict[Any, Part]) -> Iterator[tuple[Part, float, str | None]]:
    """Each part as it ends, with the seconds that it took, and why it did not come to its end."""
    importlib.import_module("ray.tune")  # takes 2 s, which pass anyway
    began_s = time.monotonic()
    while running:
        with signals.calls_into_library():
            done, _ = ray.wait(list(running), timeout=LOOK_S)
        if done:
            yield running.pop(done[0]), *_result(ray, done[0])
        elif time.monotonic() - began_s > LONGEST_S:
            for reference in running:
                ray.cancel(reference, force=True)
            for part in running.values():
                yield part, LONGEST_S, f"it took longer than {LONGEST_S:.0f} s"
            return


def _one_of_each(trials: Sequence[PlannedTrial]) -> list[PlannedTrial]:
    """The first trial of each group that compiles the same: those that differ in their seed only."""
    return list({_identity(trial): trial for trial in reversed(trials)}.values())[::-1]


def _identity(trial: PlannedTrial) -> str:
    return json.dumps(_content(trial), sort_keys=True)


def _content(trial: PlannedTrial) -> dict[str, Any]:
    content = trial.config.model_dump(mode="json")
    del content["train"]["seed"]
    return content


def _at_a_time(ray: Any, launcher: Launcher, plan: Plan, parts: Sequence[Part]) -> int:
    """How many parts may run at once: bounded by cores, by the GPUs' memory and by their number."""
    share = launcher.share
    devices = min(share.at_a_time, max(1, count_gpus(ray, share))) if share.gpus else 1
    fit = fit_in_memory(plan, [(part.kind, part.trials[0]) for part in parts])
    return min(len(parts), devices * min(int(share.cpus * PARTS_OF_A_CORE), fit, fit_on_host(plan.device)))


def fit_in_memory(plan: Plan, processes: Sequence[tuple[str, PlannedTrial]]) -> int:
    """How many of these processes (GATE or TRAINING, and for which trial) fit on a GPU together, the largest at worst.

    At least 1.
    """
    device = plan.device
    if device.device_type == "cpu":
        return len(processes)
    channels = [plan.data_of(trial).channels for _, trial in processes]
    if not processes or device.memory_gib is None or None in channels:
        return 1
    of_parts = sorted(
        (
            _process_gib(kind, trial, device, count or 1)
            for (kind, trial), count in zip(processes, channels, strict=True)
        ),
        reverse=True,
    )
    return max(1, sum(total <= MEMORY_SHARE * device.memory_gib for total in accumulate(of_parts)))


def fit_on_host(device: DeviceFacts) -> int:
    """How many warm-ups for each of its GPUs a node's free memory holds; at least 1, also if it is not known."""
    return 1 if device.host_free_gib is None else max(1, int(device.host_free_gib / HOST_GIB / max(1, device.gpus)))


def _process_gib(kind: str, trial: PlannedTrial, device: DeviceFacts, channels: int) -> float:
    """What one process needs; of one that trains, with a pruning score's own step without an engine."""
    trained = training_gib(trial.config, device, channels, None)
    if kind == GATE or trained is None:
        return memory_gib(trial, device, channels)
    return trained * (SCORED if trial.config.pruning.score in SCORES else 1)


def memory_gib(trial: PlannedTrial, device: DeviceFacts, channels: int) -> float:
    """The memory that a trial needs at most, which is its gate's, estimated. On a device of known memory."""
    fields, batch = trial.config.builder_fields(channels), trial.config.train.batch_size
    assert device.memory_gib is not None
    return CONTEXT_GIB + ABOVE_REFERENCE * reference_bytes(fields, fields["num_heads"], batch) / GIB


def _task(ray: Any, launcher: Launcher, at_a_time: int) -> Any:
    share = launcher.share
    devices = min(share.at_a_time, max(1, count_gpus(ray, share))) if share.gpus else 1
    each = math.ceil(at_a_time / devices)
    resources = {"num_cpus": share.cpus / each, "num_gpus": share.gpus / each, "resources": share.resources}
    # Ray would try again without end what a node's lack of memory has ended; the arm's first trial does, alone
    return ray.remote(max_calls=1, max_retries=0, scheduling_strategy="SPREAD", **resources)(_warm_up_here)


def _result(ray: Any, reference: Any) -> tuple[float, str | None]:
    from ray.exceptions import RayError

    try:
        took_s, problem = ray.get(reference)
    except RayError as error:  # its worker or node was lost
        return 0.0, str(error).strip().splitlines()[0]
    return took_s, problem


def _warm_up_here(values: dict[str, Any]) -> tuple[float, str | None]:
    """Runs on a node, in a Ray worker: the seconds that it took, and why it did not come to its end."""
    import os
    import tempfile

    import ray

    from tune.trial.job import TrialJob
    from tune.worker.prober import session_folder
    from tune.worker.supervisor import TrialSupervisor

    job = TrialJob.from_dict(values)
    with tempfile.TemporaryDirectory(dir=session_folder()) as folder:
        os.chdir(folder)
        node_socket = job.fork_servers.get(ray.get_runtime_context().get_node_id())
        try:
            return TrialSupervisor().warm_up(job, node_socket=node_socket)
        finally:
            os.chdir("/")


class _Notes:
    """Which arms have been warmed up in this storage path, by this code, for this device and these packages.

    probing: for a probe, which needs the last shape alone of an arm that loses heads during its training.
    """

    def __init__(self, launcher: Launcher, *, probing: bool = False) -> None:
        self._probing = probing
        self._folder: Path = launcher.caches / FOLDER
        environment = launcher.folder.read()["environment"]
        self._about = [packages_sha256(), *(environment.get(name) for name in ("device", "versions"))]

    def _file(self, trial: PlannedTrial) -> Path:
        last_shape_only = self._probing and trial.config.pruning.score in SCORES
        purpose = ["last shape"] if last_shape_only else []
        about = json.dumps([self._about, _identity(trial), *purpose], sort_keys=True, default=str)
        return self._folder / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.json"

    def has(self, trial: PlannedTrial) -> bool:
        return self._file(trial).exists()

    def write(self, trial: PlannedTrial) -> None:
        make_private(self._folder, "notes on warm-ups")
        write_atomically(
            self._file(trial), json.dumps({"arm": trial.arm, "config": json.loads(_identity(trial))}, indent=1)
        )
