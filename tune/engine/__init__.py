"""ENGINES: how one training step is executed. A new engine is one class and one line in the dict.

Planning-safe: torch is imported only when an engine builds its stepper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tune.engine.step import Stepper


class Engine(Protocol):
    """How forward, backward and update of one step are run."""

    name: str
    description: str

    def unsupported_reason(self, *, device_type: str) -> str | None:
        """Why this engine cannot run there; None if it can."""
        ...

    def build(self, model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> Stepper:
        """The stepper for the model as it is now; options as `tune.engine.step.Stepper` takes them."""
        ...


class Eager:
    name = "eager"
    description = "PyTorch operators one by one"

    def unsupported_reason(self, *, device_type: str) -> str | None:
        return None

    def build(self, model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> Stepper:
        from tune.engine.step import Stepper

        return Stepper(model, optimizer, **options)


class Compile:
    name = "compile"
    description = "forward and backward through torch.compile; the update is the eager engine's"

    def unsupported_reason(self, *, device_type: str) -> str | None:
        return None

    def build(self, model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> Stepper:
        from tune.engine.compiled import CompiledStepper

        return CompiledStepper(model, optimizer, **options)


class Graph:
    name = "graph"
    description = "the whole step, and the forecast, compiled and captured once as a CUDA graph; replayed by one launch"

    def unsupported_reason(self, *, device_type: str) -> str | None:
        if device_type != "cuda":
            return "graph replays a CUDA graph, which a CPU has none of; use compile or eager"
        return None

    def build(self, model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> Stepper:
        from tune.engine.graph import CudaCapture, GraphStepper

        return GraphStepper(model, optimizer, capture=CudaCapture(), **options)


ENGINES: dict[str, Engine] = {"eager": Eager(), "compile": Compile(), "graph": Graph()}
