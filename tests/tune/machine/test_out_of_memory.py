"""Every way to run out of memory is recognised as that, and no other failure is."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from trial_kit import run_small

from tune.machine import out_of_memory
from tune.machine.out_of_memory import KernelKills, is_out_of_memory, lost_a_worker

NO_MEMORY = {
    "torch, GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "torch, CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    "driver": torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later", 2),
    "triton": RuntimeError("Triton Error [CUDA]: out of memory"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "inductor": RuntimeError("InductorError: OutOfMemoryError: CUDA out of memory. Tried to allocate 1 MiB"),
    "python": MemoryError(),
    "system": OSError(12, "Cannot allocate memory"),
    "a library's words for it": RuntimeError("unable to mmap 8192 bytes: Cannot allocate memory (12)"),
}
OTHERS = {
    "shared memory of a kernel": RuntimeError("out of resource: shared memory, Required: 300000"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    "a full disk": OSError(errno.ENOSPC, "No space left on device"),
    "anything": ValueError("boom"),
}


@pytest.mark.parametrize("name", NO_MEMORY)
def test_the_words_of_every_library_are_recognised(name: str) -> None:
    assert is_out_of_memory(NO_MEMORY[name])


@pytest.mark.parametrize("name", OTHERS)
def test_other_errors_are_not_out_of_memory(name: str) -> None:
    assert not is_out_of_memory(OTHERS[name]) and not lost_a_worker(OTHERS[name])


def test_an_errors_cause_counts_and_its_context_does_not() -> None:
    wrapped, handled = RuntimeError("a layer failed"), RuntimeError("another thing")
    wrapped.__cause__ = handled.__context__ = MemoryError()
    assert is_out_of_memory(wrapped) and not is_out_of_memory(handled)


class _Killed(Dataset[int]):
    """Its reader is killed as the kernel kills."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def _killed_worker() -> RuntimeError:
    """PyTorch's own error for it."""
    with pytest.raises(RuntimeError) as lost:
        list(DataLoader(_Killed(), num_workers=1, multiprocessing_context="fork"))
    return lost.value


@pytest.mark.parametrize(("kills", "status"), [(0, "failed"), (2, "oom")])
def test_a_killed_loader_process_is_oom_if_the_kernel_killed_for_memory_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, status: str
) -> None:
    counter = tmp_path / "vmstat"
    counter.write_text("oom_kill 5\n")
    monkeypatch.setattr(out_of_memory, "VMSTAT", counter)

    def lose(self: Any, past: Any, future: Any) -> None:
        counter.write_text(f"oom_kill {5 + kills}\n")
        raise _killed_worker()

    monkeypatch.setattr("tune.engine.step.Stepper.train_step", lose)
    end = run_small(tmp_path / "a", train__epochs=1).final
    assert end["status"] == status, end
    assert end["reason"].startswith("RuntimeError: DataLoader worker") and "\n" not in end["reason"]
    assert ("the kernel killed 2 processes" in end["reason"]) == (status == "oom")
    assert ("final/host_peak_memory_gib" in end["metrics"]) == (status == "oom")


def test_processes_that_the_kernel_killed_before_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = tmp_path / "vmstat"
    monkeypatch.setattr(out_of_memory, "VMSTAT", counter)
    kills = KernelKills()  # the kernel does not say
    assert kills.in_words() is None
    counter.write_text("nr_free_pages 7\noom_kill 1\n")
    assert "killed 1 process on" in (kills.in_words() or "")
    kills.restart()
    assert kills.in_words() is None
