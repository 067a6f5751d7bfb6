"""Ray: connect, look at the node that will run the trials, decide what a trial gets."""

from __future__ import annotations

import math
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tune.errors import WrongInput
from tune.hardware import (
    CODE,
    REPO_ROOT,
    DeviceFacts,
    available_cpus,
    environment,
    has_gpu,
    missing_packages,
    node_facts,
)
from tune.private import check_token_file, make_private
from tune.workers import ACCELERATOR, Node, Wanted, wait_for

CONNECT_S = 4.0  # an address where nothing answers within this is refused
PROBE_HINT_S = 120.0  # a probe that has not run by then says on stderr what it waits for
PROBE_LIMIT_S = 600.0  # and is given up after this
PACKAGE_DIRS = [str(REPO_ROOT / entry) for entry in CODE if not entry.endswith(".py")]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one trial gets of the cluster, and how many run at a time."""

    cpus: int
    gpus: float
    at_a_time: int
    accelerator: str | None = None  # Ray's name of the GPU model that trials are pinned to; None: there is one model

    @property
    def resources(self) -> dict[str, float]:
        """What Ray is asked for, beside CPUs and GPUs: a sliver of the accelerator, which pins to its nodes."""
        return {} if self.accelerator is None else {f"{ACCELERATOR}{self.accelerator}": 0.001}

    def fits(self, node: Node) -> bool:
        """Whether a node could run a trial once nobody else uses it."""
        enough = node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus
        return enough and self.resources.keys() <= node.keys()

    @property
    def exclusive(self) -> bool:
        """Whether a trial has its device to itself."""
        return self.gpus == 1 or (self.gpus == 0 and self.at_a_time == 1)


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray joined at `address`, or started on this machine; shut down at the end. Our packages travel to the workers.

    Raises WrongInput where nothing answers at `address`, or Ray can neither join nor start.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # results go through the outbox
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "inf")  # the state of all trials, which we never read back
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints to stdout even at verbose=0
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is not None:
        _check_address(address)  # Ray itself retries for minutes where nothing listens
    check_token_file()
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:  # "local", or Ray would join what RAY_ADDRESS or somebody's `ray start` on this machine names
        options |= {"address": "local", "num_cpus": available_cpus(), "include_dashboard": False}
        options["_temp_dir"] = str(_session_folder())
    else:
        options["address"] = address
    try:
        with nullcontext() if address is not None else _on_loopback():
            ray.init(runtime_env={"py_modules": PACKAGE_DIRS}, **options)
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError (versions), plain Exception, ...
        ray.shutdown()
        if address is None:
            problem = f"Ray did not start on this machine: {_first_line(error)}"
            raise WrongInput(f"{problem}; its logs lie in {options['_temp_dir']}/session_latest/logs") from error
        raise WrongInput(f"--address {address}: {_first_line(error)}; is a Ray cluster running there?") from error
    try:
        check_token_file()  # Ray may just have written it
        yield ray
    finally:
        ray.shutdown()


def _session_folder() -> Path:
    """Where a Ray of ours keeps its sockets, logs and our code: inside of a folder that only we can enter.

    Ray opens its own folder to everybody, and its workers run the code that lies there. Names are short, as the paths
    of sockets are limited. WrongInput where others may write to the folder.
    """
    from ray._common.utils import get_default_ray_temp_dir

    own = Path(get_default_ray_temp_dir()).with_name(f"ray-{os.getuid()}")
    problem = f"{own} is a link, so its sessions are not trusted" if own.is_symlink() else None
    try:
        if problem is None:
            make_private(own, "sessions")
            own.chmod(0o700)  # its owner's from before may be readable
    except (OSError, RuntimeError) as error:
        problem = _first_line(error)
    if problem:
        raise WrongInput(f"Ray did not start on this machine: {problem}; or name another folder in RAY_TMPDIR")
    return own / "s"


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that starts inside listens on 127.0.0.1 only, as Ray's own do on a Mac; on Linux they take all interfaces.

    A constant of Ray's that it reads from the environment once, when it is imported, which has happened by now.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _check_address(address: str) -> None:
    """Raises WrongInput within CONNECT_S seconds where nothing listens; finding a cluster for `auto` is left to Ray."""
    given, place = _place(address)
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=CONNECT_S).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise WrongInput(
            f"{given}: nothing answers there ({reason}); is a Ray cluster running? Without --address Ray starts here"
        ) from None


def check_address_form(address: str) -> None:
    """Raises WrongInput for an address that is none; asks nobody."""
    _place(address)


def _place(address: str) -> tuple[str, tuple[str, int] | None]:
    """The address in words, and its host and port; None for `auto`. WrongInput for what is no address."""
    target = address if address != "auto" else os.environ.get("RAY_ADDRESS") or "auto"
    given = f"--address {address}" if target == address else f"--address {address} (RAY_ADDRESS={target})"
    if target == "auto":
        return given, None
    host, _, port = target.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise WrongInput(f"{given}: write HOST:PORT, ray://HOST:PORT or auto; without --address Ray starts here")
    return given, (host.strip("[]"), int(port))


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


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

    `joined`: the cluster was there before us, so workers may still be on their way to it, or be started for us:
    they are asked for, and waited for up to `wait_s` seconds. `gpu_model`: the one of the cluster's GPU models to use.
    Raises WrongInput for a request that the cluster can never meet (Tune would wait for ever), for a joined cluster
    without GPUs unless the CPU was asked for, for several trials at a time on a CPU, for a GPU model that the cluster
    lacks, and for GPUs of several models, whose times cannot be compared, where none of them was chosen.
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
    """What trials need to start: one GPU, or as many as trials are to run at a time; else one node with a CPU."""
    if per_trial == 0:
        return Wanted(gpu=False)
    at_a_time = 1 if max_concurrent is None else max_concurrent
    return Wanted(gpu=True, count=math.ceil(at_a_time / _trials_per_gpu(per_trial or 1.0)), model=gpu_model)


def _trials_per_gpu(per_trial: float) -> int:
    return int(1 / per_trial + 1e-9)  # a trial never spans two GPUs


def _of_one_model(nodes: list[Node], wanted: str | None) -> list[Node]:
    """The nodes with GPUs of the wanted model; all of them where none is wanted and there is one model only.

    GPUs whose model Ray does not know count as one more.
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
    """The same CPUs for every trial: what the GPU node with the fewest CPUs per trial can give."""
    trials_per_gpu = _trials_per_gpu(per_trial)
    slots = [(int(node.get("CPU", 0)), int(node["GPU"]) * trials_per_gpu) for node in nodes]
    slots = [(cpus, trials) for cpus, trials in slots if cpus >= 1]
    if not slots:
        raise WrongInput("the nodes with GPUs have no CPU left for trials: give them at least one CPU per GPU")
    cpus_each = max(1, min(cpus // trials for cpus, trials in slots))
    fitting = sum(min(trials, cpus // cpus_each) for cpus, trials in slots)
    return Share(cpus=cpus_each, gpus=per_trial, at_a_time=min(fitting, max_concurrent or fitting))


def check_gpus_per_trial(given: float | None) -> float | None:
    """`given` if a trial can use that many GPUs; WrongInput otherwise."""
    if given is not None and not 0 <= given <= 1:
        raise WrongInput(f"--gpus-per-trial {given:g}: a trial uses one GPU; give 1, 0 for the CPU, or a share below 1")
    return given


def probe(ray: Any, share: Share) -> tuple[DeviceFacts, dict[str, Any]]:
    """Device facts and environment, read by a task on a node of the kind that will run the trials.

    Raises WrongInput if no node takes the task within PROBE_LIMIT_S seconds, if it fails, or if the node has a GPU
    that torch cannot use.
    """
    from ray.exceptions import RayError

    task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, resources=share.resources, max_calls=1)(_probe_here)
    running = task.remote(share.gpus > 0)
    kind = "" if share.accelerator is None else f", {share.accelerator}"
    wanted = f"a node with a trial's share free (CPUs: {share.cpus}, GPUs: {share.gpus:g}{kind})"
    if not ray.wait([running], timeout=PROBE_HINT_S)[0]:
        print(f"waiting for {wanted}; `ray status` shows who holds them", file=sys.stderr)
        if not ray.wait([running], timeout=PROBE_LIMIT_S - PROBE_HINT_S)[0]:
            raise WrongInput(f"no answer within {PROBE_LIMIT_S:g} s from {wanted}; `ray status` shows who holds them")
    try:
        facts, found, problem = ray.get(running)
    except RayError as error:  # RayTaskError's own message is a traceback: its cause says it in one line
        cause = getattr(error, "cause", None) or error
        reason = f"{type(cause).__name__}: {_first_line(cause)}"
        raise WrongInput(f"looking at the node that will run the trials failed: {reason}") from error
    if problem:
        raise WrongInput(problem)
    return facts, found


def _probe_here(use_gpu: bool) -> tuple[DeviceFacts | None, dict[str, Any], str | None]:
    import torch

    if use_gpu and not torch.cuda.is_available():
        problem = f"the node has a GPU but torch {torch.__version__} cannot use it"
        return None, {}, f"{problem}; install a CUDA build of torch, or give --gpus-per-trial 0"
    facts = replace(node_facts(use_gpu=use_gpu), missing=missing_packages(importing=True))
    return facts, environment(), None


def assumed_facts(gpus_per_trial: float | None) -> DeviceFacts:
    """This machine's own device, for a plan that asks no cluster."""
    return node_facts(use_gpu=gpus_per_trial != 0 and has_gpu(), assumed=True)
