"""What an attention backend is: a name, the limits it states itself, and a function for transformers to call.

A backend computes softmax(q k^T / sqrt(E)) v without mask, and nothing else: all backends are the same function of
the same weights, up to rounding. It calls one explicit kernel, so that no dispatcher can choose another one.
"""

from __future__ import annotations

from typing import Protocol

# CUDA's limit for the second and third dimension of a kernel's grid, where the fused kernels put the sequences
# (pytorch/pytorch#142228, #146704; CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
MAX_GRID_YZ = 65_535


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
        """Substrings of GPU kernel names: in a profiled training step each must occur in at least one kernel's name."""

    def unsupported_reason(
        self,
        *,
        device_type: str,
        capability: tuple[int, int] | None,
        precision: str,
        head_dim: int,
        attention_dropout: float,
        sequences: int,
        patches: int,
        num_heads: int | None = None,
    ) -> str | None:
        """Why this backend cannot train at this shape on this device, or None where it can.

        device_type: "cpu" or "cuda". capability: CUDA compute capability, None where unknown (then limits by GPU
        generation are not applied). precision: fp32 tf32 bf16 fp16. head_dim: E. sequences: batch x channels.
        patches: N. num_heads: the most heads in a layer, None where unknown (then limits by heads are not applied).
        The answer is one sentence: what is missing and what to do.
        """

    def register(self) -> str:
        """Installs the function in transformers' AttentionInterface; returns its `attn_implementation` name."""
