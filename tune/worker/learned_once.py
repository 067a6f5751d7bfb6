"""What a process learns at its first compilation, learned once for all that a fork server forks.

Dynamo and inductor import modules and build tables, our kernels are registered with PyTorch, and the compilers hash
their own sources. Otherwise each trial's process would do so between two trials (docs/measurements.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

TINY: dict[str, Any] = {
    "num_channels": 1, "context_length": 8, "prediction_length": 2, "patch_length": 4, "patch_stride": 4, "d_model": 4,
    "num_heads": 1, "num_layers": 1, "ffn_dim": 4, "dropout": 0.1, "head_dropout": 0.1, "attention_dropout": 0.0,
    "norm_type": "batchnorm", "pre_norm": True, "attention": "eager",
}  # fmt: skip


def learn() -> None:
    """Import our kernels, let dynamo trace a small model on the CPU, and let the compilers hash their sources.

    A fork server may call it: it compiles nothing and does not initialise CUDA, and it starts no thread, as a backward
    pass or an operator on several threads would.
    """
    from torch._inductor.codecache import torch_key
    from torch._inductor.codegen.common import init_backend_registration

    if find_spec("triton") is not None:
        import triton.compiler.code_generator  # noqa: F401
        from triton.runtime.cache import triton_key

        import model.attention.patch_op
        import model.fused.encoder  # noqa: F401

        triton_key()
    torch_key()
    init_backend_registration()
    _trace()


def _trace() -> None:
    """Forward only."""
    import torch

    from model.patchtst import build_model

    def loss(past_BLC: torch.Tensor, future_BHC: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(past_values=past_BLC, future_values=future_BHC, return_dict=True).loss

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = build_model(**TINY)
    past_BLC, future_BHC = torch.zeros(2, TINY["context_length"], 1), torch.zeros(2, TINY["prediction_length"], 1)
    with _no_device():
        torch.compile(loss, backend="eager", dynamic=False, fullgraph=True)(past_BLC, future_BHC)
    torch._dynamo.reset()
    torch.set_num_threads(threads)


@contextmanager
def _no_device() -> Iterator[None]:
    """Inside, PyTorch finds no GPU to ask; afterwards nothing of that is remembered."""
    import torch
    from torch.utils import _triton

    replaced: list[tuple[Any, str, Any]] = [
        (torch.cuda, "is_available", lambda: False),
        (torch.accelerator, "is_available", lambda: False),
        (torch._C, "_ensureCUDADeviceGuardSet", lambda: None),  # of a tensor without data; it would initialise CUDA
    ]
    before = [getattr(owner, name) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(replaced, before, strict=True):
            setattr(owner, name, value)
        for remembering in vars(_triton).values():
            if hasattr(remembering, "cache_clear"):
                remembering.cache_clear()
