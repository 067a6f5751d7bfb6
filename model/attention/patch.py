"""patch: our own Triton kernels for PatchTST's short sequences, up to 128 patches of narrow heads.

The fused kernels of other backends work in tiles of 64 or 128 rows and one block per (sequence, head), which suits
long sequences; PatchTST has 3 to 64 rows. Here one program computes a few heads of a sequence over all its patches.
The forward pass reads q, k, v and writes o; the backward pass reads q, k, v, do and writes dq, dk, dv; each once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.attention.base import AttentionFunction, Backend, Workload, capability_reason, no_dropout_reason, refuse_mask

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_PATCHES = 128
MAX_HEAD_DIM = 64
# With tf32 the backward pass for more patches of wider heads keeps 131,072 bytes in shared memory; a block may have
# 101,376 on these GPUs (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
MAX_TF32_PATCHES, MAX_TF32_HEAD_DIM = 96, 32
SMALL_SHARED_MEMORY = ((8, 6), (8, 9))  # and 12.0 and later


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, output_attentions: bool | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention over N patches: (B*C, K, N, E) -> (B*C, N, K, E), contiguous; no weights.

    ValueError for a mask, for dropout, for weights asked for, and for what patch_op.patch_attention refuses.
    """
    refuse_mask("patch", attention_mask)
    if output_attentions:
        raise ValueError("patch has no attention weights to return: leave output_attentions out, or use eager")
    if dropout > 0:
        raise ValueError(f"patch has no attention dropout and got {dropout}: use eager")
    from model.attention.patch_op import patch_attention

    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Back to (B*C, N, K, E), as the projections lie in memory: views, no copies.
    output, _lse = patch_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scale)
    return output, None


@dataclass(frozen=True)
class Patch(Backend):
    """torch.ops.patchtst.patch_attention (model/attention/patch_op.py): CUDA, fp32, tf32, bf16, fp16; no dropout."""

    name: str = "patch"
    description: str = "our own Triton kernels for up to 128 patches of narrow heads; CUDA only"
    transformers_name: str = "patch"
    kernel_patterns: tuple[str, ...] = (r"^patch_attention_forward", r"^patch_attention_backward")
    function: AttentionFunction = attend
    module: str | None = "triton.language"  # comes with torch's builds for CUDA on Linux
    install: str = "pip install triton"

    def unsupported_reason(self, work: Workload) -> str | None:
        """CUDA of capability 8.0, no attention dropout, at most 128 patches of heads of at most 64; less in tf32."""
        if work.device_type != "cuda":
            return "patch needs a CUDA GPU: use eager or sdpa_flash here"
        if reason := capability_reason(self.name, work, (8, 0), "sdpa_efficient or eager"):
            return reason
        if reason := no_dropout_reason(self.name, work):
            return reason
        if work.patches > MAX_PATCHES:
            return (
                f"patch takes at most {MAX_PATCHES} patches and got {work.patches}: raise model.patch_length or "
                "model.patch_stride, or use sdpa_efficient or eager"
            )
        if work.head_dim > MAX_HEAD_DIM:
            return (
                f"patch takes a head_dim of at most {MAX_HEAD_DIM} and got {work.head_dim}: raise model.num_heads, or "
                "use sdpa_efficient or eager"
            )
        return _shared_memory_reason(work)


def _shared_memory_reason(work: Workload) -> str | None:
    small = work.capability is not None and (work.capability in SMALL_SHARED_MEMORY or work.capability >= (12, 0))
    large = work.patches > MAX_TF32_PATCHES and work.head_dim > MAX_TF32_HEAD_DIM
    if not (small and large and work.precision == "tf32"):
        return None
    return (
        f"patch needs more shared memory than this GPU generation has for {work.patches} patches of head_dim "
        f"{work.head_dim} in tf32: set train.precision=bf16 or fp32, raise model.num_heads so that head_dim is at most "
        f"{MAX_TF32_HEAD_DIM}, or use sdpa_efficient"
    )
