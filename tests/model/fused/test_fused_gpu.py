"""The fused layers on a GPU for models with norm after the sublayer, layer norm, dropout inside and other widths.

Run alone: .venv/bin/python -m pytest tests/model/fused/test_fused_gpu.py -q -s -n0
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.patchtst import build_model
from model.presets import build_fields
from tune.gate.check import check_arm
from tune.gate.numerics import GatedArm

pytest.importorskip("triton", reason="triton is not installed")
from model.fused import encoder
from model.fused.dropout import Rates, attention_site, dropout_mask, feed_forward_site
from model.fused.encoder import fuse

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
RATES = Rates(attention_output=0.1, attention_path=0.1, feed_forward=0.2, feed_forward_path=0.3)
OFFICIAL = {"init": "torch", "positions": "learned", "end_padding": True, "attention_output_dropout": 0.2}
WIDE = {"d_model": 256, "ffn_dim": 1024, "norm_type": "layernorm", "pre_norm": True, "num_layers": 2}


def _fields(preset: str, **changes: Any) -> dict[str, Any]:
    fields = build_fields(preset) | {"num_channels": 7, "prediction_length": 96, "attention": "eager"}
    return fields | changes


@pytest.mark.parametrize(
    ("preset", "changes", "heads", "precision", "engine"),
    [
        ("ettm", {"attention": "patch"}, 16, "bf16", "graph"),
        ("ettm", {"attention": "patch"}, 11, "fp16", "eager"),
        ("ettm", {"norm_type": "layernorm", "ffn_dim": 16}, 16, "bf16", "eager"),
        ("ettm", OFFICIAL | {"attention": "patch"}, 16, "bf16", "graph"),
        ("etth", {}, 4, "bf16", "graph"),
        ("etth", OFFICIAL, 4, "bf16", "graph"),
        ("study", {"attention": "patch", "positions": "learned"}, 16, "bf16", "graph"),
        ("etth", {}, 3, "bf16", "eager"),
        ("illness", {}, 4, "bf16", "eager"),
        ("study", WIDE, 16, "bf16", "eager"),
        ("study", WIDE | {"norm_type": "batchnorm", "pre_norm": False, "d_model": 192}, 16, "bf16", "eager"),
    ],
    ids=str,
)
def test_they_pass_the_gate(preset: str, changes: Any, heads: int, precision: str, engine: str) -> None:
    model = _fields(preset, layers="fused", **changes)
    arm = GatedArm(model=model, heads=heads, engine=engine, precision=precision, batch_size=33)
    result = check_arm(arm, torch.device("cuda"), None)
    assert result.problem is None, (result.problem, arm)


class _Mask(nn.Module):
    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, rows: Tensor) -> Tensor:
        return rows * self.factors.view(rows.shape).to(rows.dtype)


def _masked(plain: Any, seed: Tensor, rows: int) -> Any:
    """The model with the masks of that seed in place of its dropouts."""
    plain = copy.deepcopy(plain)
    d, f = plain.config.d_model, plain.config.ffn_dim
    for number, layer in enumerate(plain.model.encoder.layers):
        site = feed_forward_site(number)
        layer.dropout_path1 = _Mask(dropout_mask(seed, attention_site(number), RATES.attention, rows, d))
        layer.ff[2] = _Mask(dropout_mask(seed, site, RATES.feed_forward, rows, f))
        layer.dropout_path3 = _Mask(dropout_mask(seed, site + 1, RATES.feed_forward_path, rows, d))
    return plain


def _run(model: Any, past: Tensor, future: Tensor, dtype: torch.dtype) -> Tensor:
    """Forecast and all gradients, each of norm 1, in one vector of fp64."""
    half = dtype == torch.bfloat16
    model = model if half else model.to(dtype)
    past, future = (past, future) if half else (past.to(dtype), future.to(dtype))
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=half):
        output = model(past_values=past, future_values=future)
    output.loss.backward()
    names = [name for name, value in model.named_parameters() if value.requires_grad and "k_proj.bias" not in name]
    gradients = torch.cat([model.get_parameter(name).grad.double().flatten() for name in names])
    forecast = output.prediction_outputs.detach().double().flatten()
    return torch.cat([forecast / forecast.norm(), gradients / gradients.norm()])


@pytest.mark.parametrize(
    "changes", [{}, {"pre_norm": True, "d_model": 64}, {"norm_type": "layernorm", "d_model": 256}], ids=str
)
def test_with_dropout_they_are_at_most_twice_as_far_from_fp64_as_transformers_with_the_same_masks(
    changes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = torch.tensor([2**61 + 12345], device="cuda")
    monkeypatch.setattr(encoder, "dropout_seed", lambda like: seed)
    torch.manual_seed(0)
    plain = build_model(**_fields("ettm", dropout=0.0, **changes)).cuda()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)) if "norm" in name else parameter.mul_(3.0)
    fused = fuse(copy.deepcopy(plain), RATES)
    past, future = torch.randn(17, 336, 7, device="cuda"), torch.randn(17, 96, 7, device="cuda")
    rows = 17 * 7 * plain.model.encoder.positional_encoder.position_enc.shape[0]
    true = _run(_masked(plain, seed, rows), past, future, torch.float64)
    theirs = (_run(_masked(plain, seed, rows), past, future, torch.bfloat16) - true).norm() / true.norm()
    ours = (_run(fused, past, future, torch.bfloat16) - true).norm() / true.norm()
    print(f"\n{changes}: error of fused {ours.item():.3e}, of transformers' layers {theirs.item():.3e}")
    assert ours <= 2 * theirs + 1e-6


def test_a_captured_step_draws_other_masks_at_each_replay_and_the_same_ones_from_the_same_state() -> None:
    torch.manual_seed(0)
    model = build_model(**_fields("ettm", attention="patch", layers="fused")).cuda()
    past, future = torch.randn(64, 336, 7, device="cuda"), torch.randn(64, 96, 7, device="cuda")
    kept: dict[str, Tensor] = {}

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            output = model(past_values=past, future_values=future)
        gradients = torch.autograd.grad(output.loss, [value for value in model.parameters() if value.requires_grad])
        kept["all"] = torch.cat([part.flatten().float() for part in (output.prediction_outputs, *gradients)])

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):  # on the stream of the first pass, which autograd remembers
        step()
    state = torch.cuda.get_rng_state()
    found = []
    for again in (False, False, True):
        if again:
            torch.cuda.set_rng_state(state)
        graph.replay()
        found.append(kept["all"].clone())
    assert found[0].isfinite().all()
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2]), f"{(found[0] != found[2]).sum().item()} of {found[0].numel()} values differ"


def test_masks_on_the_gpu_have_their_rate() -> None:
    mask = dropout_mask(torch.tensor([77], device="cuda"), 4, 0.2, 37_632, 256)
    assert abs((mask == 0).double().mean().item() - 0.2) < 5 * (0.16 / mask.numel()) ** 0.5
    assert mask.double().mean().item() == pytest.approx(1.0, abs=1e-3)
