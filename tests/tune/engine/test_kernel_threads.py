"""Kernels are compiled in threads by launches that run nothing; on a CPU for a GPU that is not there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
from model.fused import norm_kernels  # noqa: E402
from tune.engine import kernel_threads  # noqa: E402
from tune.engine.kernel_threads import compiled_in_threads, compiling_ahead  # noqa: E402
from tune.engine.step import Stepper  # noqa: E402

KERNEL = norm_kernels.fused_norm_partials
LAUNCHERS: list[Any] = []  # sources of the kernels for which a launcher was built


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton finds a Hopper GPU, on which nothing can be launched, and has compiled nothing yet."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    LAUNCHERS.clear()
    fake = SimpleNamespace(
        launcher_cls=lambda source, metadata: LAUNCHERS.append(source),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
    )
    monkeypatch.setattr(driver, "_active", fake)
    KERNEL.device_caches.clear()
    yield
    KERNEL.device_caches.clear()


def _launch(width: int) -> None:
    x = torch.empty(64, width)
    KERNEL[(1,)](x, torch.empty(1, 2, width), 64, D=width, ROWS=64, COLUMNS=width, num_warps=4)


def _compiled() -> list[Any]:
    return list(KERNEL.device_caches[0][0].values())


def test_launches_compile_and_run_nothing() -> None:
    with compiled_in_threads():
        for width in (16, 32, 16):
            _launch(width)
    assert len(_compiled()) == 2 and all("ptx" in kernel.asm for kernel in _compiled())
    assert len(LAUNCHERS) == 2


def test_a_launch_from_another_thread_as_autograds_compiles_too() -> None:
    with compiled_in_threads():
        thread = threading.Thread(target=_launch, args=(64,))
        thread.start()
        thread.join()
    assert len(_compiled()) == 1


def test_afterwards_a_launch_is_a_launch_again() -> None:
    run = triton.runtime.jit.JITFunction.run
    with pytest.raises(RuntimeError, match="a step failed"), compiled_in_threads():
        raise RuntimeError("a step failed")
    assert triton.runtime.jit.JITFunction.run is run


def test_it_is_wanted_only_inside() -> None:
    with compiling_ahead():
        assert kernel_threads.wanted()
    assert not kernel_threads.wanted()


def test_a_stepper_on_a_cpu_has_nothing_to_compile_ahead() -> None:
    model = torch.nn.Linear(2, 2)
    stepper = Stepper(model, torch.optim.SGD(model.parameters()), precision="fp32")
    with compiling_ahead():
        stepper.compile_ahead(torch.ones(1), torch.ones(1), torch.ones(1))  # a model that takes no such input
