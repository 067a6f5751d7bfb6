"""Our own layers for PatchTST's encoder: norms, projections, dropout and feed-forward in a few kernels.

Importable without torch.
"""

from __future__ import annotations

MOST_WIDTH = 256  # of the model: a program holds all columns of its rows
ACTIVATIONS = ("gelu", "relu")
INSTEAD = "set model.layers=transformers"


def unsupported_reason(
    *, d_model: int, ffn_dim: int, precision: str, device_type: str, capability: tuple[int, int] | None,
    activation: str = "gelu",
) -> str | None:  # fmt: skip
    """Why this model cannot use the fused layers on that device, in one line; None where it can."""
    if device_type != "cuda":
        return f"fused layers are Triton kernels for a CUDA GPU: {INSTEAD}"
    if capability is not None and capability < (8, 0):
        return f"fused layers need compute capability 8.0 and this GPU has {capability[0]}.{capability[1]}: {INSTEAD}"
    if precision not in ("bf16", "fp16"):
        return (
            f"fused layers multiply factors of 16 bits (bf16 or fp16) and got {precision}: with 32 bits their tiles "
            f"need up to 164 KB of shared memory and spill registers; {INSTEAD}"
        )
    return shape_reason(d_model=d_model, ffn_dim=ffn_dim, activation=activation)


def shape_reason(*, d_model: int, ffn_dim: int, activation: str = "gelu") -> str | None:
    """Why this model cannot use them on any device; None where it can."""
    if d_model > MOST_WIDTH or d_model % 16:
        return f"fused layers take a d_model divisible by 16 of at most {MOST_WIDTH} and got {d_model}: {INSTEAD}"
    if ffn_dim % 16:
        return f"fused layers take an ffn_dim divisible by 16 and got {ffn_dim}: {INSTEAD}"
    if activation not in ACTIVATIONS:
        return f"fused layers know the activations {' and '.join(ACTIVATIONS)} and got {activation}: {INSTEAD}"
    return None
