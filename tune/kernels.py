"""Which attention kernels ran: a training step is profiled, and the names in it prove or refute the backend.

A backend's own word and its numbers are no proof: a dispatcher, or a compiler's cache, may have put another kernel in
its place that computes the same. Only the names of what ran tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from tune.kernel_names import check
from tune.step import Stepper


def prove(stepper: Stepper, batch: Any, *, attention: str, engine: str) -> tuple[str, ...] | None:
    """The attention kernels (on CPU: operators) of one training step of `stepper`, whose training is untouched by it.

    batch: as `stepper.batches` hands it out.

    None where they cannot be seen: what a compiler makes for a CPU has no names. Raises GateFailed where a kernel of
    the backend is missing, or another backend's is there.
    """
    device_type = stepper.device.type
    if device_type == "cpu" and engine != "eager":
        return None
    with stepper.preserved():
        stepper.model.train()
        names = profiled_names(lambda: stepper.step(batch), device_type)
    return check(names, attention=attention, device_type=device_type)


def profiled_names(step: Callable[[], None], device_type: str) -> list[str]:
    """Distinct names of the GPU kernels, on CPU of the operators, of the second of two calls of `step`, in order.

    The first call is the profiler's own warm-up: started just before, it may miss kernels.
    """
    on_gpu = device_type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    phases = schedule(wait=0, warmup=1, active=1, repeat=1)
    with profile(activities=[activity], schedule=phases, acc_events=True) as profiler:
        for _ in range(2):
            step()
            if on_gpu:
                torch.cuda.synchronize()
            profiler.step()
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = [event for event in profiler.events() or [] if event.device_type == wanted and not event.is_user_annotation]
    return list(dict.fromkeys(event.name for event in found))
