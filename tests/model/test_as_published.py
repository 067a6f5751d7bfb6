"""The replaced study's attention and pruning: what they compute, against plain formulas in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_kit import small_model
from published_kit import flash_calls_fixture, plain_attention  # noqa: F401
from torch import Tensor

from model import as_published
from model.as_published import FLASH, unread_parameters, zero_head_columns, zero_weakest_heads
from model.heads import attention_layers, count_parameters

S, N, D = 3, 4, 16
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@pytest.fixture(name="in_fp32")
def in_fp32_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(as_published, "KERNEL_DTYPE", torch.float32)


def _attention(kind: str) -> Any:
    return attention_layers(small_model("flash_attention_2", as_published=kind))[0]


def _formula(attention: Any, x_SND: Tensor, *, causal: bool, projected: bool) -> Tensor:
    q, k, v = (getattr(attention, name)(x_SND).view(S, N, -1, attention.head_dim) for name in PROJECTIONS)
    out_SND = plain_attention(q, k, v, attention.head_dim**-0.5, causal).reshape(S, N, D)
    return attention.out_proj(out_SND) if projected else out_SND


@pytest.mark.usefixtures("flash_calls", "in_fp32")
@pytest.mark.parametrize(
    ("kind", "causal", "projected"),
    [("flash", True, False), ("flash_bidirectional", False, False), ("flash_complete", False, True)],
)
def test_each_flash_arm_computes_its_formula(kind: str, causal: bool, projected: bool) -> None:
    attention, x_SND = _attention(kind), torch.randn(S, N, D, generator=torch.Generator().manual_seed(1))
    out_SND, weights = attention(hidden_states=x_SND, output_attentions=False)
    assert weights is None
    torch.testing.assert_close(out_SND, _formula(attention, x_SND, causal=causal, projected=projected))
    assert not torch.allclose(out_SND, _formula(attention, x_SND, causal=not causal, projected=projected), atol=1e-5)


@pytest.mark.usefixtures("flash_calls", "in_fp32")
@pytest.mark.parametrize(("kind", "moves"), [("flash", False), ("flash_bidirectional", True), ("flash_complete", True)])
def test_a_patch_sees_later_ones_except_as_published(kind: str, moves: bool) -> None:
    attention, x_SND = _attention(kind), torch.randn(S, N, D, generator=torch.Generator().manual_seed(1))
    changed_SND = x_SND.clone()
    changed_SND[:, -1] += 1
    first, second = (attention(hidden_states=each)[0][:, :-1] for each in (x_SND, changed_SND))
    assert torch.equal(first, second) is not moves


@pytest.mark.parametrize("kind", FLASH)
def test_attention_alone_is_in_fp16(kind: str, flash_calls: list[dict[str, Any]]) -> None:
    attention = _attention(kind)
    out_SND, _ = attention(hidden_states=torch.randn(S, N, D))
    assert out_SND.dtype == torch.float32
    assert flash_calls == [{"dtype": {torch.float16}, "dropout_p": 0.0, "causal": kind == "flash"}]


@pytest.mark.usefixtures("flash_calls", "in_fp32")
def test_put_right_in_everything_but_precision_it_is_the_vanilla_model() -> None:
    past_BLC = torch.randn(2, 48, 2, generator=torch.Generator().manual_seed(2))
    kinds = ("vanilla", "flash_complete", "flash_bidirectional", "flash")
    with torch.no_grad():
        vanilla, complete, *others = (
            small_model("eager" if kind == "vanilla" else "flash_attention_2", as_published=kind)
            .eval()(past_values=past_BLC)
            .prediction_outputs
            for kind in kinds
        )
    torch.testing.assert_close(complete, vanilla)
    assert not any(torch.allclose(other, vanilla, rtol=1e-3) for other in others)


@pytest.mark.usefixtures("flash_calls", "in_fp32")
@pytest.mark.parametrize("kind", ["vanilla", *FLASH])
def test_what_is_not_read_is_what_gets_no_gradient(kind: str) -> None:
    model = small_model("eager" if kind == "vanilla" else "flash_attention_2", as_published=kind)
    model(past_values=torch.randn(2, 48, 2), future_values=torch.randn(2, 10, 2)).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert unread_parameters(model) == {parameter for parameter in trained if parameter.grad is None}
    assert bool(unread_parameters(model)) == (kind in ("flash", "flash_bidirectional"))


def test_zeroing_a_head_as_published_takes_inputs_from_every_head_and_no_parameter() -> None:
    model = small_model()
    before = count_parameters(model)
    zero_head_columns(model, (1, 2))
    assert count_parameters(model) == before
    for attention in attention_layers(model):
        for name in PROJECTIONS:
            weight = getattr(attention, name).weight
            assert not weight[:, 4:12].any()
            assert weight[:, :4].all() and weight[:, 12:].all()  # rows of head 1 and 2 included
            assert not getattr(attention, name).bias[4:12].any()


def test_the_zeros_are_gone_after_one_update() -> None:
    model = small_model()
    zero_head_columns(model, (1,))
    optimizer = torch.optim.Adam(model.parameters())
    model(past_values=torch.randn(2, 48, 2), future_values=torch.randn(2, 10, 2)).loss.backward()
    optimizer.step()
    assert attention_layers(model)[0].v_proj.weight[:, 4:8].all()


def test_dynamic_pruning_fails_at_its_first_statement_and_would_take_every_head() -> None:
    model = small_model()
    with pytest.raises(AttributeError, match="'PatchTSTAttention' object has no attribute 'device'"):
        zero_weakest_heads(model)
    assert all(attention.q_proj.weight.all() for attention in attention_layers(model))
    for attention in attention_layers(model):
        attention.device = "cpu"
    zero_weakest_heads(model)
    assert not any(getattr(layer, name).weight.any() for layer in attention_layers(model) for name in PROJECTIONS)
