"""What an attention backend is: a name, the limits it states itself, and a function for transformers to call.

A backend computes softmax(q k^T / sqrt(E)) v without mask, and nothing else: all backends are the same function of
the same weights, up to rounding. It calls one explicit kernel, so that no dispatcher can choose another one.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Protocol

# CUDA's limit for the second and third dimension of a kernel's grid, where the fused kernels put the sequences
# (pytorch/pytorch#142228, #146704; CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
MAX_GRID_YZ = 65_535


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a backend is asked to train, and on what."""

    device_type: str  # "cpu" or "cuda"
    capability: tuple[int, int] | None  # of the CUDA device; None: unknown, limits by GPU generation are not applied
    precision: str  # fp32 tf32 bf16 fp16
    head_dim: int  # E
    attention_dropout: float
    sequences: int  # batch x channels
    patches: int  # N
    num_heads: int | None = None  # the most in a layer; None: unknown, limits by heads are not applied


class Backend(Protocol):
    """One way to compute attention. Implementations are importable without torch: planning needs only the limits."""

    @property
    def name(self) -> str:
        """Its key in BACKENDS."""

    @property
    def description(self) -> str:
        """One sentence for tables and `doctor`."""

    @property
    def kernel_patterns(self) -> tuple[str, ...]:
        """Regular expressions (re.search): in a profiled training step on CUDA, under every engine, each must match the
        name of at least one kernel. No pattern of one backend matches a kernel of another.
        """

    @property
    def cpu_patterns(self) -> tuple[str, ...]:
        """The same for operators that torch.profiler names on CPU in the eager engine; () where it has no CPU path."""

    def unsupported_reason(self, work: Workload) -> str | None:
        """Why this backend cannot do `work`, or None where it can. One sentence: what is missing and what to do."""

    def missing_package(self, *, importing: bool) -> str | None:
        """Why the package that it needs cannot be used here, in one line with the pip command; None where it can.

        importing=False only looks whether it is installed and imports nothing, so planning can ask. importing=True
        imports it: a build against another torch then is the reason.
        """

    def register(self) -> str:
        """Installs the function in transformers' AttentionInterface; returns its `attn_implementation` name."""


def package_reason(backend: str, module: str, install: str, *, importing: bool) -> str | None:
    """Backend.missing_package for one that needs `module` (dotted), which the command `install` provides."""
    top = module.partition(".")[0]
    if importlib.util.find_spec(top) is None:
        return f"{backend} needs the package {top}, which is not installed: use `{install}`, or another attention"
    if not importing:
        return None
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken extension raises anything; the reason is shown, not swallowed
        what = " ".join(str(error).split()) or "no message"
        return (
            f"{backend} cannot import {module} ({type(error).__name__}: {what}): use `{install}` to install it again "
            "for this torch, or another attention"
        )
    return None
