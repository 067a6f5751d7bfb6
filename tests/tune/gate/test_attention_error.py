"""The attention function alone against fp64: at bf16 it shows what the gate's model hides. It fails no arm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from gate_kit import ARM, CPU, GOOD, with_attention

from model.attention import BACKENDS
from model.attention.base import Workload
from model.attention.eager import Eager, attend
from tune.config.trial_config import TrainConfig
from tune.gate import check
from tune.gate.attention_error import AttentionErrors, measure_attention
from tune.gate.proof import Proof

SHAPES = [(24, 4, 6, 8), (42, 4, 42, 8), (24, 2, 5, 16)]


@dataclass(frozen=True)
class ScaledTooMuch(Eager):
    """eager with its scores scaled by 3 % too much."""

    name: str = "scaled_too_much"
    by: float = 1.03

    def compute(self, query: Any, key: Any, value: Any, *mask: Any, scaling: float, **options: Any) -> Any:
        return attend(torch.nn.Module(), query, key, value, *mask, scaling=self.by * scaling, **options)

    def register(self) -> str:
        from transformers import AttentionInterface

        AttentionInterface.register(self.name, lambda _module, *tensors, **options: self.compute(*tensors, **options))
        return self.name


@dataclass(frozen=True)
class LastKeyMissed(ScaledTooMuch):
    """eager that does not see the last patch."""

    name: str = "last_key_missed"

    def compute(self, query: Any, key: Any, value: Any, *mask: Any, scaling: float, **options: Any) -> Any:
        seen = key[:, :, :-1], value[:, :, :-1]
        return attend(torch.nn.Module(), query, *seen, *mask, scaling=scaling, **options)


MUTANTS = {mutant.name: mutant for mutant in (ScaledTooMuch(), LastKeyMissed())}


def _off(errors: AttentionErrors) -> bool:
    return check.GateResult(
        key="", arm=ARM, measured=replace(GOOD, attention=errors), file=None, cached=False
    ).attention_note is not None  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("attention", BACKENDS)
def test_every_backend_alone_is_as_near_to_fp64_as_eager(
    attention: str, precision: str, shape: tuple[int, ...]
) -> None:
    sequences, heads, patches, width = shape
    work = Workload(
        device_type="cpu", capability=None, precision=precision, head_dim=width, attention_dropout=0.0,
        sequences=sequences, patches=patches, num_heads=heads,
    )  # fmt: skip
    if reason := BACKENDS[attention].unsupported_reason(work):
        pytest.skip(reason)
    errors = measure_attention(attention, shape, precision, CPU)
    assert not _off(errors)
    assert {"fp32": 1e-9, "tf32": 1e-9, "bf16": 1e-4, "fp16": 1e-5}[precision] < errors.eager < 2e-2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_scale_and_a_missed_key_show_at_every_precision(
    mutant: str, precision: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, mutant, MUTANTS[mutant])
    errors = measure_attention(mutant, shape, precision, CPU)
    assert _off(errors) and errors.arm > 4 * errors.eager


def test_an_error_that_the_model_hides_at_bf16_is_in_the_trials_tag_and_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BACKENDS, "scaled_too_much", ScaledTooMuch(by=1.02))
    arm = with_attention("scaled_too_much", precision="bf16", batch_size=64)
    train = TrainConfig(engine="eager", precision="bf16", batch_size=64, epochs=2)
    proof = Proof(None, CPU)
    proof.pass_gate(arm.model, train, heads=[4], batch_size=64)
    assert proof.tags["gate"].startswith("passed, attention alone is ")
    assert "e-02 from fp64, over 2 x eager's " in proof.tags["gate"]
    error, eager = (proof.metrics[f"gate/attention_{name}error"] for name in ("", "eager_"))
    assert error is not None and eager is not None and error > 2 * eager > 0


def test_an_arm_that_uses_no_backend_has_no_attention_error() -> None:
    result = check.check_arm(replace(ARM, uses_backend=False), CPU, None)
    assert result.measured.attention is result.attention_note is None
    assert result.metrics["gate/attention_error"] is result.metrics["gate/attention_eager_error"] is None


def test_an_attention_error_that_is_not_a_number_is_noted() -> None:
    assert _off(AttentionErrors(arm=float("nan"), eager=1e-3))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa_flash"])
def test_with_one_patch_a_gradient_that_is_zero_in_fp64_and_in_the_arm_is_no_error(
    attention: str, precision: str
) -> None:
    """Softmax over one patch is constant: the gradients of q and k are exactly 0."""
    errors = measure_attention(attention, (3, 2, 1, 8), precision, CPU)
    assert errors.eager < 2e-2 and errors.arm < 2e-2 and not _off(errors)


def test_with_one_patch_a_gradient_that_should_be_zero_and_is_not_is_infinitely_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass(frozen=True)
    class Leaks(ScaledTooMuch):
        name: str = "leaks"

        def compute(self, query: Any, key: Any, value: Any, *mask: Any, scaling: float, **options: Any) -> Any:
            output, weights = attend(torch.nn.Module(), query, key, value, *mask, scaling=scaling, **options)
            return output + 1e-3 * query.transpose(1, 2), weights

    monkeypatch.setitem(BACKENDS, "leaks", Leaks())
    errors = measure_attention("leaks", (3, 2, 1, 8), "fp32", CPU)
    assert _off(errors) and errors.arm == float("inf")
