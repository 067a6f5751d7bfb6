"""The fused layers in Triton's interpreter, on a CPU: run by tests/model/fused/test_fused.py in its own process."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from model.fused.encoder import fuse
from model.heads import attention_layers
from model.patchtst import build_model
from model.pruning.surgery import remove_heads

FIELDS: dict[str, Any] = {
    "num_channels": 3, "context_length": 48, "prediction_length": 8, "patch_length": 12, "patch_stride": 6,
    "d_model": 32, "num_heads": 4, "num_layers": 2, "ffn_dim": 96, "dropout": 0.0, "head_dropout": 0.0,
    "attention_dropout": 0.0, "norm_type": "batchnorm", "pre_norm": True, "attention": "eager",
}  # fmt: skip


def _pair(**changes: Any) -> tuple[Any, Any]:
    """The same model plain and fused, with scales and shifts that are not 1 and 0."""
    torch.manual_seed(0)
    plain = build_model(**FIELDS | changes)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)) if "norm" in name else parameter.mul_(2.0)
    return plain, fuse(copy.deepcopy(plain))


def _gradients(model: Any, batch: int = 11, dtype: torch.dtype | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    past, future = torch.randn(batch, 48, 3), torch.randn(batch, 8, 3)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        output = model(past_values=past, future_values=future)
    output.loss.backward()
    return output.prediction_outputs.detach().double(), {
        name: parameter.grad.double() for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def _error(ours: Tensor, true: Tensor) -> float:
    return ((ours - true).norm() / true.norm()).item()


@pytest.mark.parametrize("heads", [0, 1])
@pytest.mark.parametrize("changes", [{}, {"d_model": 48, "num_heads": 3, "ffn_dim": 80}], ids=str)
def test_forecasts_gradients_and_running_statistics_are_those_of_transformers(changes: Any, heads: int) -> None:
    plain, fused = _pair(**changes)
    for model in (plain, fused) if heads else ():
        remove_heads(model, None, {layer: {0} for layer in range(len(attention_layers(model)))})
    exact, mine = _gradients(plain), _gradients(fused)
    assert _error(mine[0], exact[0]) < 2e-6
    for name, gradient in exact[1].items():
        if "k_proj.bias" not in name:
            assert _error(mine[1][name], gradient) < 1e-5, name
    for (name, expected), computed in zip(plain.named_buffers(), fused.buffers(), strict=True):
        torch.testing.assert_close(expected, computed, msg=name)


def test_in_half_precision_it_is_at_most_twice_as_far_from_fp64_as_transformers() -> None:
    plain, fused = _pair()
    exact = _gradients(copy.deepcopy(plain).double().float())
    theirs, ours = _gradients(plain, dtype=torch.float16), _gradients(fused, dtype=torch.float16)
    assert _error(ours[0], exact[0]) <= 2 * _error(theirs[0], exact[0]) + 1e-6
    names = [name for name in exact[1] if "k_proj.bias" not in name]
    flat = [torch.cat([found[1][name].flatten() for name in names]) for found in (ours, theirs, exact)]
    assert _error(flat[0], flat[2]) <= 2 * _error(flat[1], flat[2]) + 1e-6


def test_evaluation_takes_the_running_statistics_and_leaves_them() -> None:
    plain, fused = _pair()
    for model in (plain, fused):
        _gradients(model)
        model.eval()
    before = [buffer.clone() for buffer in fused.buffers()]
    past = torch.randn(2, 48, 3)
    with torch.no_grad():
        torch.testing.assert_close(fused(past_values=past)[0], plain(past_values=past)[0], atol=2e-5, rtol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, fused.buffers(), strict=True))


def test_gradients_in_evaluation_take_the_statistics_as_constants() -> None:
    plain, fused = _pair()
    for model in (plain, fused):
        model.eval()
    exact, mine = _gradients(plain), _gradients(fused)
    for name, gradient in exact[1].items():
        if "k_proj.bias" not in name:
            assert _error(mine[1][name], gradient) < 1e-5, name


def test_weights_load_both_ways() -> None:
    plain, fused = _pair()
    plain.load_state_dict(fused.state_dict())
    fused.load_state_dict(plain.state_dict())
    assert list(plain.state_dict()) == list(fused.state_dict())
