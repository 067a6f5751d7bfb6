"""The memory model: against what autograd saves on this CPU, and against peaks that sweeps recorded on GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model import memory
from model.flops import StepShape
from model.memory import ERROR, Execution, step_memory
from model.patchtst import build_model
from model.presets import PRESETS

GIB = 2**30
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
RECORDED = ("2026-11-27-attention-ETTm1-h100", "2026-11-27-patch_size-ETTm1-h100", "2026-11-27-pruning-ETTm1-h100",
            "2026-11-27-seed_study-h100", "2026-11-30-attention-auto-ETTm1-h200")  # fmt: skip
BATCH, CHANNELS, PATCHES, LENGTH = 8, 7, 12, 8


def _saved(precision: str, *, layers: int, d: int, f: int, **model: Any) -> int:
    """Bytes that a forward pass of the eager engine keeps for its backward pass, without weights."""
    torch.manual_seed(1)
    shape = {"context_length": LENGTH * PATCHES, "patch_length": LENGTH, "patch_stride": LENGTH, "num_heads": 4}
    built = build_model(
        num_channels=CHANNELS, prediction_length=24, d_model=d, num_layers=layers, ffn_dim=f, attention_dropout=0.0,
        head_dropout=0.0, dropout=0.0, attention="sdpa_flash", **shape, **model,
    ).train()  # fmt: skip
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*built.parameters(), *built.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tuple(tensor.shape) not in ((f, d), (d, f), (d, d)):  # half copies
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    past, future = torch.randn(BATCH, LENGTH * PATCHES, CHANNELS), torch.randn(BATCH, 24, CHANNELS)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        loss = built(past_values=past, future_values=future, return_dict=True).loss
    assert loss.requires_grad
    return sum(kept.values())


def _modelled(precision: str, *, layers: int, d: int, f: int, norm_type: str, **_: Any) -> int:
    shape = StepShape(
        batch_size=BATCH, num_channels=CHANNELS, context_length=LENGTH * PATCHES, prediction_length=24,
        patch_length=LENGTH, patch_stride=LENGTH, d_model=d, num_heads=4, num_layers=layers, ffn_dim=f,
    )  # fmt: skip
    how = Execution(layers="transformers", attention="sdpa_flash", engine="eager", precision=precision,
                    norm_type=norm_type, pre_norm=True, dropout=0.0, head_dropout=0.0)  # fmt: skip
    return step_memory(shape, how).saved


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("norm_type", ["batchnorm", "layernorm"])
@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize(("d", "f"), [(32, 64), (64, 192)])
def test_a_layer_saves_what_the_model_counts(precision: str, norm_type: str, pre_norm: bool, d: int, f: int) -> None:
    of_layers = []
    for count in (_saved, _modelled):
        two, three = (
            count(precision, layers=layers, d=d, f=f, norm_type=norm_type, pre_norm=pre_norm) for layers in (2, 3)
        )
        of_layers.append(three - two)
    measured, modelled = of_layers
    assert modelled == pytest.approx(measured, rel=0.02)  # layer norm keeps two numbers a row besides


def _trials() -> list[Any]:
    found = {}
    for name in RECORDED:
        for trial in json.loads((RESULTS / f"{name}.json").read_text())["trials"]:
            params, peak = trial["params"], trial["metrics"].get("gpu/peak_memory_gib")
            # An arm of the replaced study computes attention in a precision of its own.
            if peak and params.get("model.as_published") in (None, "vanilla"):
                key = (
                    params["model.attention"],
                    params["model.patch_length"],
                    params["train.precision"],
                    round(peak, 3),
                )
                found[name, key] = pytest.param(params, trial["metrics"], id=f"{name}-{'-'.join(map(str, key))}")
    return list(found.values())


@pytest.mark.parametrize(("params", "metrics"), _trials())
def test_recorded_peaks_are_within_the_error_that_plans_state(
    params: dict[str, Any], metrics: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_hopper_computes", lambda *_: False)  # there were no such kernels yet
    shape, how = _as_trained(params, channels=7, heads=int(metrics["model/heads"]))
    assert step_memory(shape, how).total / GIB == pytest.approx(metrics["gpu/peak_memory_gib"], rel=ERROR)


def test_the_measured_step_on_traffics_shape_is_within_the_error() -> None:
    preset = PRESETS["traffic"] | {
        "data.prediction_length": 96, "model.attention": "patch", "model.layers": "transformers",
        "train.engine": "graph", "train.precision": "bf16",
    }  # fmt: skip
    shape, how = _as_trained(preset, channels=862, heads=48)
    series = 4 * 17_544 * 862
    assert (step_memory(shape, how).total + series) / GIB == pytest.approx(11.1, rel=ERROR)


@pytest.mark.parametrize(
    ("dropout", "recompute", "peak_gib", "error"),
    [(0.0, False, 0.570, ERROR), (0.0, True, 0.372, 0.12), (0.2, False, 0.657, ERROR), (0.2, True, 0.456, ERROR)],
)
def test_peaks_of_captured_fused_steps_are_those_of_an_h200(
    dropout: float, recompute: bool, peak_gib: float, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/measurements.md, 2026-12-01: Hopper kernels without dropout, plain ones with it."""
    monkeypatch.setattr(memory, "_hopper_computes", lambda *_: not dropout)
    shape = StepShape(
        batch_size=16, num_channels=128, context_length=336, prediction_length=96, patch_length=16, patch_stride=8,
        d_model=128, num_heads=16, num_layers=3, ffn_dim=256,
    )  # fmt: skip
    how = Execution(layers="fused", attention="patch", engine="graph", precision="bf16", norm_type="batchnorm",
                    pre_norm=True, dropout=dropout, head_dropout=0.2, recompute=recompute)  # fmt: skip
    assert step_memory(shape, how).total / GIB == pytest.approx(peak_gib, rel=error)


def test_recomputing_keeps_one_layer_and_the_inputs_of_the_others() -> None:
    shape, how = _as_trained(
        PRESETS["traffic"] | {"data.prediction_length": 96, "model.attention": "patch", "train.engine": "graph",
                              "train.precision": "bf16"}, channels=862, heads=48,
    )  # fmt: skip
    always = Execution(**{**vars(how), "recompute": True})
    assert step_memory(shape, always).saved < 0.6 * step_memory(shape, how).saved
    assert step_memory(shape, always).weights == step_memory(shape, how).weights


def _as_trained(params: dict[str, Any], *, channels: int, heads: int) -> tuple[StepShape, Execution]:
    layers = params["model.num_layers"]
    shape = StepShape(
        batch_size=params["train.batch_size"], num_channels=channels, context_length=params["data.context_length"],
        prediction_length=params["data.prediction_length"], patch_length=params["model.patch_length"],
        patch_stride=params["model.patch_stride"], d_model=params["model.d_model"],
        num_heads=params["model.num_heads"], num_layers=layers, ffn_dim=params["model.ffn_dim"],
        heads_kept=[heads // layers] * layers,
    )  # fmt: skip
    how = Execution(
        layers=params.get("model.layers") or "transformers", attention=params["model.attention"],
        engine=params["train.engine"], precision=params["train.precision"], norm_type=params["model.norm_type"],
        pre_norm=params["model.pre_norm"],
        dropout=params["model.dropout"], head_dropout=params["model.head_dropout"],
    )  # fmt: skip
    return shape, how
