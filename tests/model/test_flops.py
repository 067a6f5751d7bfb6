"""Counted FLOPs and parameters are those of the built model; bytes grow and shrink as traffic does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from published_kit import flash_calls_fixture  # noqa: F401
from torch.utils.flop_counter import FlopCounterMode

from model import as_published
from model.as_published import FLASH
from model.flops import (
    GPU_PEAKS,
    StepShape,
    floor_s,
    forward_flops,
    memory_floor_s,
    mfu_pct,
    minimal_step_bytes,
    parameter_count,
    train_step_flops,
)
from model.heads import count_parameters
from model.patchtst import build_model
from model.presets import build_fields
from model.pruning.surgery import remove_heads

SMALL = StepShape(
    batch_size=2, num_channels=3, context_length=48, prediction_length=10, patch_length=12, patch_stride=12,
    d_model=24, num_heads=6, num_layers=2, ffn_dim=40,
)  # fmt: skip
OVERLAPPING = dataclasses.replace(SMALL, context_length=50, patch_length=8, patch_stride=3, num_heads=2, ffn_dim=16)
ONE_LAYER = dataclasses.replace(SMALL, num_layers=1, num_heads=1, batch_size=1)
PADDED = dataclasses.replace(OVERLAPPING, end_padding=True)
PRUNED = dataclasses.replace(SMALL, heads_kept=(4, 1))
SHAPES = {"small": SMALL, "overlap": OVERLAPPING, "padded": PADDED, "one": ONE_LAYER, "pruned": PRUNED}


def _model(shape: StepShape) -> Any:
    fields = dataclasses.asdict(shape)
    kept = fields.pop("heads_kept")
    for name in ("batch_size", "projections"):
        fields.pop(name)
    model = build_model(
        **fields, dropout=0.1, head_dropout=0.2, attention_dropout=0.0, norm_type="batchnorm", pre_norm=True,
        attention="eager",
    )  # fmt: skip
    if kept is not None:
        remove_heads(model, None, {layer: set(range(heads, shape.num_heads)) for layer, heads in enumerate(kept)})
    return model


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_flops_are_those_that_pytorch_counts(shape: StepShape) -> None:
    model = _model(shape)
    past = torch.randn(shape.batch_size, shape.context_length, shape.num_channels)
    future = torch.randn(shape.batch_size, shape.prediction_length, shape.num_channels)
    with FlopCounterMode(display=False) as forward:
        loss = model(past_values=past, future_values=future).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert forward_flops(shape) == forward.get_total_flops()
    assert train_step_flops(shape) == forward.get_total_flops() + backward.get_total_flops()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parameters_are_those_of_the_model(shape: StepShape) -> None:
    assert parameter_count(shape) == count_parameters(_model(shape))


@pytest.mark.usefixtures("flash_calls")
@pytest.mark.parametrize("kind", FLASH)
def test_an_arm_as_published_counts_the_projections_that_it_computes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(as_published, "KERNEL_DTYPE", torch.float32)
    shape = dataclasses.replace(SMALL, projections=4 if FLASH[kind].projects_out else 3)
    fields = dataclasses.asdict(shape)
    for name in ("heads_kept", "batch_size", "projections"):
        fields.pop(name)
    model = build_model(
        **fields, dropout=0.1, head_dropout=0.2, attention_dropout=0.0, norm_type="batchnorm", pre_norm=True,
        attention="flash_attention_2", as_published=kind,
    )  # fmt: skip
    past = torch.randn(shape.batch_size, shape.context_length, shape.num_channels)
    future = torch.randn(shape.batch_size, shape.prediction_length, shape.num_channels)
    with FlopCounterMode(display=False) as counter:
        model(past_values=past, future_values=future).loss.backward()
    assert train_step_flops(shape) == counter.get_total_flops()


def test_a_projection_that_is_skipped_moves_no_bytes() -> None:
    skipped = dataclasses.replace(SMALL, projections=3)
    saved = minimal_step_bytes(SMALL, activation_bytes=2) - minimal_step_bytes(skipped, activation_bytes=2)
    wide, layers = SMALL.sequences * SMALL.patches * SMALL.d_model, SMALL.num_layers
    # Its input is neither written nor read, its gradients neither; its weights stay where they are
    assert saved == layers * (5 * wide * 2 + (24 * 24 + 24) * 40)
    assert parameter_count(skipped) == parameter_count(SMALL)


@pytest.mark.parametrize("change", [{"projections": 2}, {"projections": 3, "heads_kept": (6, 5)}])
def test_projections_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give 4, or 3 while no head has left"):
        train_step_flops(dataclasses.replace(SMALL, **change))


def test_halving_the_width_of_activations_saves_less_than_half_of_the_bytes() -> None:
    half, full = (minimal_step_bytes(SMALL, activation_bytes=width) for width in (2, 4))
    assert half < full < 2 * half


def test_fewer_heads_cost_fewer_flops_bytes_and_parameters() -> None:
    assert train_step_flops(PRUNED) < train_step_flops(SMALL)
    assert minimal_step_bytes(PRUNED, activation_bytes=2) < minimal_step_bytes(SMALL, activation_bytes=2)
    assert parameter_count(SMALL) - parameter_count(PRUNED) == (2 + 5) * (4 * 24 * 4 + 3 * 4)


def test_attention_moves_eleven_tensors_per_layer() -> None:
    """4 forward, 7 backward: docs and figures quote the attention kernel's floor by this number."""
    wider = dataclasses.replace(SMALL, d_model=48, num_heads=12, heads_kept=(12, 12))
    fewer = dataclasses.replace(wider, heads_kept=(11, 12))
    tokens, width = SMALL.sequences * SMALL.patches, 4
    saved = minimal_step_bytes(wider, activation_bytes=2) - minimal_step_bytes(fewer, activation_bytes=2)
    weights = (parameter_count(wider) - parameter_count(fewer)) * 40
    # Besides the 11: q k v written and read back as gradients (3 + 3), out_proj's input and its gradient (1 + 2).
    assert saved - weights == (11 + 9) * tokens * width * 2


