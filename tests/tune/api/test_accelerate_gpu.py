"""accelerate() on a GPU: its kernels run, and the loss curve is that of plain transformers.

Run alone: .venv/bin/python -m pytest tests/tune/api/test_accelerate_gpu.py -q -s -n0
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate_kit import forecasts, plain_model, trainer_losses
from torch import Tensor
from transformers import PatchTSTForPrediction

from model.patchtst import build_model
from model.presets import build_fields
from tune.api.accelerate import PartlyAccelerated, accelerate, register_attention, restore
from tune.gate.check import FACTOR
from tune.gate.kernel_names import check_kernels, layers_path
from tune.gate.profiled_step import profiled_names

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
CHANNELS, CONTEXT, HORIZON, BATCH, STEPS = 7, 512, 96, 128, 30
CURVE_SLACK = 1e-3  # of the norm: what 30 steps of AdamW make of a rounding; bf16 on a CPU came to 1e-4 and 8e-4


def _preset(name: str, **changes: Any) -> Any:
    """The preset as transformers builds it, on the GPU, without dropout: it draws other masks."""
    shape = {"num_channels": CHANNELS, "context_length": CONTEXT, "prediction_length": HORIZON, "attention": "eager"}
    fields = build_fields(name) | shape | {"dropout": 0.0, "head_dropout": 0.0}
    torch.manual_seed(0)
    model = build_model(**fields | changes).cuda()
    model.set_attn_implementation("sdpa")
    return model


def _windows(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    times = torch.arange(CONTEXT + HORIZON)[None, :, None] + 1000 * torch.rand(BATCH, 1, 1, generator=generator)
    noise = torch.randn(BATCH, CONTEXT + HORIZON, CHANNELS, generator=generator)
    values = torch.sin(times / torch.arange(3, 3 + CHANNELS)) + 0.3 * noise
    past, future = values.to("cuda", dtype).split([CONTEXT, HORIZON], dim=1)
    return past, future


def _step(model: Any, step: int, precision: torch.dtype) -> Tensor:
    double = precision == torch.float64
    past, future = _windows(step, torch.float64 if double else torch.float32)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=not double):
        loss: Tensor = model(past_values=past, future_values=future).loss
    loss.backward()
    return loss.detach()


def _curve(model: Any, precision: torch.dtype) -> Tensor:
    """The losses of 30 steps of AdamW, in fp64; the model is trained."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(STEPS):
        losses.append(_step(model, step, precision))
        optimizer.step()
        optimizer.zero_grad()
    return torch.stack(losses).double()


def _gradients(model: Any) -> dict[str, Tensor]:
    """Those that there are, which the model then has no more."""
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("layers", ["fused", "transformers"])
@pytest.mark.parametrize("preset", ["study", "ettm"])
def test_thirty_steps_have_the_loss_curve_of_plain_transformers(preset: str, layers: str) -> None:
    plain = _preset(preset)
    ours = accelerate(copy.deepcopy(plain), precision="bf16", layers=layers)
    exact = _curve(copy.deepcopy(plain).double(), torch.float64)
    errors = {
        name: ((_curve(model, torch.bfloat16) - exact).norm() / exact.norm()).item()
        for name, model in (("plain", plain), ("ours", ours))
    }
    print(f"{preset}, layers={layers}: distance of the loss curve from fp64 {errors}; {ours.acceleration}")
    assert exact[-1] < exact[0] and errors["ours"] <= FACTOR * errors["plain"] + CURVE_SLACK


@pytest.mark.parametrize("layers", ["fused", "transformers"])
def test_passes_by_cuda_graphs_have_the_losses_and_gradients_of_passes_without(layers: str) -> None:
    models = {
        graph: accelerate(_preset("study"), precision="bf16", layers=layers, cuda_graph=graph).train()
        for graph in (False, True)
    }
    for step in range(6):
        losses = {graph: _step(model, step, torch.bfloat16) for graph, model in models.items()}
        assert torch.equal(losses[True], losses[False]), f"step {step}"
        if step % 2:  # gradients of two steps add up
            grads = [_gradients(model) for model in models.values()]
            assert grads[0].keys() == grads[1].keys()
            assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0]), f"step {step}"
    states = [model.state_dict() for model in models.values()]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_dropout_by_a_cuda_graph_differs_from_step_to_step() -> None:
    model: Any = accelerate(_preset("ettm", dropout=0.2), precision="bf16", layers="fused").train()
    losses = [_step(model, 0, torch.bfloat16).item() for _ in range(6)]
    assert len(set(losses)) == 6


@pytest.mark.parametrize(("layers", "who"), [("fused", "kernels"), ("transformers", "PyTorch's")])
def test_a_step_runs_our_kernels_and_after_restore_none(layers: str, who: str) -> None:
    model = accelerate(_preset("study"), precision="bf16", layers=layers).train()
    names = profiled_names(lambda: _step(model, 0, torch.bfloat16), "cuda")
    assert check_kernels(names, attention="patch", device_type="cuda")
    assert who in layers_path(names)
    restore(model)
    names = profiled_names(lambda: _step(model, 0, torch.bfloat16), "cuda")
    assert layers_path(names) == "PyTorch's" and not any("patch_attention" in name for name in names)


def test_in_fp32_attention_alone_is_accelerated_and_the_reason_said() -> None:
    with pytest.warns(PartlyAccelerated, match="attention yes, layers no: fused layers multiply factors of 16 bits"):
        model: Any = accelerate(_preset("study"))
    assert model.acceleration.precision == "fp32"
    names = profiled_names(lambda: model(past_values=_windows(0, torch.float32)[0]), "cuda")
    assert any("patch_attention_forward" in name for name in names)


def test_transformers_trainer_trains_it_in_bf16_and_saves_a_plain_checkpoint(tmp_path: Path) -> None:
    changes = {"d_model": 32, "num_attention_heads": 4, "ffn_dim": 64, "context_length": 96, "path_dropout": 0.1}
    model: Any = accelerate(plain_model(**changes).cuda(), precision="bf16", layers="fused")
    losses = trainer_losses(model, tmp_path, steps=20, batch=16, bf16=True)
    assert losses[-1] < losses[0]
    saved: Any = PatchTSTForPrediction.from_pretrained(tmp_path)
    torch.testing.assert_close(forecasts(restore(model)).cpu(), forecasts(saved), rtol=1e-3, atol=1e-3)


def test_attn_implementation_patch_forecasts_what_transformers_own_attention_does(tmp_path: Path) -> None:
    _preset("study").save_pretrained(tmp_path)
    name = register_attention()
    ours, plain = (
        PatchTSTForPrediction.from_pretrained(tmp_path, attn_implementation=attention).cuda()
        for attention in (name, "eager")
    )
    torch.testing.assert_close(forecasts(ours), forecasts(plain), rtol=1e-3, atol=1e-4)
