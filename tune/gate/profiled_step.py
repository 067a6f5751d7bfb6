"""Which attention kernels ran: one training step is profiled, and the kernels' names prove or refute the backend.

A backend's registration and its numbers prove nothing: a dispatcher or a compiler's cache may have run another kernel
that computes the same. Only the names of the kernels that ran do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from tune.engine.step import Stepper
from tune.gate.kernel_names import check_kernels, layers_path


@dataclass(frozen=True, kw_only=True)
class ProvenStep:
    """A profiled training step that ran its backend's kernels."""

    kernels: tuple[str, ...]  # of attention; on CPU: operators
    layers: str  # whose kernels computed the encoder's layers
    busy_ms: float | None  # how long any kernel or copy of the step ran on the GPU; None on a CPU


def prove(stepper: Stepper, batch: Any, *, attention: str, engine: str) -> ProvenStep | None:
    """Profile one training step of `stepper`, and leave its training as it was.

    batch: as `stepper.batches` yields it. None if nothing can be seen: code compiled for a CPU has no kernel names.
    Raises GateFailed if a kernel of the backend is missing, or another backend's kernel ran.
    """
    device_type = stepper.device.type
    if device_type == "cpu" and engine != "eager":
        return None
    with stepper.preserved():
        stepper.model.train()
        events = _profiled(lambda: stepper.step(batch), device_type)
    names = _names(events)
    kernels = check_kernels(names, attention=attention, device_type=device_type)
    spans_us = [(event.time_range.start, event.time_range.end) for event in events]
    busy_ms = covered(spans_us) / 1e3 if device_type == "cuda" else None
    return ProvenStep(kernels=kernels, layers=layers_path(names), busy_ms=busy_ms)


def profiled_names(step: Callable[[], None], device_type: str) -> list[str]:
    """Distinct names of the GPU kernels (on CPU: operators) of the second of two calls of `step`, in order."""
    return _names(_profiled(step, device_type))


def _names(events: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(event.name for event in events))


def _profiled(step: Callable[[], None], device_type: str) -> list[Any]:
    """The profiler's events on the device during the second of two calls of `step`.

    The first call warms the profiler up: right after its start it may miss kernels.
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
    return [event for event in profiler.events() or [] if event.device_type == wanted and not event.is_user_annotation]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The total length of the union of the spans (begin, end), in their unit."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
