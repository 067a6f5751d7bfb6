"""Shared by the attention benchmarks: the backends, one forward and backward pass of each, its check, and results."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.attention_inputs import ALLOWED_ERRORS, Shape, relative_error

if TYPE_CHECKING:
    from torch import Tensor


def backends() -> dict[str, Any]:
    """All of BACKENDS, and patch where it is not among them."""
    from model.attention import BACKENDS
    from model.attention.patch import Patch

    return {"patch": Patch()} | BACKENDS


def environment() -> dict[str, Any]:
    """Versions and the GPU."""
    import torch

    versions = {}
    for name in ("torch", "triton", "transformers", "flash-attn"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": gpu.name, "capability": [gpu.major, gpu.minor], "multiprocessors": gpu.multi_processor_count,
        "l2_bytes": gpu.L2_cache_size, "cuda": torch.version.cuda, "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"), "versions": versions,
    }  # fmt: skip


def unsupported(backend: Any, shape: Shape, precision: str) -> str | None:
    """The backend's own reason."""
    import torch

    from model.attention.base import Workload

    s, n, k, e = shape
    work = Workload(
        device_type="cuda", capability=torch.cuda.get_device_capability(), precision=precision, head_dim=e,
        attention_dropout=0.0, sequences=s, patches=n, num_heads=k,
    )  # fmt: skip
    return backend.unsupported_reason(work) or backend.missing_package(importing=True)


def function_of(backend: Any) -> Any:
    """The backend's function as transformers would call it, in pieces where one launch takes fewer sequences."""
    from transformers import AttentionInterface
    from transformers.models.patchtst.modeling_patchtst import eager_attention_forward

    return AttentionInterface().get_interface(backend.register(), eager_attention_forward)


def one_pass(attend: Any, leaves: list[Any], gradient: Any) -> Callable[[], Any]:
    """Forward and backward as a function without arguments; it returns the output and the gradients."""
    import torch

    module = torch.nn.Module().train()

    def call() -> tuple[Any, ...]:
        output, _ = attend(module, *leaves, None, dropout=0.0, scaling=leaves[0].shape[-1] ** -0.5)
        return output, *torch.autograd.grad(output, leaves, gradient.view_as(output))

    return call


def errors_of(computed: Sequence[Tensor], true: Sequence[Tensor], precision: str) -> dict[str, float]:
    """Relative errors of an output and its gradients against those in fp64; ValueError if wrong."""
    errors = dict(zip(("output", "dq", "dk", "dv"), map(relative_error, computed, true), strict=True))
    limit = ALLOWED_ERRORS[precision]
    if not max(errors.values()) <= limit:
        raise ValueError(f"the result is wrong: relative errors {errors}, allowed {limit}")
    return errors


def write(path: Path | None, results: dict[str, Any]) -> None:
    """The JSON so far, if one was asked for."""
    if path is not None:
        path.write_text(json.dumps(results, indent=1, default=str) + "\n")
