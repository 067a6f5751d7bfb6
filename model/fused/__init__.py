"""Our own layers for PatchTST's encoder: batch norm, projections and feed-forward in a few kernels.

Importable without torch.
"""

from __future__ import annotations

MOST_WIDTH = 128  # of the model: a program holds all columns of its rows
INSTEAD = "set model.layers=transformers"


def unsupported_reason(
    *, d_model: int, ffn_dim: int, norm_type: str, pre_norm: bool, dropout: float, precision: str, device_type: str,
    capability: tuple[int, int] | None,
) -> str | None:  # fmt: skip
    """Why this model cannot use the fused layers on that device, in one line; None where it can."""
    if device_type != "cuda":
        return f"fused layers are Triton kernels for a CUDA GPU: {INSTEAD}"
    if capability is not None and capability < (8, 0):
        return f"fused layers need compute capability 8.0 and this GPU has {capability[0]}.{capability[1]}: {INSTEAD}"
    if precision not in ("bf16", "fp16"):
        return f"fused layers compute in bf16 or fp16 and got {precision}: {INSTEAD}"
    return shape_reason(d_model=d_model, ffn_dim=ffn_dim, norm_type=norm_type, pre_norm=pre_norm, dropout=dropout)


def shape_reason(*, d_model: int, ffn_dim: int, norm_type: str, pre_norm: bool, dropout: float) -> str | None:
    """Why this model cannot use them on any device; None where it can."""
    if d_model > MOST_WIDTH or d_model % 16:
        return f"fused layers take a d_model divisible by 16 of at most {MOST_WIDTH} and got {d_model}: {INSTEAD}"
    if ffn_dim % 16:
        return f"fused layers take an ffn_dim divisible by 16 and got {ffn_dim}: {INSTEAD}"
    if norm_type != "batchnorm" or not pre_norm:
        return f"fused layers normalise by batch norm before each sublayer (pre_norm): {INSTEAD}"
    if dropout > 0:
        return f"fused layers have no dropout inside and model.dropout is {dropout:g}: {INSTEAD}"
    return None
