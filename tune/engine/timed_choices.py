"""Choices that compilers make by timing kernels on the GPU: beside a neighbour they would be made by chance.

PyTorch's compiler times the tilings of a kernel at its first call and keeps the fastest, on disk too. In a process that
compiles beside others these choices are postponed: the kernel runs its first tiling, and a later process, alone on its
GPU, finds everything compiled and only times. Whether matrix products are padded is timed while compiling, so it would
be fixed in the code: it is decided once and for all, they are not. Where anything else has to be timed (templates,
Triton's own autotuner), a process beside others gives up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

_made: list[str] = []  # names of the kernels whose tiling this process has timed


class NeedsDeviceAlone(RuntimeError):
    """Something must be timed now, and other processes use the device too."""


def settle() -> None:
    """Fix what can be fixed, and from now on note whose tiling this process times. Call it before compiling."""
    import torch._inductor.config
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    torch._inductor.config.shape_padding = False
    choose = CachingAutotuner.autotune_to_one_config
    if getattr(choose, "noted", False):
        return

    @functools.wraps(choose)
    def noting(tuner: Any, *given: Any, **named: Any) -> Any:
        _made.append(tuner.fn.__name__)
        return choose(tuner, *given, **named)

    noting.noted = True  # type: ignore[attr-defined]
    CachingAutotuner.autotune_to_one_config = noting


def made_here() -> bool:
    """Whether this process has timed a kernel's tilings."""
    return bool(_made)


@contextmanager
def postponed() -> Iterator[None]:
    """Inside, kernels run their first tiling and nothing is kept of it; NeedsDeviceAlone where that is not enough."""
    from torch._inductor.runtime.benchmarking import benchmarker
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    replacements: list[tuple[Any, str, Any]] = [(CachingAutotuner, "autotune_to_one_config", _take_the_first)]
    for name in ("benchmark", "benchmark_gpu", "benchmark_cpu"):
        replacements.append((benchmarker, name, _refuse(f"inductor's {name}")))
    if find_spec("triton") is not None:
        from triton.runtime.autotuner import Autotuner

        replacements.append((Autotuner, "_bench", _refuse("Triton's autotuner")))
    with ExitStack() as stack:
        for owner, name, value in replacements:
            stack.enter_context(_replaced(owner, name, value))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before) if own else delattr(owner, name)


def _take_the_first(tuner: Any, *_: Any, **__: Any) -> None:
    tuner.launchers = tuner.launchers[:1]


def _refuse(what: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NeedsDeviceAlone(f"{what} has to time something, alone on the device")

    return refuse
