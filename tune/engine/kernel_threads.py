"""Compiles a model's Triton kernels in threads, all at once, before anything runs them.

Triton compiles a kernel when it is launched first, so a step's kernels are compiled one after another: 17 of a layer of
the ettm preset take 9 s of one core (docs/measurements.md). Here a step is gone through once without running a kernel.
Its launches only begin to compile, and Triton's compiler releases Python's lock while it works.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

THREADS = 8
_ahead = contextvars.ContextVar("compile kernels ahead", default=False)


@contextmanager
def compiling_ahead() -> Iterator[None]:
    """Inside, steppers compile their kernels ahead (`Stepper.warm_up`): for a process that times no epoch."""
    token = _ahead.set(True)
    try:
        yield
    finally:
        _ahead.reset(token)


def wanted() -> bool:
    """Whether this is inside `compiling_ahead`."""
    return _ahead.get()


@contextmanager
def compiled_in_threads() -> Iterator[None]:
    """A launch of a Triton kernel inside runs nothing. It begins to compile the kernel; at the end all are compiled.

    So are the libraries that launch them.

    So what is computed inside is worth nothing. Launches may come from other threads, as autograd's do. Raises what
    compiling raises.
    """
    from triton import AsyncCompileMode
    from triton.runtime.jit import JITFunction

    run = JITFunction.run
    with ThreadPoolExecutor(THREADS) as pool:
        with AsyncCompileMode(pool) as mode:
            context = contextvars.copy_context()  # which knows the mode; another thread's own does not

            def compile_only(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
                return context.copy().run(run, kernel, *arguments, grid=grid, warmup=True, **options)

            JITFunction.run = compile_only
            try:
                yield
            finally:
                JITFunction.run = run
        list(pool.map(_build_launcher, [future.result() for future in mode.future_kernels.values()]))


def _build_launcher(kernel: Any) -> None:
    """Compile the library that launches a kernel, which a C compiler takes 0.2 s for, into Triton's cache."""
    from triton.runtime.driver import driver

    driver.active.launcher_cls(kernel.src, kernel.metadata)
