"""What an attention backend is: a name, the limits it states itself, and a function for transformers to call.

A backend computes softmax(q k^T / sqrt(E)) v without mask and nothing else, so all backends are the same function of
the same weights, up to rounding. Each calls one explicit kernel, so that no dispatcher can choose another.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.attention.pieces import MAX_FA2_ACCUMULATOR, MostSequences, fa2_limit, in_pieces

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a backend would train, and on which device."""

    device_type: str  # "cpu" or "cuda"
    capability: tuple[int, int] | None  # of the CUDA device; None: unknown, limits by GPU generation are not applied
    precision: str  # fp32 tf32 bf16 fp16
    head_dim: int  # E
    attention_dropout: float
    sequences: int  # batch x channels
    patches: int  # N
    num_heads: int | None = None  # the most in a layer; None: unknown, limits by heads are not applied


AttentionFunction = Callable[..., "tuple[Tensor, None]"]  # transformers' signature, as `attend` of each backend has it


@dataclass(frozen=True)
class Backend(ABC):
    """One way to compute attention. Importable without torch: planning needs only the limits."""

    name: str
    """Its key in BACKENDS."""
    description: str
    """One sentence for tables and `doctor`."""
    transformers_name: str
    """`attn_implementation` of transformers. Without "flash": those names are transformers' own use of the package."""
    kernel_patterns: tuple[str, ...]
    """Regular expressions (re.search): in a profiled training step on CUDA, under every engine, each must match the
    name of at least one kernel. No pattern of one backend matches a kernel of another."""
    function: AttentionFunction
    """(B*C, K, N, E) queries, keys and values -> (B*C, N, K, E), contiguous; no weights. ValueError for a mask."""
    most_sequences: MostSequences | None = None
    """How many sequences one launch takes; more are computed in pieces. None: any number."""
    cpu_patterns: tuple[str, ...] = ()
    """As kernel_patterns, for operators that torch.profiler names on CPU in the eager engine; () without a CPU path."""
    module: str | None = None
    """Dotted name of the module to import from the package that it needs; None where PyTorch has all."""
    install: str = ""
    """The pip command that installs that package."""

    @abstractmethod
    def unsupported_reason(self, work: Workload) -> str | None:
        """Why this backend cannot do `work`, or None where it can. One sentence: what is missing and what to do."""

    def is_installed(self) -> bool:
        """Whether `module` is there, without importing it."""
        return self.module is None or has_module(self.module.split(".")[0])

    def missing_package(self, *, importing: bool) -> str | None:
        """Why the package that it needs cannot be used here, in one line with the pip command; None where it can.

        importing=False only looks whether it is installed and imports nothing, so planning can ask. importing=True
        imports it, which fails for a build against another torch.
        """
        module = self.module if importing else None
        return package_reason(self.name, install=self.install, present=self.is_installed(), module=module)

    def register(self) -> str:
        """Installs the function in transformers' AttentionInterface under `transformers_name`, which it returns.

        It computes any number of sequences (`pieces`). Calling it again changes nothing.
        """
        from transformers import AttentionInterface

        most = self.most_sequences
        AttentionInterface.register(
            self.transformers_name, self.function if most is None else in_pieces(self.function, most)
        )
        return self.transformers_name


def package_reason(backend: str, *, install: str, present: bool, module: str | None) -> str | None:
    """Why a package cannot be used, in one line with the command `install` that provides it; None where it can.

    `present`: whether it is installed at all. `module`: what to import (dotted), or None to import nothing.
    """
    if not present:
        return f"{backend} needs a package that is not installed: use `{install}`, or another attention"
    if module is None:
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


def has_module(name: str) -> bool:
    """Whether a top-level module is installed, without importing it."""
    return name in sys.modules or importlib.util.find_spec(name) is not None


def no_cpu_reason(backend: str, gpu: str) -> str:
    """For kernels that run on GPUs of this kind only."""
    return f"{backend} has no CPU kernel: use eager or sdpa_flash here, or a {gpu} GPU"


def half_precision_reason(backend: str, work: Workload) -> str | None:
    """For kernels that compute in bf16 or fp16 only."""
    if work.precision in ("bf16", "fp16"):
        return None
    return f"{backend} computes in bf16 or fp16 on CUDA and got {work.precision}: set train.precision=bf16"


def capability_reason(backend: str, work: Workload, least: tuple[int, int], instead: str) -> str | None:
    """For kernels that need a GPU generation; an unknown one is not refused."""
    if work.capability is None or work.capability >= least:
        return None
    return (
        f"{backend} needs compute capability {least[0]}.{least[1]} and this GPU has "
        f"{work.capability[0]}.{work.capability[1]}: use {instead}"
    )


def head_dim_reason(backend: str, work: Workload, *, multiple: int, least: int = 1, most: int) -> str | None:
    """For kernels whose tiles take some widths E of a head only."""
    if work.head_dim % multiple == 0 and least <= work.head_dim <= most:
        return None
    allowed = f"divisible by {multiple} and at most {most}" if multiple > 1 else f"from {least} to {most}"
    return (
        f"{backend} needs a head_dim {allowed} and got {work.head_dim}: "
        "change model.d_model or model.num_heads, or use eager"
    )


def fa2_reason(backend: str, work: Workload) -> str | None:
    """What FlashAttention-2's kernels cannot train, PyTorch's copy and the package's alike, beyond head_dim 256."""
    capability = work.capability
    small_shared_memory = capability is not None and ((8, 6) <= capability <= (8, 9) or capability >= (12, 0))
    if small_shared_memory and work.head_dim > 192 and (work.head_dim <= 224 or work.attention_dropout > 0):
        return (
            f"{backend} cannot train with head_dim {work.head_dim} on this GPU generation: "
            "raise model.num_heads so that head_dim is at most 192, or use sdpa_efficient"
        )
    if work.num_heads is not None and fa2_limit(work.num_heads, work.patches, work.head_dim) < 1:
        return (
            f"{backend}'s backward pass indexes at most {MAX_FA2_ACCUMULATOR:,} elements and one sequence of "
            f"{work.patches:,} patches and {work.num_heads} heads has more: raise model.patch_length, or use eager"
        )
    return None


def no_dropout_reason(backend: str, work: Workload) -> str | None:
    """For kernels that drop no attention weights."""
    if work.attention_dropout == 0:
        return None
    return f"{backend} has no attention dropout: set model.attention_dropout=0, or use sdpa_efficient or eager"


def refuse_mask(backend: str, mask: Tensor | None) -> None:
    """ValueError for an attention mask, which PatchTST has none of and our kernels do not take."""
    if mask is not None:
        raise ValueError(f"{backend} got an attention mask, which PatchTST has none of: use transformers' eager")


def refuse_dropout(backend: str, dropout: float) -> None:
    """ValueError for dropout in kernels that drop no attention weights."""
    if dropout:
        raise ValueError(f"{backend} has no attention dropout: set model.attention_dropout=0")


def takes_gradient(*tensors: Tensor) -> bool:
    """Whether a backward pass follows and needs the log-sum-exp: also in eval mode, where the gate takes gradients."""
    import torch

    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
