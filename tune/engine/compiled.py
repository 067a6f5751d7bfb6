"""Forward and backward through torch.compile."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from tune.common.errors import Unsupported
from tune.engine import timed_choices
from tune.engine.step import Stepper

AUTOGRAD_FUNCTION = "torch.ops.higher_order.autograd_function_apply"  # how the compiler traces an autograd.Function


class CompiledStepper(Stepper):
    """Forward and backward through torch.compile."""

    def _compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        refuse_a_disabled_compiler()
        timed_choices.settle()
        _cache_traces()
        return torch.compile(function, dynamic=False, fullgraph=True)

    def close(self) -> None:
        torch._dynamo.reset()  # each stage of gradual pruning would count as a recompilation, and dynamo stops after 8


def refuse_a_disabled_compiler() -> None:
    """Raises Unsupported if a setting makes torch.compile run the plain operators silently."""
    settings = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
    if given := [name for name in settings if os.environ.get(name, "0") not in ("", "0")]:
        raise Unsupported(f"{given[0]} is set, so torch.compile would compile nothing: unset it, or use eager")
    if torch._dynamo.config.disable or torch._dynamo.config.suppress_errors:
        raise Unsupported("torch._dynamo.config switches torch.compile off: set disable and suppress_errors to False")


def _cache_traces() -> None:
    """Let PyTorch's compiler keep the traced forward and backward of a model with an autograd.Function, as of others.

    By default such a model is traced again in each process, for about a second for each of its shapes. The key in the
    cache holds the function's traced bodies.
    """
    import torch._functorch.config
    import torch._inductor.config

    torch._functorch.config.autograd_cache_allow_custom_autograd_functions = True
    torch._inductor.config.unsafe_marked_cacheable_functions |= {AUTOGRAD_FUNCTION: "its bodies are in the key"}


def compiled_afresh() -> bool:
    """Whether PyTorch's compiler has compiled something in this process that its cache did not hold."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    counts = {} if dynamo is None else dynamo.counters["inductor"]
    return any(counts.get(name, 0) for name in ("fxgraph_cache_miss", "fxgraph_cache_bypass"))
