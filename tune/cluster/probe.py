"""Device facts of the node that will run the trials."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tune.cluster.share import Share
from tune.common.errors import WrongInput, first_line
from tune.machine.compilers import CPP, C, broken_compilers
from tune.machine.device import DeviceFacts, has_gpu, missing_packages, node_facts
from tune.machine.environment import environment

PROBE_HINT_S = 120.0  # after this, stderr says what the probe waits for
PROBE_LIMIT_S = 600.0  # after this, the probe is given up


def probe(ray: Any, share: Share, compile_in: Path) -> tuple[DeviceFacts, dict[str, Any]]:
    """Device facts and environment, read by a task on a node that fits `share`. Trials compile in `compile_in`.

    Raises WrongInput if no node takes the task within PROBE_LIMIT_S seconds, if the task fails, or if torch cannot use
    the node's GPU.
    """
    from ray.exceptions import RayError

    task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, resources=share.resources, max_calls=1)(look_here)
    running = task.remote(share.gpus > 0, str(compile_in))
    kind = "" if share.accelerator is None else f", {share.accelerator}"
    wanted = f"a node with a trial's share free (CPUs: {share.cpus}, GPUs: {share.gpus:g}{kind})"
    if not ray.wait([running], timeout=PROBE_HINT_S)[0]:
        print(f"waiting for {wanted}; `ray status` shows who holds them", file=sys.stderr)
        if not ray.wait([running], timeout=PROBE_LIMIT_S - PROBE_HINT_S)[0]:
            raise WrongInput(f"no answer within {PROBE_LIMIT_S:g} s from {wanted}; `ray status` shows who holds them")
    try:
        facts, found_environment, problem = ray.get(running)
    except RayError as error:  # RayTaskError's own message is a traceback: its cause says it in one line
        cause = getattr(error, "cause", None) or error
        reason = f"{type(cause).__name__}: {first_line(cause)}"
        raise WrongInput(f"looking at the node that will run the trials failed: {reason}") from error
    if problem:
        raise WrongInput(problem)
    return facts, found_environment


def look_here(use_gpu: bool, compile_in: str) -> tuple[DeviceFacts | None, dict[str, Any], str | None]:
    with ThreadPoolExecutor(1) as meanwhile:
        compilers = meanwhile.submit(broken_compilers, [C if use_gpu else CPP], Path(compile_in))
        import torch

    if use_gpu and not torch.cuda.is_available():
        problem = f"the node has a GPU but torch {torch.__version__} cannot use it"
        return None, {}, f"{problem}; install a CUDA build of torch, or give --gpus-per-trial 0"
    missing = missing_packages(importing=True)
    return replace(node_facts(use_gpu=use_gpu), missing=missing, compilers=compilers.result()), environment(), None


def assumed_facts(gpus_per_trial: float | None) -> DeviceFacts:
    """Facts of this machine's own device, for a plan that asks no cluster."""
    return node_facts(use_gpu=gpus_per_trial != 0 and has_gpu(), assumed=True)
