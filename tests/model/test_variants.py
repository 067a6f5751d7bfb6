"""What the official PatchTST does otherwise than transformers' is built as asked, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_kit import COLUMNS, L, small_model
from torch import nn

from model.attention import BACKENDS
from model.fused.dropout import Rates
from model.patchtst import load_model, save_model
from model.variants import LEARNED_POSITION


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def _positions(model: Any) -> nn.Parameter:
    table: nn.Parameter = model.model.encoder.positional_encoder.position_enc
    return table


def test_torchs_initialisation_draws_every_linear_layer_up_to_one_over_the_root_of_its_inputs() -> None:
    layers = _linears(small_model(init="torch"))
    assert len(layers) == 1 + 2 * 6 + 1
    for name, layer in layers.items():
        bound = layer.in_features**-0.5
        for values in (layer.weight, layer.bias):
            assert values.abs().max() <= bound, name
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15), name
        assert layer.bias.abs().max() > 0, name


@pytest.mark.parametrize("attention", [name for name in BACKENDS if name != "eager"])
def test_initial_weights_follow_from_the_random_state_alone(attention: str) -> None:
    fields = {"init": "torch", "positions": "learned"}
    models = [small_model("eager", **fields), small_model(attention, **fields, attention_output_dropout=0.3)]
    ours, theirs = (model.state_dict() for model in models)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_learned_positions_are_small_and_trained_and_leave_the_other_weights_as_they_are() -> None:
    fixed, learned = small_model(init="torch"), small_model(init="torch", positions="learned")
    assert not _positions(fixed).requires_grad and _positions(learned).requires_grad
    assert _positions(learned).abs().max() <= LEARNED_POSITION
    assert _positions(learned).std().item() == pytest.approx(LEARNED_POSITION / 3**0.5, rel=0.15)
    theirs = learned.state_dict()
    differ = [name for name, value in fixed.state_dict().items() if not torch.equal(value, theirs[name])]
    assert differ == ["model.encoder.positional_encoder.position_enc"]


RATES = {
    "dropout": 0.5, "position_dropout": 0.1, "attention_residual_dropout": 0.2, "attention_output_dropout": 0.2,
    "ffn_dropout": 0.3, "ffn_residual_dropout": 0.4,
}  # fmt: skip


@pytest.mark.parametrize("loaded", [False, True], ids=["built", "loaded"])
def test_every_place_has_its_own_rate_and_two_dropouts_after_attention_are_one(loaded: bool, tmp_path: Path) -> None:
    model = small_model(**RATES)
    if loaded:
        save_model(model, tmp_path / "saved")
        model = load_model(tmp_path / "saved")
    assert model.model.encoder.positional_encoder.positional_dropout.p == 0.1
    for layer in model.model.encoder.layers:
        rates = Rates.of(layer)  # as the fused layers read them
        assert (rates.attention, rates.feed_forward, rates.feed_forward_path) == pytest.approx((0.36, 0.3, 0.4))


def test_a_place_without_a_rate_of_its_own_has_the_models() -> None:
    (layer, *_) = small_model(dropout=0.5, ffn_dropout=0.0).model.encoder.layers
    assert Rates.of(layer) == Rates(attention_path=0.5, feed_forward=0.0, feed_forward_path=0.5)


@pytest.mark.parametrize("fields", [{"init": "touch"}, {"positions": "sine"}], ids=str)
def test_an_unknown_name_is_a_value_error_that_lists_the_known_ones(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give one of"):
        small_model(**fields)


@pytest.mark.parametrize(("length", "stride", "count"), [(48, 12, 5), (49, 3, 15)], ids=["divides", "does not"])
def test_end_padding_adds_one_patch_and_leaves_no_value_out(length: int, stride: int, count: int) -> None:
    model = small_model(
        end_padding=True, context_length=length, patch_length=8 if stride == 3 else 12, patch_stride=stride
    )
    patchifier, past = model.model.patchifier, torch.randn(2, length, len(COLUMNS))
    patches = patchifier(past)
    lengthened = nn.ReplicationPad1d((0, stride))(past.mT)  # as the official code does it
    assert torch.equal(patches, lengthened.unfold(-1, patchifier.patch_length, stride))
    assert patches.shape[2] == patchifier.num_patches == count == len(_positions(model))
    numbers = patchifier(torch.arange(float(length))[None, :, None].expand(1, -1, len(COLUMNS)))
    assert set(numbers.flatten().int().tolist()) == set(range(length))
    assert model.config.context_length == length
    with pytest.raises(ValueError, match="this model takes"):
        patchifier(past[:, 1:])


def test_a_model_with_end_padding_comes_back_from_its_folder(tmp_path: Path) -> None:
    model = small_model(end_padding=True).eval()
    save_model(model, tmp_path / "saved")
    past = torch.randn(2, L, len(COLUMNS))
    with torch.no_grad():
        assert torch.equal(
            *(each(past_values=past).prediction_outputs for each in (model, load_model(tmp_path / "saved")))
        )
