"""Ray: connect, look at the node that will run the trials, decide what a trial gets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tune.errors import WrongInput
from tune.hardware import CODE, REPO_ROOT, DeviceFacts, available_cpus, environment, has_gpu, node_facts

PACKAGE_DIRS = [str(REPO_ROOT / entry) for entry in CODE if not entry.endswith(".py")]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one trial gets of the cluster, and how many run at a time."""

    cpus: int
    gpus: float
    at_a_time: int

    @property
    def exclusive(self) -> bool:
        """Whether a trial has its device to itself."""
        return self.gpus == 1 or (self.gpus == 0 and self.at_a_time == 1)


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray joined at `address`, or started on this machine; shut down at the end. Our packages travel to the workers."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # results go through the outbox
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints to stdout even at verbose=0
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"num_cpus": available_cpus(), "include_dashboard": False}
    else:
        options["address"] = address
    try:
        ray.init(runtime_env={"py_modules": PACKAGE_DIRS}, **options)
    except (ConnectionError, ValueError) as error:
        raise WrongInput(
            f"--address {address}: {str(error).splitlines()[0]}; is a Ray cluster running there?"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def choose_share(ray: Any, *, gpus_per_trial: float | None, max_concurrent: int | None) -> Share:
    """Split the cluster among trials: one GPU each where there are GPUs, else one trial at a time on the CPU.

    Raises WrongInput for a request that the cluster can never meet (Tune would wait for ever) and for GPUs of several
    models, whose times cannot be compared.
    """
    total = ray.cluster_resources()
    gpus, cpus = total.get("GPU", 0), int(total.get("CPU", 0))
    per_trial = check_gpus_per_trial(gpus_per_trial)
    if per_trial is None:
        per_trial = float(gpus > 0)
    if per_trial > gpus:
        raise WrongInput(f"--gpus-per-trial {per_trial:g}: the cluster has {gpus:g} GPUs; give 0 to run on the CPU")
    if per_trial == 0:
        return Share(cpus=max(1, _largest_node_cpus(ray)), gpus=0, at_a_time=1)
    models = sorted(name.removeprefix("accelerator_type:") for name in total if name.startswith("accelerator_type:"))
    if len(models) > 1:
        raise WrongInput(
            f"the cluster has GPUs of several models ({', '.join(models)}), whose times cannot be compared"
        )
    fitting = int(gpus / per_trial)
    at_a_time = min(fitting, max_concurrent or fitting)
    return Share(cpus=max(1, cpus // fitting), gpus=per_trial, at_a_time=at_a_time)


def check_gpus_per_trial(given: float | None) -> float | None:
    """`given` if a trial can use that many GPUs; WrongInput otherwise."""
    if given is not None and not 0 <= given <= 1:
        raise WrongInput(f"--gpus-per-trial {given:g}: a trial uses one GPU; give 1, 0 for the CPU, or a share below 1")
    return given


def _largest_node_cpus(ray: Any) -> int:
    return max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])


def probe(ray: Any, share: Share) -> tuple[DeviceFacts, dict[str, Any]]:
    """Device facts and environment, read by a task on a node of the kind that will run the trials.

    Raises WrongInput if the node has a GPU that torch cannot use.
    """
    task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_calls=1)(_probe_here)
    facts, found, problem = ray.get(task.remote(share.gpus > 0))
    if problem:
        raise WrongInput(problem)
    return facts, found


def _probe_here(use_gpu: bool) -> tuple[DeviceFacts | None, dict[str, Any], str | None]:
    import torch

    if use_gpu and not torch.cuda.is_available():
        problem = f"the node has a GPU but torch {torch.__version__} cannot use it"
        return None, {}, f"{problem}; install a CUDA build of torch, or give --gpus-per-trial 0"
    return node_facts(use_gpu=use_gpu), environment(), None


def assumed_facts(gpus_per_trial: float | None) -> DeviceFacts:
    """This machine's own device, for a plan that asks no cluster."""
    return node_facts(use_gpu=gpus_per_trial != 0 and has_gpu(), assumed=True)
