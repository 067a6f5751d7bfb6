"""Which attention kernels ran: a training step is profiled, and the names in it prove or refute the backend.

A backend's own word and its numbers are no proof: a dispatcher, or a compiler's cache, may have put another kernel in
its place that computes the same. Only the names of what ran tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from data_pipeline.batches import Batch
from model.attention import BACKENDS, get_backend
from model.attention.base import Backend
from tune.errors import GateFailed
from tune.step import Stepper

ATTENTION_LIKE = r"(?i)softmax|attention|attn|fmha|flash|sdpa"
NAME_LENGTH = 200  # characters kept of a kernel's name
SHOWN = 4  # kernels named in a reason


def prove(stepper: Stepper, batch: Batch, *, attention: str, engine: str) -> tuple[str, ...] | None:
    """The attention kernels (on CPU: operators) of one training step of `stepper`, whose training is untouched by it.

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


def check(names: Sequence[str], *, attention: str, device_type: str) -> tuple[str, ...]:
    """Those of a step's kernels that are attention's. Raises GateFailed unless they are the backend's, and only its."""
    backend = get_backend(attention)
    own = _patterns(backend, device_type)
    like = [name for name in names if _matches(name, (*own, ATTENTION_LIKE))]
    seen = ", ".join(short(name) for name in like[:SHOWN]) or f"none among {len(names)} kernels"
    if not own:
        raise GateFailed(f"{backend.name} names no kernel that would prove it on {device_type}; seen: {seen}")
    if missing := [pattern for pattern in own if not any(re.search(pattern, name) for name in names)]:
        raise GateFailed(f"no kernel of a training step matches {backend.name}'s {missing[0]!r}; seen: {seen}")
    for other in BACKENDS.values():
        foreign = tuple(pattern for pattern in _patterns(other, device_type) if pattern not in own)
        if intruder := next((name for name in names if _matches(name, foreign)), None):
            raise GateFailed(f"a training step of {backend.name} ran a kernel of {other.name}: {short(intruder)}")
    return tuple(name[:NAME_LENGTH] for name in like)


def _patterns(backend: Backend, device_type: str) -> tuple[str, ...]:
    return backend.kernel_patterns if device_type == "cuda" else backend.cpu_patterns


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def short(name: str) -> str:
    """What tells a kernel from others, at most 80 characters: the first name in it that sounds like attention.

    A template's own name may say nothing; for a kernel of nothing like attention it is all there is.
    """
    words = re.findall(r"[\w:.]+", name.removeprefix("void ").replace("(anonymous namespace)::", ""))
    telling = next((word for word in words if re.search(ATTENTION_LIKE, word.split("::")[-1])), (words or [name])[0])
    return "::".join(telling.split("::")[-2:])[:80]
