"""The plain kernels around the Hopper ones, and a model, in Triton's interpreter: run by test_hopper.py.

The kernels are compared with their emulation, which the tests of layers use; the model, whose Gluon launches are
emulated, with transformers' own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import emulated_hopper
import pytest
import torch

from model.fused import dropout
from model.fused.encoder import fuse
from model.fused.hopper import launch, launch_backward, path
from model.fused.launch import Norm
from model.heads import attention_layers
from model.patchtst import build_model
from model.pruning.surgery import remove_heads
from model.recompute import recompute_layers

REAL = launch.run


def _both(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> None:
    """What `action` returns is the same whether its launches run or are emulated."""
    found = []
    for run in (REAL, emulated_hopper.emulate):
        monkeypatch.setattr(launch, "run", run)
        found.append(action())
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [8, 88])
def test_packing_folds_the_norms_and_rounds(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    d, f = 128, 128
    attention = [(torch.randn(width, d), torch.randn(width)) for _ in range(3)]
    norms = [(torch.randn(d), torch.randn(d)) for _ in range(2)]
    wo, up, w2 = torch.randn(d, width), (torch.randn(f, d), torch.randn(f)), torch.randn(d, f)
    _both(monkeypatch, lambda: launch.pack(attention, norms[0], wo, up, norms[1], w2, torch.float32))


@pytest.mark.parametrize(
    ("rows", "weights", "inputs", "lines", "at_once"), [(144, 3, 64, 4, 16), (128, 1, 64, 16, 8), (128, 0, 40, 4, 32)]
)
def test_parts_are_added_up(
    monkeypatch: pytest.MonkeyPatch, rows: int, weights: int, inputs: int, lines: int, at_once: int
) -> None:
    shared = launch_backward.share(rows, 9, 11)
    products = 2 if weights == 1 else 1
    sums = torch.randn(1 if weights else 3, shared.programs, 128)
    parts = launch_backward.Parts(torch.randn(products, shared.programs, 128, 64), sums)
    norm = Norm(mean=torch.zeros(1), var=torch.zeros(1), gamma=torch.randn(inputs), beta=torch.randn(inputs), eps=1e-5)
    missing = 8 if weights == 3 else 0  # rows of padding after each weight's own
    given = tuple(torch.randn(rows // weights - missing, inputs) for _ in range(weights))

    def action() -> list[torch.Tensor]:
        turned = torch.zeros(inputs, rows)
        found = launch_backward._reduce(
            parts, shared, (rows, inputs), lines=lines, at_once=at_once, weights=given,
            norm=norm if weights else None, turned=turned if products == 2 else None,
        )  # fmt: skip
        return [*found, turned]

    _both(monkeypatch, action)


def test_masks_are_those_of_the_plain_kernels() -> None:
    for seed, site, rows, columns in ((3, 0, 70, 128), (2**61 + 12_345, 8, 130, 48)):
        key = torch.tensor([seed])
        ours = emulated_hopper.mask(key, site, 0, rows, columns, dropout.level(0.2)).float()
        torch.testing.assert_close(ours, dropout.dropout_mask(key, site, 0.2, rows, columns))


FIELDS: dict[str, Any] = {
    "num_channels": 3, "context_length": 48, "prediction_length": 8, "patch_length": 12, "patch_stride": 12,
    "d_model": 128, "num_heads": 16, "num_layers": 2, "ffn_dim": 128, "dropout": 0.0, "head_dropout": 0.0,
    "attention_dropout": 0.0, "norm_type": "batchnorm", "pre_norm": True, "attention": "eager",
}  # fmt: skip


@pytest.fixture(name="launches")
def launches_fixture(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the launches of a machine whose CPU is a Hopper GPU and whose fp32 is bf16."""
    names: list[str] = []

    def run(given: launch.Launch) -> None:
        names.append(given.kernel.__name__)
        emulated_hopper.emulate(given)

    monkeypatch.setattr(launch, "run", run)
    monkeypatch.setattr(path, "capability", lambda device: (9, 0))
    monkeypatch.setattr(path, "DTYPES", {torch.float32: "bf16"})
    for file in (launch, launch_backward):
        monkeypatch.setattr(file, "processors", lambda device: 3)
    return names


def _trained(model: Any, function: Callable[..., Any]) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    past, future = torch.randn(6, 48, 3), torch.randn(6, 8, 3)
    output = function(past_values=past, future_values=future)
    output.loss.backward()
    named = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {"forecast": output.prediction_outputs.detach()} | named | dict(model.named_buffers())


def _assert_same(ours: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> None:
    """Biases before batch norm have a true gradient of zero, so a part of the norm of everything is allowed."""
    everything = torch.cat([value.double().flatten() for value in exact.values()]).norm()
    for name, value in exact.items():
        error = (ours[name].double() - value.double()).norm()
        assert error < 2e-5 * value.double().norm() + 2e-7 * everything, (name, error)


def _model(**changes: Any) -> Any:
    """With scales and shifts of norms that are not 1 and 0."""
    torch.manual_seed(0)
    model = build_model(**FIELDS | changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    ("compiler", "pre_norm", "again"),
    [(None, True, False), ("aot_eager", False, False), ("aot_eager_decomp_partition", False, True)],
)
def test_a_model_with_pruned_heads_trains_as_transformers_own(
    launches: list[str], compiler: str | None, pre_norm: bool, again: bool
) -> None:
    """again: a compiled step computes its layers again, but for their feed-forward, whose result it keeps."""
    plain = _model(pre_norm=pre_norm)
    remove_heads(plain, None, {layer: {0, 3, 5, 7, 11} for layer in range(len(attention_layers(plain)))})
    fused = fuse(copy.deepcopy(plain))
    exact = _trained(plain, plain)
    if again:
        recompute_layers(fused)
    ours = _trained(fused, torch.compile(fused, backend=compiler, fullgraph=True) if compiler else fused)
    _assert_same(ours, exact)
    forward = launches.count("hopper_qkv")
    assert forward == (4 if again else 2)
    assert launches.count("hopper_feed_forward") == launches.count("hopper_feed_forward_backward") == 2
    fused.eval()
    with torch.no_grad():
        forecasts = [model.eval()(past_values=torch.ones(2, 48, 3)).prediction_outputs for model in (plain, fused)]
    torch.testing.assert_close(*forecasts, atol=1e-5, rtol=1e-5)
    assert launches.count("hopper_qkv") == forward + 2


def test_both_paths_drop_the_same(launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    hopper = fuse(_model(pre_norm=False, dropout=0.2))
    plain = copy.deepcopy(hopper)
    ours = _trained(hopper, hopper)
    assert launches.count("hopper_residual_gradient") == 2
    monkeypatch.setattr(path, "capability", lambda device: (8, 0))
    _assert_same(ours, _trained(plain, plain))
    assert launches.count("hopper_residual_gradient") == 2
