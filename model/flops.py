"""FLOPs and bytes of one training step, from the shape alone. Pure; importable without torch.

Letters: B batch, C channels, S = B x C sequences, L context, H horizon, P patch length, N patches, D model width,
K heads of a layer, E head width, A = K x E attention width (D while all heads are there), F feed-forward width.

FLOPs count the matrix products only, 2 per multiply-add, as `torch.utils.flop_counter` does and as model FLOPs
utilisation is defined (Chowdhery et al. 2022, "PaLM", appendix B): no softmax, norms, activations or optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FP32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """What the cost of a training step depends on."""

    batch_size: int  # windows, B
    num_channels: int  # C
    context_length: int  # time steps, L
    prediction_length: int  # time steps, H
    patch_length: int  # time steps, P
    patch_stride: int  # time steps
    d_model: int  # D
    num_heads: int  # heads at the start; E = D / num_heads
    num_layers: int
    ffn_dim: int  # F
    heads_kept: Sequence[int] | None = None  # heads left in each layer; None: all

    @property
    def sequences(self) -> int:
        """S: every channel of every window is a sequence of its own."""
        return self.batch_size * self.num_channels

    @property
    def patches(self) -> int:
        """N, as transformers' PatchTSTPatchify counts them."""
        return (self.context_length - self.patch_length) // self.patch_stride + 1

    @property
    def attention_widths(self) -> tuple[int, ...]:
        """A of each layer. ValueError where `heads_kept` is not one number in 1..num_heads per layer."""
        kept = [self.num_heads] * self.num_layers if self.heads_kept is None else list(self.heads_kept)
        if len(kept) != self.num_layers or not all(1 <= heads <= self.num_heads for heads in kept):
            raise ValueError(f"heads_kept={kept}: give {self.num_layers} numbers from 1 to {self.num_heads}")
        return tuple(heads * (self.d_model // self.num_heads) for heads in kept)


def parameter_count(shape: StepShape) -> int:
    """Parameters of the model: trained ones and the fixed table of positions. [elements]"""
    d, f, n = shape.d_model, shape.ffn_dim, shape.patches
    embedding = shape.patch_length * d + d + n * d
    head = n * d * shape.prediction_length + shape.prediction_length
    # q, k, v with biases, out_proj with bias; two norms of scale and shift; the feed-forward layers.
    layers = sum(3 * (d * a + a) + (a * d + d) + 4 * d + (d * f + f) + (f * d + d) for a in shape.attention_widths)
    return embedding + layers + head


def forward_flops(shape: StepShape) -> int:
    """FLOPs of one forward pass over a batch. [FLOP]"""
    tokens = shape.sequences * shape.patches
    d, f = shape.d_model, shape.ffn_dim
    # Projections q, k, v, out; scores and weighted sum; feed-forward.
    layers = sum(
        2 * tokens * 4 * d * a + 2 * 2 * tokens * shape.patches * a + 2 * tokens * 2 * d * f
        for a in shape.attention_widths
    )
    head = 2 * shape.sequences * shape.patches * d * shape.prediction_length
    return _embedding_flops(shape) + layers + head


def train_step_flops(shape: StepShape) -> int:
    """FLOPs of forward and backward: 3 x forward, less the gradient of the input series, which nobody asks for. [FLOP]

    A product y = x W costs the same again for dx and for dW. Kernels that compute scores anew in the backward pass
    (all fused ones) do more work than this; utilisation counts what the model needs, not what a kernel does.
    """
    return 3 * forward_flops(shape) - _embedding_flops(shape)


def minimal_step_bytes(shape: StepShape, *, activation_bytes: int) -> int:
    """Least traffic with GPU memory of one training step with Adam and fp32 weights. [bytes]

    activation_bytes: 2 in half precision, 4 in fp32. A floor to divide by a GPU's bandwidth, not a prediction. Assumed:
    every matrix product reads its inputs and writes its output once, everything elementwise (norms, GELU, residual,
    dropout, casts) rides along with a product, attention is one kernel per direction, and nothing stays in cache.
    """
    tokens = shape.sequences * shape.patches
    wide, hidden = tokens * shape.d_model, tokens * shape.ffn_dim
    series, forecast = shape.sequences * shape.context_length, shape.sequences * shape.prediction_length
    elements = 0
    for a in shape.attention_widths:
        heads = tokens * a
        # q k v: read x, write 3; attention: read 3, write 1; out_proj: read it and the residual, write x;
        # feed-forward: read x, write hidden; read hidden and the residual, write x.
        elements += (wide + 3 * heads) + 4 * heads + (heads + 2 * wide) + (wide + hidden) + (hidden + 2 * wide)
        # Backwards, with the saved inputs read again: second and first feed-forward product, out_proj, attention
        # (reads q k v and the gradient, writes 3), q k v; the gradient of the residual path is read where it is added.
        elements += (wide + 2 * hidden) + (hidden + 3 * wide) + (wide + 2 * heads) + 7 * heads + (3 * heads + 3 * wide)
    elements += (series + wide) + (wide + series)  # embedding: forward; gradient and input again
    elements += (wide + forecast) + (forecast + 2 * wide)  # forecasting head, forward and backward
    inputs = (series + forecast) * FP32_BYTES  # gathered windows and targets, in fp32
    # Weights: read forward and backward, gradient written; Adam reads weight, gradient and 2 moments, writes 3.
    weights = parameter_count(shape) * (3 + 7) * FP32_BYTES
    return elements * activation_bytes + inputs + weights


def _embedding_flops(shape: StepShape) -> int:
    return 2 * shape.sequences * shape.patches * shape.patch_length * shape.d_model


@dataclass(frozen=True, kw_only=True)
class GpuPeak:
    """What a GPU can do at most, dense (no sparsity)."""

    flops: Mapping[str, float]  # by precision, of the units that matrix products in it run on [FLOP/s]
    bandwidth: float  # memory [bytes/s]


_HOPPER = {"bf16": 989.4e12, "fp16": 989.4e12, "tf32": 494.7e12, "fp32": 66.9e12}
# By the GPU's name as the driver tells it. NVIDIA's whitepapers "H100 Tensor Core GPU Architecture" (SXM5) and "A100
# Tensor Core GPU Architecture"; bandwidths from the data sheets of H100 SXM, H200 SXM and A100 80GB SXM.
GPU_PEAKS: dict[str, GpuPeak] = {
    "NVIDIA H100 80GB HBM3": GpuPeak(flops=_HOPPER, bandwidth=3.35e12),
    "NVIDIA H200": GpuPeak(flops=_HOPPER, bandwidth=4.8e12),
    "NVIDIA A100-SXM4-80GB": GpuPeak(
        flops={"bf16": 312e12, "fp16": 312e12, "tf32": 156e12, "fp32": 19.5e12}, bandwidth=2.039e12
    ),
}


def mfu_pct(shape: StepShape, *, step_s: float, gpu: str | None, precision: str) -> float | None:
    """Model FLOPs utilisation of a training step that takes `step_s`, in percent; None for a GPU not in GPU_PEAKS."""
    peak = GPU_PEAKS.get(gpu or "")
    return None if peak is None else 100 * train_step_flops(shape) / step_s / peak.flops[precision]


def floor_s(shape: StepShape, *, gpu: str | None, precision: str) -> float | None:
    """No training step can be shorter: its FLOPs at the peak, or its least bytes at full bandwidth. None if unknown."""
    peak = GPU_PEAKS.get(gpu or "")
    if peak is None:
        return None
    width = 2 if precision in ("bf16", "fp16") else 4
    least_bytes = minimal_step_bytes(shape, activation_bytes=width)
    return max(train_step_flops(shape) / peak.flops[precision], least_bytes / peak.bandwidth)
