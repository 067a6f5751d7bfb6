"""A step trains as PyTorch's own loop does; warming up leaves no trace; fp16 scales its loss and skips overflows."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from data_pipeline.feed.batches import Batch
from model.patchtst import build_model
from tune.common.errors import Unsupported
from tune.engine import ENGINES
from tune.engine.compiled import refuse_a_disabled_compiler
from tune.engine.lr import Rates, ScheduleSpan
from tune.engine.optimizer import make_optimizer, make_scaler
from tune.engine.step import Stepper, preserving

B, L, H, C = 4, 48, 8, 2


def _model(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    return build_model(
        num_channels=C, context_length=L, prediction_length=H, patch_length=12, patch_stride=12, d_model=16,
        num_heads=4, num_layers=2, ffn_dim=16, dropout=dropout, head_dropout=dropout, attention_dropout=0.0,
        norm_type="batchnorm", pre_norm=True, attention="eager",
    )  # fmt: skip


def _batch(seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        past=torch.randn(B, L, C, generator=generator), future=torch.randn(B, H, C, generator=generator), valid=B
    )


def _state(stepper: Stepper) -> list[torch.Tensor]:
    moments = [value for state in stepper.optimizer.state.values() for value in state.values()]
    tensors = [*stepper.model.parameters(), *stepper.model.buffers(), *moments, torch.get_rng_state()]
    return [tensor.detach().clone() for tensor in tensors]


def _adam(model: Any, lr: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr, fused=True)


def test_each_step_takes_the_rate_and_beta1_of_its_number_as_with_torchs_scheduler() -> None:
    span = ScheduleSpan(learning_rate=1e-2, steps_per_epoch=5, epochs=2, pct_start=0.4)
    rate = Rates(schedule="one_cycle", span=span)
    ours = _model().train()
    stepper = Stepper(ours, make_optimizer(ours, learning_rate=1e-2), precision="fp32", rate=rate)
    theirs = _model().train()
    optimizer = make_optimizer(theirs, learning_rate=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps_per_epoch=5, epochs=2, pct_start=0.4)
    for number in range(10):
        batch = _batch(number)
        assert stepper.last_learning_rate == (None if number == 0 else rate(number - 1).learning_rate)
        stepper.step(batch)
        theirs(past_values=batch.past, future_values=batch.future).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    assert all(torch.equal(mine, other) for mine, other in pairs)


@pytest.mark.parametrize("trained_before", [0, 2])
def test_warming_up_leaves_weights_moments_statistics_random_state_and_memory(trained_before: int) -> None:
    model = _model(dropout=0.2).train()
    stepper = Stepper(model, make_optimizer(model, learning_rate=1e-3), precision="fp32")
    for _ in range(trained_before):
        stepper.step(_batch())
    before, places = _state(stepper), [tensor.data_ptr() for tensor in model.state_dict().values()]
    stepper.warm_up(_batch(), _batch().past)
    after = _state(stepper)
    if not trained_before:
        moments = [value for state in stepper.optimizer.state.values() for value in state.values()]
        assert moments and not any(value.any() for value in moments)
        after = [*after[: len(before) - 1], after[-1]]
    assert all(torch.equal(mine, other) for mine, other in zip(before, after, strict=True))
    assert places == [tensor.data_ptr() for tensor in model.state_dict().values()]
    assert stepper.next_step == trained_before


def test_training_state_is_restored_after_a_failure_too() -> None:
    model = _model().eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="boom"), preserving(model):
        model.train()
        model(past_values=_batch().past, future_values=_batch().future).loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        raise RuntimeError("boom")
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())


def _fp16(scale: float = 2.0**10) -> tuple[Stepper, torch.amp.GradScaler]:
    model = _model().train()
    scaler = make_scaler("cpu", "fp16")
    assert scaler is not None
    scaler.load_state_dict(scaler.state_dict() | {"scale": scale})
    return Stepper(model, _adam(model), precision="fp16", scaler=scaler), scaler


def test_fp16_trains_close_to_fp32() -> None:
    model = _model().train()
    plain, (half, _) = Stepper(model, _adam(model), precision="fp32"), _fp16()
    for number in range(10):
        plain.step(_batch(number))
        half.step(_batch(number))
    assert half.take_skipped_steps() == 0 and plain.take_skipped_steps() is None
    assert half.take_train_mse() == pytest.approx(plain.take_train_mse(), rel=1e-2)


def test_a_step_that_overflows_changes_nothing_but_the_scale_and_is_counted() -> None:
    stepper, scaler = _fp16(scale=2.0**40)
    weights = [parameter.detach().clone() for parameter in stepper.model.parameters()]
    for _ in range(2):
        stepper.step(_batch())
    assert all(torch.equal(mine, other) for mine, other in zip(weights, stepper.model.parameters(), strict=True))
    assert scaler.get_scale() == 2.0**38
    assert stepper.take_skipped_steps() == 2
    assert stepper.take_skipped_steps() == 0


def test_warming_up_leaves_the_loss_scale() -> None:
    stepper, scaler = _fp16(scale=2.0**40)
    stepper.warm_up(_batch(), _batch().past)
    assert scaler.get_scale() == 2.0**40
    assert stepper.take_skipped_steps() == 0


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_no_loss_is_scaled_but_fp16s(precision: str) -> None:
    assert make_scaler("cpu", precision) is None


@pytest.mark.parametrize("setting", ["TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"])
def test_a_compiler_that_is_switched_off_is_unsupported_and_not_eager(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setting, "1")
    with pytest.raises(Unsupported, match=f"{setting} is set, .*unset it, or use eager"):
        refuse_a_disabled_compiler()


@pytest.mark.parametrize("setting", ["disable", "suppress_errors"])
def test_a_compiler_whose_failures_are_hidden_is_unsupported(setting: str) -> None:
    with torch._dynamo.config.patch({setting: True}), pytest.raises(Unsupported, match="switches torch.compile off"):
        refuse_a_disabled_compiler()
    refuse_a_disabled_compiler()


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_names_a_stepper(name: str) -> None:
    assert issubclass(resolve_name(ENGINES[name].stepper), Stepper)


def test_only_the_graph_engine_needs_a_gpu_and_says_what_to_use_instead() -> None:
    reasons = {name: engine.unsupported_reason(device_type="cpu") for name, engine in ENGINES.items()}
    assert [name for name, reason in reasons.items() if reason] == ["graph"]
    assert "use compile or eager" in str(reasons["graph"])
    assert not any(engine.unsupported_reason(device_type="cuda") for engine in ENGINES.values())
