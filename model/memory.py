"""Bytes of GPU memory of one training step, from the shape alone. Pure; importable without torch.

What autograd saves is counted by the code of the layers: saved-tensor hooks show the same numbers on a CPU
(tests/model/test_memory.py). What is alive for a moment in the backward pass, at its peak, is modelled; so is what an
attention kernel keeps for its gradients. Recorded peaks of sweeps on H100 and H200 are within ERROR of the estimate
(tests/model/test_memory.py holds them).

Letters: S sequences (batch x channels), N patches, M = S x N rows, D model width, W attention width of a layer, K
heads, E head width, F feed-forward width, a bytes of an activation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from model.attention.pieces import fa2_limit, grid_limit
from model.flops import FP32_BYTES, StepShape, parameter_count
from model.fused.hopper.reason import hopper_reason

ERROR = 0.10  # of the estimate, each way (docs/measurements.md): the largest found in records is 0.045
CONTEXT_BYTES = 1 << 30  # outside the allocator: CUDA's context, kernels, graphs; 0.5 to 0.9 GiB on an H100
WEIGHT_COPIES = 4  # weight, gradient and Adam's two moments, in fp32
INPUT_COPIES = 5  # windows as they are gathered, scaled, cut into patches, forecast and compared
EVAL_ROWS = 1 << 18  # of an evaluation batch: 7 times as many as the study's training batch
EVAL_SHARE = 0.05  # of the GPU's memory
HALF = ("bf16", "fp16")
COMPILED = ("compile", "graph")
# Bytes that kernels take for their gradients of q, for each sequence and head: FlashAttention-2 sums dQ in fp32, N
# padded to 128 and E to 32 (csrc/flash_attn/flash_api.cpp, dq_accum); CUTLASS' kernel keeps the same at 42 patches as
# measured, modelled as two such tiles of 64. Others: none that is known.
FLASH_2 = ("sdpa_flash", "flash_attention_2")
_ACCUMULATORS: Mapping[str, tuple[int, int]] = {  # backend -> (copies, rows of a tile)
    **dict.fromkeys(FLASH_2, (1, 128)),
    "sdpa_efficient": (2, 64),
}


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a step is computed, as far as its memory depends on it."""

    layers: str  # transformers or fused
    attention: str  # a name in model.attention.BACKENDS
    engine: str  # eager, compile or graph
    precision: str  # fp32 tf32 bf16 fp16
    norm_type: str
    pre_norm: bool
    dropout: float
    head_dropout: float
    residual_attention: bool = False  # whether scores are handed from layer to layer
    recompute: bool = False  # whether layers are computed again in the backward pass instead of kept
    hopper: bool = True  # cuBLAS takes 32 MiB for a stream there, 8 MiB elsewhere


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes at the peak of a training step."""

    weights: int  # with gradients and moments
    inputs: int  # windows and forecasts
    saved: int  # by the forward pass for the backward pass
    passing: int  # of the backward pass, where most is alive
    workspace: int  # of cuBLAS

    @property
    def total(self) -> int:
        """What the allocator counts, without the series."""
        return self.weights + self.inputs + self.saved + self.passing + self.workspace


def step_memory(shape: StepShape, how: Execution) -> StepMemory:
    """The memory of one training step. [bytes]"""
    rows = shape.sequences * shape.patches
    half = how.precision in HALF
    attention, forward = zip(*(_saved_by_layer(shape, how, width) for width in shape.attention_widths), strict=True)
    outside = _saved_outside(shape, how)
    peaks = _peaks(shape, how, forward)
    if how.recompute and how.engine in COMPILED and _hopper_computes(shape, how):
        # What the feed-forwards leave and what they normalised is kept; the rest is computed again after their gradient
        outside += shape.num_layers * _activation(how) * shape.d_model
        saved, peaks = sum(forward), _peaks(shape, how, forward, again=max(attention))
    elif how.recompute:
        stream = _activation(how) if how.layers == "fused" else FP32_BYTES  # of what a layer is computed again from
        outside += shape.num_layers * stream * shape.d_model
        saved = max(a + f for a, f in zip(attention, forward, strict=True))  # of the layer that is computed again
    else:
        saved = sum(attention) + sum(forward)
    d, f = shape.d_model, shape.ffn_dim
    copies = sum(4 * d * width + 2 * d * f for width in shape.attention_widths) * (2 if half else 0)
    series = shape.sequences * (shape.context_length + shape.prediction_length) * FP32_BYTES
    return StepMemory(
        weights=parameter_count(shape) * WEIGHT_COPIES * FP32_BYTES + copies,
        inputs=INPUT_COPIES * series + rows * shape.patch_length * FP32_BYTES,
        saved=rows * (outside + saved),
        passing=rows * peaks,
        workspace=2 * (32 if how.hopper else 8) << 20,
    )


def evaluation_batch(shape: StepShape, how: Execution, memory_bytes: int) -> int:
    """Windows of an evaluation batch that fills a GPU: a power of two, at least 1.

    It has at most EVAL_ROWS rows, and needs at most EVAL_SHARE of the GPU's memory: a forward pass keeps nothing, so it
    holds two layers' work at most, beside windows, forecasts and their errors in fp64. It does not depend on the
    training batch, so that arms evaluate alike.
    """
    fitting = int(EVAL_SHARE * memory_bytes) // _evaluated_series(shape, how)
    windows = max(1, min(EVAL_ROWS // shape.patches, fitting) // shape.num_channels)
    return 1 << (windows.bit_length() - 1)


def evaluation_bytes(shape: StepShape, how: Execution, windows: int) -> int:
    """What an evaluation batch of so many windows needs at most."""
    return windows * shape.num_channels * _evaluated_series(shape, how)


def _evaluated_series(shape: StepShape, how: Execution) -> int:
    """Bytes for each channel of a window of an evaluation batch."""
    of_row = 2 * max(sum(parts) for parts in (_saved_by_layer(shape, how, a) for a in shape.attention_widths))
    inputs = INPUT_COPIES * FP32_BYTES * (shape.context_length + shape.prediction_length)
    return shape.patches * of_row + inputs + 3 * 8 * shape.prediction_length  # error, its square, its size


def _activation(how: Execution) -> int:
    return 2 if how.precision in HALF else FP32_BYTES


def _saved_by_layer(shape: StepShape, how: Execution, width: int) -> tuple[int, int]:
    """Bytes for each row that a layer's attention and its feed-forward keep."""
    a, d, f = _activation(how), shape.d_model, shape.ffn_dim
    scores = _scores(shape, how, width)
    if how.layers == "fused":  # input of each norm, q k v, attention's output; the residual that follows a norm
        return a * (d + 4 * width) + scores, a * d * (1 if how.pre_norm else 2)
    masks = (d, f + d) if how.dropout else (0, 0)  # bool: residual path; inside, and residual path
    stream = FP32_BYTES * d  # the input of a norm is kept in fp32
    if how.engine in COMPILED:
        normed = (a * d, a * d)
    elif a == 2:
        normed = (3 * a * d, a * d)  # autocast casts it for q, k and v each
    else:
        once = FP32_BYTES * d * (2 if how.norm_type == "batchnorm" else 1)  # batch norm transposes: one more copy
        normed = (once, once)
    return stream + normed[0] + 4 * a * width + scores + masks[0], stream + normed[1] + 2 * a * f + masks[1]


