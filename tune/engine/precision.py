"""What fp32, tf32, bf16 and fp16 mean to PyTorch."""

from __future__ import annotations

from typing import Any

import torch


def autocast(device_type: str, precision: str) -> Any:
    """The context for a forward pass in this precision. It changes nothing for fp32 and tf32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device_type, dtype=dtype, enabled=precision in ("bf16", "fp16"))


def set_matmul_precision(precision: str) -> None:
    """fp32 means fp32: only tf32 uses tf32."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
