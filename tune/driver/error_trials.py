"""Trials of a search or a table that are trained for their errors only: several at a time on one GPU.

Their times mean nothing.

A small model leaves most of a GPU idle, and its trial spends more time on the host than on the GPU. So a trial gets a
share of a GPU, by the memory that its gate and its training need at most, and two cores. Such trials have the tag
timing_valid="false". What compilers choose by timing is left to a process that has the GPU alone
(tune.engine.timed_choices). On a CPU one runs at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tune.cluster.share import Share
from tune.driver.collector import Collector
from tune.driver.gpu_leases import count_gpus
from tune.driver.launcher import Launcher
from tune.driver.listed import Listed
from tune.driver.warm_ups import MEMORY_SHARE, memory_gib
from tune.plan.plan import Plan, PlannedTrial

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

MOST_ON_A_GPU = 8
CORES_EACH = 2


def train(
    launcher: Launcher,
    collector: Collector,
    plan: Plan,
    trials: Sequence[PlannedTrial],
    scheduler: TrialScheduler | None,
) -> None:
    """Train `trials`, which the tracker knows, for their errors; `scheduler` may stop some early.

    Where `launcher.budget` is used up no other one begins: those have no end in the tracker.
    """
    most = at_a_time(launcher, plan)

    def suggestion(trial: PlannedTrial, followed: bool) -> dict[str, Any]:
        resources = resources_of(launcher.share, plan, trial)
        job = replace(
            launcher.job(trial, prepare_next=followed, fixed=scheduler is None),
            error_only=True,
            exclusive=False,
            may_hand_over=False,
            cpus=int(resources["CPU"]),
        )
        return {"job": job.as_dict(), "resources": resources}

    searcher = Listed(trials, suggestion, at_a_time=most, may_begin=launcher.may_begin(collector))
    launcher.run_suggested(searcher, scheduler, most, collector)


def at_a_time(launcher: Launcher, plan: Plan) -> int:
    """How many such trials run at a time, at most: large ones get more of a GPU than small ones."""
    import ray

    share = launcher.share
    if not share.gpus:
        return 1
    return min(share.at_a_time, max(1, count_gpus(ray, share))) * _most_on_a_gpu(share)


def resources_of(share: Share, plan: Plan, trial: PlannedTrial) -> dict[str, float]:
    """What Ray reserves for a trial: of a GPU as much as its memory is of what all may use, in steps of an equal part.

    A trial whose memory is not known gets a GPU alone.
    """
    if not share.gpus:
        return {"CPU": share.cpus}
    most, device, channels = _most_on_a_gpu(share), plan.device, plan.data_of(trial).channels
    parts = most
    if device.memory_gib is not None and channels is not None:
        needed = memory_gib(trial, device, channels) / (MEMORY_SHARE * device.memory_gib)
        parts = next(parts for parts in range(1, most + 1) if parts / most >= needed or parts == most)
    return {"CPU": min(CORES_EACH, share.cpus), "GPU": parts / most, **share.resources}


def _most_on_a_gpu(share: Share) -> int:
    cores = share.cpus * int(1 / share.gpus + 1e-9)  # of one GPU: a trial never spans two
    return max(1, min(MOST_ON_A_GPU, cores // CORES_EACH))