def _scores(shape: StepShape, how: Execution, width: int) -> int:
    """What attention keeps beside q, k, v and its output: the weights, or the log-sum-exp of a fused kernel."""
    heads = width * shape.num_heads // shape.d_model
    if how.attention != "eager":
        return FP32_BYTES * heads
    kept = FP32_BYTES if how.engine in COMPILED else FP32_BYTES + (2 if how.precision in HALF else 0)
    return kept * heads * shape.patches  # softmax is computed in fp32, autocast casts its result


def _saved_outside(shape: StepShape, how: Execution) -> int:
    """Bytes for each row that embedding and head keep."""
    d = shape.d_model
    embedded = FP32_BYTES * d if how.engine not in COMPILED and how.layers != "fused" else 0
    return _activation(how) * d + embedded + (d if how.head_dropout else 0) + (d if how.dropout else 0)


def _hopper_computes(shape: StepShape, how: Execution) -> bool:
    """Whether the fused layers of this step are those of `model/fused/hopper`."""
    e = shape.d_model // shape.num_heads
    return how.layers == "fused" and None is hopper_reason(
        d_model=shape.d_model, ffn_dim=shape.ffn_dim, head_dim=e, norm_type=how.norm_type, pre_norm=how.pre_norm,
        activation="gelu", dropout=how.dropout, dtype=how.precision, capability=(9, 0) if how.hopper else None,
    )  # fmt: skip


def _peaks(shape: StepShape, how: Execution, forward: tuple[int, ...], again: int = 0) -> int:
    """Bytes for each row of the backward pass, where the last layer's are the most.

    Either its feed-forward's, or its attention's, when what the feed-forward kept is free again. again: what is
    computed again between the two.
    """
    a, d, f = _activation(how), shape.d_model, shape.ffn_dim
    width = shape.attention_widths[-1]
    if how.layers == "fused":
        wide = 1 if _hopper_computes(shape, how) else 2  # g and its gradient; Hopper's kernels write the latter only
        feed_forward, attention = a * (wide * f + 3 * d), again or a * d  # by then the head's input is free
    else:
        feed_forward, attention = a * f + (a + FP32_BYTES) * d, FP32_BYTES * d
    attention += a * 4 * width + _attention_peak(shape, how, width)
    return max(feed_forward, attention - forward[-1])


def _attention_peak(shape: StepShape, how: Execution, width: int) -> int:
    """Beside the gradients of q, k, v and the output."""
    n, e = shape.patches, shape.d_model // shape.num_heads
    heads = width // e
    if how.attention == "eager":
        of_scores = _activation(how) if how.engine in COMPILED else FP32_BYTES  # compiled code casts at once
        handed_on = _activation(how) if how.residual_attention else 0  # the gradient of the scores, to the layer before
        return (_activation(how) + of_scores + handed_on) * heads * n
    if how.attention not in _ACCUMULATORS:
        return 0
    copies, tile = _ACCUMULATORS[how.attention]
    limit = fa2_limit if how.attention in FLASH_2 else grid_limit
    at_once = min(1.0, limit(heads, n, e) / shape.sequences)  # more are computed in pieces
    return int(at_once * copies * FP32_BYTES * heads * _padded(n, tile) * _padded(e, 32) / n)


def _padded(length: int, to: int) -> int:
    return -(-length // to) * to
