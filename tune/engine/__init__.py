"""ENGINES: how one training step is executed. A new engine is one file with its stepper and one line in the dict.

Planning-safe: the stepper, and torch with it, is imported when one is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tune.engine.step import Stepper


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How forward, backward and update of one step are run."""

    stepper: str  # module:class
    description: str
    cuda_only: str | None = None  # why a CPU cannot run it, and what to use instead; None: a CPU can
    compiled: bool = False  # whether it goes through PyTorch's compiler

    def unsupported_reason(self, *, device_type: str) -> str | None:
        """Why this engine cannot run there; None if it can."""
        return self.cuda_only if device_type != "cuda" else None

    def build(self, model: nn.Module, optimizer: torch.optim.Optimizer, **options: Any) -> Stepper:
        """The stepper for the model as it is now; options as `tune.engine.step.Stepper` takes them."""
        stepper: Stepper = resolve_name(self.stepper)(model, optimizer, **options)
        return stepper


ENGINES: dict[str, Engine] = {
    "eager": Engine(stepper="tune.engine.step:Stepper", description="PyTorch operators one by one"),
    "compile": Engine(
        stepper="tune.engine.compiled:CompiledStepper",
        description="forward and backward through torch.compile; the update is the eager engine's",
        compiled=True,
    ),
    "graph": Engine(
        stepper="tune.engine.graph:GraphStepper",
        description="the whole step, and the forecast, compiled and captured once as a CUDA graph; replayed by one "
        "launch",
        compiled=True,
        cuda_only="graph replays a CUDA graph, which a CPU has none of; use compile or eager",
    ),
}
