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


def count_patches(*, context_length: int, patch_length: int, patch_stride: int, end_padding: bool = False) -> int:
    """N: the complete patches in a context, as transformers' PatchTSTPatchify counts them, and one with `end_padding`.

    Lengths are in time steps.
    """
    return (context_length - patch_length) // patch_stride + 1 + end_padding


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
    num_heads: int  # before pruning; E = D / num_heads
    num_layers: int
    ffn_dim: int  # F
    heads_kept: Sequence[int] | None = None  # heads left in each layer; None: all
    end_padding: bool = False  # one patch more
    projections: int = 4  # of a layer's attention: q, k, v, out; 3 where an arm as published skips the last

    @property
    def sequences(self) -> int:
        """S: every channel of every window is a sequence of its own."""
        return self.batch_size * self.num_channels

    @property
    def patches(self) -> int:
        """N."""
        return count_patches(
            context_length=self.context_length,
            patch_length=self.patch_length,
            patch_stride=self.patch_stride,
            end_padding=self.end_padding,
        )

    @property
    def attention_widths(self) -> tuple[int, ...]:
        """A of each layer.

        ValueError where `heads_kept` is not a number in 1..num_heads per layer. Also where heads are gone and there
        is no output projection, since nothing would bring A back to D.
        """
        kept = [self.num_heads] * self.num_layers if self.heads_kept is None else list(self.heads_kept)
        if len(kept) != self.num_layers or not all(1 <= heads <= self.num_heads for heads in kept):
            raise ValueError(f"heads_kept={kept}: give {self.num_layers} numbers from 1 to {self.num_heads}")
        widths = tuple(heads * (self.d_model // self.num_heads) for heads in kept)
        if self.projections != 4 and (self.projections != 3 or set(widths) != {self.d_model}):
            raise ValueError(f"projections={self.projections}: give 4, or 3 while no head has left")
        return widths


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
    # Projections; scores and weighted sum; feed-forward.
    layers = sum(
        2 * tokens * shape.projections * d * a + 2 * 2 * tokens * shape.patches * a + 2 * tokens * 2 * d * f
        for a in shape.attention_widths
    )
    head = 2 * shape.sequences * shape.patches * d * shape.prediction_length
    return _embedding_flops(shape) + layers + head


def train_step_flops(shape: StepShape) -> int:
    """FLOPs of forward and backward: 3 x forward, less the gradient of the input series, which is not computed. [FLOP]

    A product y = x W costs the same again for dx and for dW. All fused kernels compute scores again in the backward
    pass and so do more work than this; utilisation counts what the model needs, not what a kernel does.
    """
    return 3 * forward_flops(shape) - _embedding_flops(shape)


def minimal_step_bytes(shape: StepShape, *, activation_bytes: int) -> int:
    """Modelled traffic with GPU memory of one training step with Adam and fp32 weights. [bytes]

    activation_bytes: 2 in half precision, 4 in fp32. The model: every matrix product reads its inputs and writes its
    output once. Everything elementwise (norms, GELU, residual, dropout, casts) is fused with a product, attention is
    one kernel per direction, and nothing stays in cache. The measure is the same for all arms and is divided by a GPU's
    bandwidth; it is neither a prediction nor a bound. A step may move more, or less: the fused encoder never writes the
    feed-forward's hidden layer in its forward pass, and caches save some of what the model counts.
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
    if shape.projections == 3:  # attention itself adds the residual and takes its gradient; see attention_widths
        elements -= shape.num_layers * (2 * wide + 3 * wide)
    inputs = (series + forecast) * FP32_BYTES  # gathered windows and targets, in fp32
    # Weights: read forward and backward, gradient written; Adam reads weight, gradient and 2 moments, writes 3.
    unread = (4 - shape.projections) * shape.num_layers * (shape.d_model**2 + shape.d_model)
    weights = (parameter_count(shape) - unread) * (3 + 7) * FP32_BYTES
    return elements * activation_bytes + inputs + weights


def _embedding_flops(shape: StepShape) -> int:
    return 2 * shape.sequences * shape.patches * shape.patch_length * shape.d_model


@dataclass(frozen=True, kw_only=True)
class GpuPeak:
    """What a GPU can do at most, dense (no sparsity), at its boost clock."""

    flops: Mapping[str, float]  # by precision, of the units that matrix products in it run on [FLOP/s]
    bandwidth: float  # memory [bytes/s]


def _tensor_cores(half: float, tf32: float, fp32: float) -> dict[str, float]:
    """From TFLOP/s; half precision accumulates in fp32, as PyTorch's products do."""
    return {"bf16": half * 1e12, "fp16": half * 1e12, "tf32": tf32 * 1e12, "fp32": fp32 * 1e12}


_HOPPER_SXM = _tensor_cores(989.4, 494.7, 66.9)
_A100 = _tensor_cores(312, 156, 19.5)
_V100 = GpuPeak(flops={"fp16": 125e12, "fp32": 15.7e12}, bandwidth=0.9e12)  # neither bf16 nor tf32
# By the GPU's name as the driver reports it. MFU and roofline are unknown for a name that is not here.
# Sources, all NVIDIA's: the whitepapers "H100 Tensor Core GPU Architecture" (SXM5), "A100 Tensor Core GPU Architecture"
# and "Ada GPU Architecture" (RTX 4090); the data sheets of H100, H200, A100, L4, L40S, A10 and V100. Where a data sheet
# gives a figure with sparsity, half of it. Left out, as their sources disagree or give no dense figure: A10G, T4, B200.
GPU_PEAKS: dict[str, GpuPeak] = {
    "NVIDIA H100 80GB HBM3": GpuPeak(flops=_HOPPER_SXM, bandwidth=3.35e12),
    "NVIDIA H100 PCIe": GpuPeak(flops=_tensor_cores(756, 378, 51), bandwidth=2.0e12),
    "NVIDIA H200": GpuPeak(flops=_HOPPER_SXM, bandwidth=4.8e12),
    "NVIDIA A100-SXM4-80GB": GpuPeak(flops=_A100, bandwidth=2.039e12),
    "NVIDIA A100 80GB PCIe": GpuPeak(flops=_A100, bandwidth=1.935e12),
    "NVIDIA A100-SXM4-40GB": GpuPeak(flops=_A100, bandwidth=1.555e12),
    "NVIDIA A100-PCIE-40GB": GpuPeak(flops=_A100, bandwidth=1.555e12),
    "NVIDIA L4": GpuPeak(flops=_tensor_cores(121, 60, 30.3), bandwidth=0.3e12),
    "NVIDIA L40S": GpuPeak(flops=_tensor_cores(362, 183, 91.6), bandwidth=0.864e12),
    "NVIDIA A10": GpuPeak(flops=_tensor_cores(125, 62.5, 31.2), bandwidth=0.6e12),
    "Tesla V100-SXM2-16GB": _V100,
    "Tesla V100-SXM2-32GB": _V100,
    "NVIDIA GeForce RTX 4090": GpuPeak(flops=_tensor_cores(165.2, 82.6, 82.6), bandwidth=1.008e12),
}


def least_step_bytes(shape: StepShape, *, precision: str) -> int:
    """`minimal_step_bytes` with activations in `precision`. [bytes]"""
    return minimal_step_bytes(shape, activation_bytes=2 if precision in ("bf16", "fp16") else 4)


def compute_floor_s(shape: StepShape, *, gpu: str | None, precision: str) -> float | None:
    """What a step's FLOPs take at the GPU's peak in this precision; None where that peak is not known."""
    peak = GPU_PEAKS.get(gpu or "")
    flops_per_s = peak.flops.get(precision) if peak else None
    return None if flops_per_s is None else train_step_flops(shape) / flops_per_s


def memory_floor_s(shape: StepShape, *, gpu: str | None, precision: str) -> float | None:
    """What the bytes of `minimal_step_bytes`' model take at the GPU's full bandwidth; None where that is not known."""
    peak = GPU_PEAKS.get(gpu or "")
    return None if peak is None else least_step_bytes(shape, precision=precision) / peak.bandwidth


def floor_s(shape: StepShape, *, gpu: str | None, precision: str) -> float | None:
    """The roofline, by this model of the traffic: the longer of the two floors. None unless both are known.

    No step can beat its arithmetic. A step that keeps what the model counts in caches or registers can beat the rest.
    """
    computing = compute_floor_s(shape, gpu=gpu, precision=precision)
    moving = memory_floor_s(shape, gpu=gpu, precision=precision)
    return None if computing is None or moving is None else max(computing, moving)


def mfu_pct(shape: StepShape, *, step_s: float, gpu: str | None, precision: str) -> float | None:
    """Model FLOPs utilisation of a training step that takes `step_s`, in percent; None where the peak is not known."""
    floor = compute_floor_s(shape, gpu=gpu, precision=precision)
    return None if floor is None else 100 * floor / step_s
