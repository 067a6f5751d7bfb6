"""Residual attention: each layer's scores are those of its own and of all layers before it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from model_kit import COLUMNS, L, small_model
from torch import Tensor

from model.patchtst import load_model, save_model
from model.pruning.surgery import remove_heads
from model.residual.reason import residual_reason
from tune.gate.check import check_arm
from tune.gate.numerics import GatedArm

PLAIN = {"attention": "eager", "layers": "transformers", "recompute": "never", "as_published": None}


def _model(**fields: Any) -> Any:
    fields = {"num_layers": 3, "head_dropout": 0.0, "init": "torch"} | fields
    model = small_model(residual_attention=True, **fields)
    with torch.no_grad():
        for layer in model.model.encoder.layers:  # so that scores are not near zero
            layer.self_attn.q_proj.weight.mul_(4)
            layer.self_attn.k_proj.weight.mul_(4)
    return model


def _past() -> Tensor:
    return torch.randn(5, L, len(COLUMNS), generator=torch.Generator().manual_seed(3))


def _by_hand(encoder: Any, patches: Tensor) -> Tensor:
    """The encoder's output, written down from the paper's formula."""
    hidden = encoder.positional_encoder(encoder.embedder(patches)).flatten(0, 1)
    total: Any = 0.0
    for layer in encoder.layers:
        attention, read = layer.self_attn, layer.norm_sublayer1(hidden) if layer.pre_norm else hidden
        heads = [
            projection(read).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        ]
        total = total + heads[0] @ heads[1].mT * attention.scaling
        mixed = attention.out_proj((total.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2))
        hidden = hidden + mixed if layer.pre_norm else layer.norm_sublayer1(hidden + mixed)
        moved = hidden + layer.ff(layer.norm_sublayer3(hidden) if layer.pre_norm else hidden)
        hidden = moved if layer.pre_norm else layer.norm_sublayer3(moved)
    return hidden.unflatten(0, patches.shape[:2])


@pytest.mark.parametrize("pre_norm", [True, False])
def test_scores_are_added_up_over_the_layers(pre_norm: bool) -> None:
    encoder = _model(pre_norm=pre_norm).double().eval().model.encoder
    patches = torch.randn(2, len(COLUMNS), 4, 12, dtype=torch.float64)
    exact = _by_hand(encoder, patches)
    torch.testing.assert_close(encoder(patches).last_hidden_state, exact, atol=1e-12, rtol=1e-12)
    plain = small_model(init="torch", num_layers=3, pre_norm=pre_norm).double().eval().model.encoder
    plain.load_state_dict(encoder.state_dict())
    assert (plain(patches).last_hidden_state - exact).norm() > 0.01 * exact.norm(), "it is another function"


def test_a_step_compiles_without_a_graph_break_and_computes_the_same() -> None:
    model, found = _model(num_layers=2, end_padding=True), []
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False)
    for each in (model, compiled):
        each(past_values=_past(), future_values=torch.zeros(5, 10, len(COLUMNS))).loss.backward()
        found.append([value.grad for value in each.parameters() if value.requires_grad])
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_it_passes_the_gate_in_half_precision() -> None:
    fields: dict[str, Any] = {
        "num_channels": 2, "context_length": 48, "prediction_length": 8, "patch_length": 12, "patch_stride": 6,
        "d_model": 16, "num_heads": 2, "num_layers": 2, "ffn_dim": 32, "dropout": 0.2, "head_dropout": 0.0,
        "attention_dropout": 0.0, "norm_type": "batchnorm", "pre_norm": False, "residual_attention": True,
        "end_padding": True, "init": "torch", "positions": "learned", "attention_output_dropout": 0.2, **PLAIN,
    }  # fmt: skip
    arm = GatedArm(model=fields, heads=2, engine="eager", precision="bf16", batch_size=5)
    result = check_arm(arm, torch.device("cpu"), None)
    assert result.problem is None and result.relative_error <= 1


def test_a_saved_model_forecasts_the_same_bits_and_is_loaded_in_no_other_way(tmp_path: Path) -> None:
    model = _model(end_padding=True, positions="learned").eval()
    save_model(model, tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(*(each(past_values=_past()).prediction_outputs for each in (model, loaded)))
    for other in ({"attention": "patch"}, {"layers": "fused"}, {"recompute": "always"}):
        with pytest.raises(ValueError, match="needs the scores of each layer in memory"):
            load_model(tmp_path / "saved", **other)  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [{"attention": "flex"}, {"layers": "fused"}, {"as_published": "flash"}], ids=str)
def test_how_it_cannot_be_computed_is_a_reason_that_says_what_to_set(other: dict[str, str]) -> None:
    assert residual_reason(**PLAIN) is None  # type: ignore[arg-type]
    assert "set model." in (residual_reason(**PLAIN | other) or "")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="set model"):
        small_model(residual_attention=True, **other)


def test_its_heads_cannot_leave() -> None:
    with pytest.raises(ValueError, match="no head can leave"):
        remove_heads(_model(), None, {0: {1}})