@pytest.mark.parametrize("kept", [(1,), (0, 1), (7, 6), (1, 2, 3)])
def test_heads_that_cannot_be_are_refused(kept: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give 2 numbers from 1 to 6"):
        forward_flops(dataclasses.replace(SMALL, heads_kept=kept))


def test_the_study_step_at_batch_128_is_about_150_gflop() -> None:
    """An order of magnitude to recognise: 37,632 tokens through 0.6 million weights of the encoder, 6 FLOP each."""
    preset = build_fields("study")
    names = ("d_model", "num_heads", "num_layers", "ffn_dim", "context_length", "patch_length")
    shape = StepShape(
        batch_size=128, num_channels=7, prediction_length=96, patch_stride=12, **{name: preset[name] for name in names}
    )
    assert (shape.sequences, shape.patches) == (896, 42)
    assert 1.3e11 < train_step_flops(shape) < 1.8e11


def test_utilisation_and_floor_are_known_only_for_a_gpu_whose_peak_is_known() -> None:
    name = next(iter(GPU_PEAKS))
    for gpu in (None, "some GPU"):
        assert mfu_pct(SMALL, step_s=1.0, gpu=gpu, precision="bf16") is None
        assert floor_s(SMALL, gpu=gpu, precision="bf16") is None
    at_peak = train_step_flops(SMALL) / GPU_PEAKS[name].flops["bf16"]
    assert mfu_pct(SMALL, step_s=at_peak, gpu=name, precision="bf16") == pytest.approx(100)
    assert mfu_pct(SMALL, step_s=2 * at_peak, gpu=name, precision="bf16") == pytest.approx(50)


@pytest.mark.parametrize("gpu", GPU_PEAKS)
def test_the_floor_is_the_longer_of_computing_and_moving(gpu: str) -> None:
    for precision, width in (("bf16", 2), ("fp16", 2), ("tf32", 4), ("fp32", 4)):
        floor = floor_s(SMALL, gpu=gpu, precision=precision)
        if precision not in GPU_PEAKS[gpu].flops:
            assert floor is None
            continue
        assert floor is not None
        assert floor >= train_step_flops(SMALL) / GPU_PEAKS[gpu].flops[precision]
        assert floor >= minimal_step_bytes(SMALL, activation_bytes=width) / GPU_PEAKS[gpu].bandwidth


@pytest.mark.parametrize("gpu", GPU_PEAKS)
def test_a_peak_is_larger_the_fewer_bits_a_product_takes(gpu: str) -> None:
    flops = GPU_PEAKS[gpu].flops
    assert flops["fp16"] > flops["fp32"] > 1e12
    assert flops.get("bf16", flops["fp16"]) == flops["fp16"]
    assert flops.get("tf32", flops["fp32"]) >= flops["fp32"]
    assert 1e11 < GPU_PEAKS[gpu].bandwidth < 1e13


def test_a_gpu_without_units_for_a_precision_has_no_peak_in_it() -> None:
    volta = "Tesla V100-SXM2-16GB"
    assert mfu_pct(SMALL, step_s=1.0, gpu=volta, precision="bf16") is None
    assert floor_s(SMALL, gpu=volta, precision="tf32") is None
    assert memory_floor_s(SMALL, gpu=volta, precision="bf16") == pytest.approx(
        minimal_step_bytes(SMALL, activation_bytes=2) / 0.9e12
    )
