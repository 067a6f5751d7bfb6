"""A stand-in for CUDA graphs on a CPU, as strict as they are.

It records the operators with the tensors that they ran on. A replay runs the same operators on the same tensors and
writes the results to the same memory. So numbers that Python computed are frozen, memory that moved is read at its old
place, and reading a value on the host while recording is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tune.engine import Engine
from tune.engine.graph import GraphStepper


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a value was read on the host while a step was recorded")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, recorded in self.calls:
                _write(func(*args, **kwargs), recorded)


def _write(result: Any, recorded: Any) -> None:
    for new, old in zip(tree_leaves(result), tree_leaves(recorded), strict=True):
        if isinstance(new, torch.Tensor) and new.data_ptr() != old.data_ptr():
            old.detach().copy_(new)


class RecordingCapture:
    """Capture for GraphStepper without a GPU."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.tapes: list[_Tape] = []
        self.released = 0

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        yield

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        tape = _Tape()
        with tape:
            work()
        self.tapes.append(tape)
        return tape.replay

    def release(self) -> None:
        self.tapes.clear()
        self.released += 1


class RecordedStepper(GraphStepper):
    """The graph engine's stepper where there is no GPU."""

    def __init__(self, model: Any, optimizer: Any, **options: Any) -> None:
        super().__init__(model, optimizer, capture=RecordingCapture(), **options)


RECORDED = Engine(stepper="capture_kit:RecordedStepper", description="graph on a CPU")
