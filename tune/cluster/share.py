"""The share of a cluster's CPUs and GPUs that one trial gets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from tune.cluster.autoscaler import ACCELERATOR, Node, Wanted, wait_for
from tune.common.errors import WrongInput


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one trial gets of the cluster, and how many run at a time."""

    cpus: int
    gpus: float
    at_a_time: int
    accelerator: str | None = None  # Ray's name of the GPU model that trials are pinned to; None: there is one model

    @property
    def resources(self) -> dict[str, float]:
        """Custom resources to ask Ray for: a sliver of the accelerator, which pins the trial to its nodes."""
        return {} if self.accelerator is None else {f"{ACCELERATOR}{self.accelerator}": 0.001}

    def fits(self, node: Node) -> bool:
        """Whether a node could run a trial if it were idle."""
        enough = node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus
        return enough and self.resources.keys() <= node.keys()

    @property
    def exclusive(self) -> bool:
        """Whether a trial has its device to itself."""
        return self.gpus == 1 or (self.gpus == 0 and self.at_a_time == 1)


def choose_share(
    ray: Any,
    *,
    gpus_per_trial: float | None,
    max_concurrent: int | None,
    joined: bool = False,
    gpu_model: str | None = None,
    wait_s: float = 0.0,
) -> Share:
    """Split the cluster among trials: one GPU each where there are GPUs, else one trial at a time on the CPU.

    joined: we did not start this cluster, so its workers may still join or be started by its autoscaler. They are asked
    for, and waited for up to `wait_s` seconds. gpu_model: which of the cluster's GPU models to use.

    Raises WrongInput for a request that the cluster can never meet (Tune would wait without limit), for a joined
    cluster without GPUs unless the CPU was asked for, for several trials at a time on a CPU, for a GPU model that the
    cluster lacks, and for GPUs of several models, whose times cannot be compared, if none was chosen.
    """
    per_trial = check_gpus_per_trial(gpus_per_trial)
    if per_trial == 0:
        _check_one_at_a_time(max_concurrent)
    wanted = _wanted(per_trial, max_concurrent, gpu_model)
    nodes = wait_for(ray, wanted, limit_s=wait_s if joined else 0.0)
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if per_trial == 0 or (per_trial is None and gpu_model is None and not with_gpus and not joined):
        return _cpu_share(nodes, max_concurrent, wait_s=wait_s)
    if not with_gpus and joined:
        seen = f"no GPU (nodes: {len(nodes)}, CPUs: {sum(node.get('CPU', 0) for node in nodes):g})"
        raise WrongInput(
            f"the cluster has {seen}, also after --wait-for-gpus {wait_s:g} seconds: see `ray status` for what is "
            "starting or was refused; --gpus-per-trial 0 runs on the CPU"
        )
    if not with_gpus:
        asked = f"--gpus-per-trial {per_trial:g}" if per_trial is not None else f"--gpu-model {gpu_model}"
        raise WrongInput(f"{asked}: Ray sees no GPU on this machine; --gpus-per-trial 0 alone runs on the CPU")
    chosen = _of_one_model(with_gpus, gpu_model)
    share = _gpu_share(chosen, 1.0 if per_trial is None else per_trial, max_concurrent)
    return share if gpu_model is None else replace(share, accelerator=gpu_model)


def _wanted(per_trial: float | None, max_concurrent: int | None, gpu_model: str | None) -> Wanted:
    """What to wait for: GPUs for `max_concurrent` trials at a time (default 1), or one node with a CPU."""
    if per_trial == 0:
        return Wanted(gpu=False)
    at_a_time = 1 if max_concurrent is None else max_concurrent
    return Wanted(gpu=True, count=math.ceil(at_a_time / _trials_per_gpu(per_trial or 1.0)), model=gpu_model)


def _trials_per_gpu(per_trial: float) -> int:
    return int(1 / per_trial + 1e-9)  # a trial never spans two GPUs


def _of_one_model(nodes: list[Node], wanted: str | None) -> list[Node]:
    """The nodes with GPUs of the wanted model; all nodes if none is wanted and they have one model.

    GPUs whose model Ray does not know count as one more model.
    """
    of_nodes = [{key.removeprefix(ACCELERATOR) for key in node if key.startswith(ACCELERATOR)} for node in nodes]
    models = sorted(set().union(*of_nodes))
    unknown = [] if all(of_nodes) else ["of no model that Ray knows"]
    known = ", ".join(models + unknown)
    if wanted is None and len(models + unknown) > 1:
        raise WrongInput(
            f"the cluster has GPUs of several models ({known}), whose times cannot be compared; choose one with "
            "--gpu-model"
        )
    if wanted is not None and wanted not in models:
        raise WrongInput(f"--gpu-model {wanted}: the cluster has none; its GPUs are {known}")
    return nodes if wanted is None else [node for node in nodes if f"{ACCELERATOR}{wanted}" in node]


def _cpu_share(nodes: list[Node], max_concurrent: int | None, *, wait_s: float) -> Share:
    """One trial at a time, with all CPUs of the largest node."""
    _check_one_at_a_time(max_concurrent)
    cpus = max((int(node.get("CPU", 0)) for node in nodes), default=0)
    if cpus < 1:
        raise WrongInput(
            f"no node has a CPU for a trial, also after --wait-for-gpus {wait_s:g} seconds: see `ray status` for what "
            "is starting or was refused"
        )
    return Share(cpus=cpus, gpus=0, at_a_time=1)


def _check_one_at_a_time(max_concurrent: int | None) -> None:
    if max_concurrent is not None and max_concurrent > 1:
        raise WrongInput(
            f"--max-concurrent {max_concurrent}: on a CPU one trial runs at a time, or times would not be comparable; "
            "leave it out"
        )


def _gpu_share(nodes: list[Node], per_trial: float, max_concurrent: int | None) -> Share:
    """The same CPUs for every trial: as many as the GPU node with the fewest CPUs per trial has."""
    trials_per_gpu = _trials_per_gpu(per_trial)
    slots = [(int(node.get("CPU", 0)), int(node["GPU"]) * trials_per_gpu) for node in nodes]
    slots = [(cpus, trials) for cpus, trials in slots if cpus >= 1]
    if not slots:
        raise WrongInput("the nodes with GPUs have no CPU left for trials: give them at least one CPU per GPU")
    cpus_each = max(1, min(cpus // trials for cpus, trials in slots))
    fitting = sum(min(trials, cpus // cpus_each) for cpus, trials in slots)
    return Share(cpus=cpus_each, gpus=per_trial, at_a_time=min(fitting, max_concurrent or fitting))


def check_gpus_per_trial(given: float | None) -> float | None:
    """`given`, if a trial can use that many GPUs; else raises WrongInput."""
    if given is not None and not 0 <= given <= 1:
        raise WrongInput(f"--gpus-per-trial {given:g}: a trial uses one GPU; give 1, 0 for the CPU, or a share below 1")
    return given
