"""The model is the paper's PatchTST; a saved folder is complete or does not exist."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model.attention import BACKENDS
from model.heads import attention_layers, count_parameters, heads_per_layer
from model.patchtst import build_model, load_model, save_model
from model.presets import PRESETS, build_fields
from model.pruning.surgery import remove_heads

ROOT = Path(__file__).resolve().parents[2]
CHANNELS, L, H, N, D = 2, 48, 10, 4, 16


def _model(**fields: Any) -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_channels": CHANNELS, "context_length": L, "prediction_length": H, "patch_length": 12, "patch_stride": 12,
        "d_model": D, "num_heads": 4, "num_layers": 2, "ffn_dim": 24, "dropout": 0.0, "head_dropout": 0.2,
        "attention_dropout": 0.0, "norm_type": "batchnorm", "pre_norm": True, "attention": "eager",
    }  # fmt: skip
    return build_model(**shape | fields)


def _forecast(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(past_values=torch.linspace(-1, 1, L * CHANNELS).view(1, L, CHANNELS)).prediction_outputs


def test_the_head_reads_every_patch_and_not_their_mean() -> None:
    assert _model().head.projection.in_features == N * D


def test_a_forecast_has_the_shape_of_the_horizon_and_follows_the_level_and_scale_of_its_window() -> None:
    model = _model().eval()
    past = torch.randn(3, L, CHANNELS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, moved = (model(past_values=window).prediction_outputs for window in (past, 100 * past + 1000))
    assert plain.shape == (3, H, CHANNELS)
    torch.testing.assert_close(moved, 100 * plain + 1000, rtol=1e-4, atol=1e-2)


def test_dropout_acts_after_the_positions_on_the_residual_paths_and_in_the_feed_forward_layers() -> None:
    def rates(model: nn.Module) -> dict[str, float]:
        return {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}

    assert set(rates(_model()).values()) == {0.2}, "without dropout only the head's is left"
    probabilities = rates(_model(dropout=0.3, head_dropout=0.0, num_layers=1))
    assert set(probabilities.values()) == {0.3}
    assert sorted(name.split(".")[-1] for name in probabilities) == [
        "2",
        "dropout_path1",
        "dropout_path3",
        "positional_dropout",
    ]
    assert {layer.dropout for layer in attention_layers(_model(attention_dropout=0.1))} == {0.1}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_full_model_that_forecasts(preset: str) -> None:
    fields = build_fields(preset)
    model = build_model(num_channels=1, prediction_length=96, attention="eager", **fields).eval()
    with torch.no_grad():
        output = model(past_values=torch.randn(1, fields["context_length"], 1)).prediction_outputs
    assert output.shape == (1, 96, 1)


@pytest.mark.parametrize(
    "fields", [{"attention": "flesh"}, {"num_heads": 3}, {"patch_length": L}, {"norm_type": "groupnorm"}], ids=str
)
def test_a_shape_that_cannot_be_built_is_a_value_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        _model(**fields)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("pruned", [False, True], ids=["all heads", "pruned"])
def test_a_saved_model_comes_back_under_each_backend(name: str, pruned: bool, tmp_path: Path) -> None:
    model = _model(attention=name)
    if pruned:
        remove_heads(model, None, {0: {1, 2}})
    save_model(model, tmp_path / "saved")
    loaded = load_model(tmp_path / "saved", attention=name)
    assert loaded.config._attn_implementation == BACKENDS[name].register()
    assert heads_per_layer(loaded) == heads_per_layer(model) and count_parameters(loaded) == count_parameters(model)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )


def test_without_a_named_backend_a_model_is_loaded_to_run_anywhere(tmp_path: Path) -> None:
    model = _model(attention="sdpa_efficient")
    save_model(model, tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert not loaded.training
    model.set_attn_implementation("eager")
    assert torch.equal(_forecast(loaded), _forecast(model))


def test_a_pruned_model_goes_on_losing_heads_after_it_was_loaded(tmp_path: Path) -> None:
    model = _model()
    remove_heads(model, None, {0: {0}, 1: {3}})
    save_model(model, tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    for each in (model, loaded):
        remove_heads(each, None, {0: {2}})
    assert heads_per_layer(loaded) == [[1, 3], [0, 1, 2]]
    assert torch.equal(_forecast(loaded), _forecast(model))
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["kept_heads"] == [[1, 2, 3], [0, 1, 2]]


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(type(model.config), "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "module", ["model.presets", "model.flops", "model.attention", "model.pruning", "model.pruning.schedules"]
)
def test_what_planning_needs_of_the_model_imports_no_torch(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "sys.exit(', '.join({'torch', 'transformers', 'numpy', 'safetensors'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
