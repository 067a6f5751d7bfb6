"""The gate: what passes, what does not, and that nothing of it reaches the training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import capture_kit
import pytest
import torch
from capture_kit import RECORDED, RecordedStepper
from gate_kit import ARM, BAD, CPU, GOOD, MODEL, NotANumber, OnePercentOff, with_attention

from model.attention import BACKENDS
from model.attention.base import Workload
from model.attention.eager import Eager, attend
from tune.common.errors import GateFailed
from tune.engine import ENGINES
from tune.gate import check, numerics
from tune.gate.numerics import NumericErrors, measure


@dataclass(frozen=True)
class OneSequenceForgotten(Eager):
    """eager whose output is zero for the first sequence of a batch."""

    name: str = "one_sequence_forgotten"

    def register(self) -> str:
        from transformers import AttentionInterface

        def forgetful(*tensors: Any, **options: Any) -> Any:
            output, weights = attend(*tensors, **options)
            there = torch.arange(len(output)) > 0
            return output * there[:, None, None, None], weights

        AttentionInterface.register(self.name, forgetful)
        return self.name


def _workload(precision: str) -> Workload:
    return Workload(
        device_type="cpu", capability=None, precision=precision, head_dim=8, attention_dropout=0.0, sequences=24,
        patches=6, num_heads=4,
    )  # fmt: skip


@pytest.mark.parametrize("heads", [4, 1])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("attention", BACKENDS)
def test_every_backend_passes_at_every_precision_with_all_of_its_heads_and_with_one(
    attention: str, precision: str, heads: int
) -> None:
    if reason := BACKENDS[attention].unsupported_reason(_workload(precision)):
        pytest.skip(reason)
    result = check.require_pass(with_attention(attention, precision=precision, heads=heads), CPU, None)
    assert 0 < result.measured.arm.predictions <= result.prediction_limit
    assert 0 < result.measured.arm.gradients <= result.gradient_limit
    assert 0 < result.measured.arm.worst_series <= result.worst_series_limit


def test_the_reference_is_fp64_and_the_precision_shows_in_the_plain_arms_errors() -> None:
    errors = {precision: measure(replace(ARM, precision=precision), CPU).eager for precision in ("fp32", "bf16")}
    assert 1e-9 < errors["fp32"].predictions < 1e-5 < 1e-4 < errors["bf16"].predictions < 0.1
    assert 1e-9 < errors["fp32"].gradients < 1e-5 < 1e-4 < errors["bf16"].gradients < 0.1


def test_scores_scaled_by_one_percent_too_much_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "one_percent_off", OnePercentOff())
    with pytest.raises(GateFailed, match=r"predictions differ from the fp64 reference by .*, allowed 2 x .* \+ 1e-06"):
        check.require_pass(with_attention("one_percent_off"), CPU, None)


def test_one_sequence_among_thousands_that_is_not_attended_does_not_pass_at_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BACKENDS, "one_sequence_forgotten", OneSequenceForgotten())
    arm = with_attention("one_sequence_forgotten", precision="bf16", batch_size=128)
    changes = {"num_channels": 32, "context_length": 24, "prediction_length": 8, "d_model": 16, "ffn_dim": 16}
    result = check.check_arm(replace(arm, model={**arm.model, **changes}), CPU, None)
    measured = result.measured
    assert measured.arm.predictions < result.prediction_limit and measured.arm.gradients < result.gradient_limit
    assert (result.problem or "").startswith("predictions of the worst series differ from the fp64 reference by")
    assert result.relative_error == measured.arm.worst_series / result.worst_series_limit > 5


def test_the_worst_series_is_measured_against_the_root_mean_square_of_all() -> None:
    true = torch.zeros(2, 3, 2, dtype=torch.float64)  # B=2, H=3, C=2: the four series have norms 3, 0, 0 and 4
    true[0, 0, 0], true[1, :, 1] = 3.0, 4 / 3**0.5
    wrong = true.clone()
    wrong[1, 2, 0] += 0.5
    gradients = torch.ones(4, dtype=torch.float64)
    sums = numerics._Sums()
    sums.add((wrong, gradients), (true, gradients))
    sums.add((true, gradients), (true, gradients))
    assert sums.errors().worst_series == pytest.approx(0.5 / 2.5)
    sums.add((true * torch.nan, gradients), (true, gradients))
    sums.add((true, gradients), (true, gradients))
    assert sums.errors().worst_series != sums.errors().worst_series


@pytest.mark.parametrize("what", ["predictions", "gradients", "worst_series"])
def test_an_error_that_is_not_a_number_is_the_largest_of_all(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = replace(GOOD.arm, **{what: float("nan")})
    monkeypatch.setattr(check, "measure", lambda *_: replace(GOOD, arm=arm))
    result = check.check_arm(ARM, CPU, None)
    assert result.relative_error == float("inf") and "not finite" in (result.problem or "")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_is_not_finite_does_not_pass(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setitem(BACKENDS, "not_a_number", NotANumber())
    with pytest.raises(GateFailed, match="predictions are not finite; gradients are not finite"):
        check.require_pass(with_attention("not_a_number", precision=precision), CPU, None)


def test_an_infinite_error_of_the_plain_arm_lets_nothing_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = NumericErrors(predictions=float("inf"), gradients=float("inf"), worst_series=float("inf"))
    monkeypatch.setattr(check, "measure", lambda *_: replace(GOOD, arm=infinite, eager=infinite))
    with pytest.raises(GateFailed, match="of the eager arm itself are not finite"):
        check.require_pass(ARM, CPU, None)


def test_the_gradient_that_is_rounding_alone_does_not_count() -> None:
    model = numerics._build(MODEL, 4)
    recorder = numerics._Recorder(model)
    every = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert recorder.gradients().numel() == every - MODEL["num_layers"] * MODEL["d_model"]  # type: ignore[operator]


def test_a_step_that_gives_no_gradient_leaves_none_of_the_step_before() -> None:
    model = torch.nn.Linear(2, 1)
    recorder = numerics._Recorder(model)
    model(torch.ones(1, 2)).sum().backward()
    recorder.step()
    assert torch.equal(recorder.gradients(), torch.ones(3, dtype=torch.float64))
    assert recorder.gradients().isnan().all()


def test_a_batch_that_does_not_fit_is_gated_smaller_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure(ARM, CPU).batch_size == 8
    monkeypatch.setattr(numerics, "CPU_MEMORY", 2**20)
    smaller = measure(ARM, CPU).batch_size
    assert 1 <= smaller < 8
    monkeypatch.setattr(check, "measure", lambda *_: replace(BAD, batch_size=smaller))
    assert (check.check_arm(ARM, CPU, None).problem or "").endswith(f", gated at batch {smaller}")


def test_the_gate_leaves_random_state_and_settings_as_they_were() -> None:
    torch.manual_seed(5)
    torch.set_float32_matmul_precision("high")
    try:
        before = torch.get_rng_state()
        measure(ARM, CPU)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_its_own_batches_and_weights_do_not_depend_on_the_random_state_around_it() -> None:
    torch.manual_seed(1)
    first = measure(ARM, CPU)
    torch.manual_seed(2)
    assert measure(ARM, CPU) == first


def test_the_graph_engine_is_gated_as_it_replays_its_captured_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tape of operators stands for the CUDA graph."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    built: list[RecordedStepper] = []

    class Kept(RecordedStepper):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            built.append(self)

    monkeypatch.setattr(capture_kit, "RecordedStepper", Kept)
    monkeypatch.setitem(ENGINES, "graph", RECORDED)
    for attention in ("eager", "sdpa_flash"):
        assert check.require_pass(with_attention(attention, engine="graph"), CPU, None).relative_error <= 1
    assert len(built) == 2
    assert all(stepper.next_step == numerics.BATCHES for stepper in built)
