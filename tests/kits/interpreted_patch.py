"""The patch kernels in Triton's interpreter, on a CPU: run by tests/test_interpreted.py in its own process.

Triton decides when it is imported whether it interprets, and inductor, which other tests use, imports it too.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.attention import patch_op
from model.attention.patch import Patch, attend
from model.attention.patch_launch import Choice, choose_launch
from model.heads import attention_layers
from model.patchtst import build_model
from model.pruning.surgery import remove_heads

CHOICES = [
    Choice(heads=1, rows=16),
    Choice(heads=2, rows=32),
    Choice(heads=4, rows=64, recompute=True),
    Choice(heads=2, rows=16, half=True),
    Choice(heads=4, rows=32, half=True),
]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# The kernels for half precision are never launched in fp32.
CASES = [(choice, name) for choice in CHOICES for name in DTYPES if not (choice.half and name == "fp32")]


def _case(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value.heads}-{value.rows}{'-half' * value.half}"


over_cases = pytest.mark.parametrize(("choice", "precision"), CASES, ids=_case)


def _choices(precision: str) -> st.SearchStrategy[Choice]:
    return st.sampled_from([choice for choice, name in CASES if name == precision])


def _inputs(s: int, n: int, k: int, e: int, dtype: torch.dtype, seed: int = 0, boost: float = 1.0) -> list[Tensor]:
    """q, k, v and the gradient of the output, (S, N, K, E); q is `boost` times larger."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(s, n, k, e, generator=generator) for _ in range(4)]
    return [(tensor * (boost if at == 0 else 1)).to(dtype) for at, tensor in enumerate(tensors)]


def _plain(inputs: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The output and (dq, dk, dv) concatenated, by matmul, softmax, matmul in `dtype`; both in fp64."""
    q, k, v, grad = (tensor.to(dtype).transpose(1, 2) for tensor in inputs)
    leaves = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
    weights = torch.softmax(leaves[0] @ leaves[1].transpose(2, 3) * q.shape[-1] ** -0.5, -1)
    output = weights @ leaves[2]
    gradients = torch.autograd.grad(output, leaves, grad)
    flat = torch.cat([gradient.transpose(1, 2).double().flatten() for gradient in gradients])
    return output.detach().transpose(1, 2).double(), flat


def _kernels(inputs: list[Tensor], there: Choice, back: Choice) -> tuple[Tensor, Tensor]:
    """The same by our kernels."""
    q, k, v, grad = inputs
    scale, upcast = q.shape[-1] ** -0.5, q.dtype == torch.bfloat16
    output, lse = patch_op.forward(q, k, v, scale, there, upcast=upcast)
    gradients = tuple(torch.full_like(q, torch.nan) for _ in range(3))
    patch_op.backward(grad, q, k, v, lse, scale, back, gradients, upcast=upcast)
    return output.double(), torch.cat([gradient.double().flatten() for gradient in gradients])


def _hold_the_gate(inputs: list[Tensor], there: Choice, back: Choice, slack: float) -> None:
    """At most twice plain PyTorch's relative error in the inputs' type, plus slack."""
    exact, plain = _plain(inputs, torch.float64), _plain(inputs, inputs[0].dtype)
    for ours, theirs, true in zip(_kernels(inputs, there, back), plain, exact, strict=True):
        assert (ours - true).norm() <= 2 * (theirs - true).norm() + slack * true.norm()


@over_cases
@pytest.mark.parametrize("shape", [(1, 42, 3, 8), (3, 21, 2, 8), (1, 5, 16, 8), (1, 64, 2, 8), (1, 42, 2, 32)], ids=str)
def test_every_variant_passes_the_gate_at_the_shapes_of_the_study(shape: Any, precision: str, choice: Choice) -> None:
    _hold_the_gate(_inputs(*shape, DTYPES[precision]), choice, choice, 1e-6)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    s=st.integers(1, 3), n=st.integers(2, 40), k=st.integers(1, 5), e=st.integers(4, 64), seed=st.integers(0, 9),
    case=st.sampled_from(CASES), data=st.data(),
)  # fmt: skip
def test_any_shape_is_computed_right(
    s: int, n: int, k: int, e: int, seed: int, case: tuple[Choice, str], data: st.DataObject
) -> None:
    there, precision = case
    back, dtype = data.draw(_choices(precision)), DTYPES[precision]
    # Few numbers: plain PyTorch's error may be small by luck, so one rounding of the type is allowed on top.
    _hold_the_gate(_inputs(s, n, k, e, dtype, seed), there, back, max(1e-6, torch.finfo(dtype).eps))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(n=st.integers(41, 128), e=st.integers(4, 64), precision=st.sampled_from(sorted(DTYPES)), data=st.data())
def test_long_sequences_are_computed_right(n: int, e: int, precision: str, data: st.DataObject) -> None:
    there, back = data.draw(_choices(precision)), data.draw(_choices(precision))
    _hold_the_gate(_inputs(1, n, 2, e, DTYPES[precision]), there, back, max(1e-6, torch.finfo(DTYPES[precision]).eps))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    n=st.integers(2, 128), k=st.integers(1, 3), e=st.integers(4, 64), precision=st.sampled_from(sorted(DTYPES)),
    half=st.booleans(),
)  # fmt: skip
def test_the_fixed_choices_are_right_at_any_shape(n: int, k: int, e: int, precision: str, half: bool) -> None:
    dtype = DTYPES[precision]
    there, back = (choose_launch(n, e, dtype, backward=side, half=half) for side in (False, True))
    _hold_the_gate(_inputs(1, n, k, e, dtype), there, back, max(1e-6, torch.finfo(dtype).eps))


@pytest.mark.parametrize("boost", [30, -100], ids=str)
@pytest.mark.parametrize("n", [5, 42])
@over_cases
def test_large_scores_are_as_exact_as_in_plain_pytorch(choice: Choice, n: int, boost: float, precision: str) -> None:
    dtype = DTYPES[precision]
    if precision == "fp32":  # as `choose_launch` does
        choice = dataclasses.replace(choice, recompute=True)
    slack = 1e-6 if precision == "fp32" else torch.finfo(dtype).eps  # nearly one-hot: plain PyTorch may be exact
    _hold_the_gate(_inputs(1, n, 2, 8, dtype, boost=boost), choice, choice, slack)


@over_cases
def test_scores_far_below_zero_do_not_let_keys_past_the_end_overflow(choice: Choice, precision: str) -> None:
    """Their score would be 0, e^1000 times more than that of the true keys."""
    q, k, v, grad = _inputs(1, 21, 2, 8, torch.float32)
    inputs = [tensor.to(DTYPES[precision]) for tensor in (q.abs() * 50, -k.abs() * 50, v, grad)]
    if precision == "fp32":
        choice = dataclasses.replace(choice, recompute=True)
    _hold_the_gate(inputs, choice, choice, 1e-6)


@over_cases
def test_nothing_outside_a_tensor_is_read(choice: Choice, precision: str) -> None:
    inside = _inputs(2, 9, 3, 8, DTYPES[precision])
    around = [torch.full((4, *tensor.shape[1:]), float("nan"), dtype=tensor.dtype) for tensor in inside]
    for buffer, tensor in zip(around, inside, strict=True):
        buffer[1:3] = tensor
    for ours, alone in zip(
        _kernels([buffer[1:3] for buffer in around], choice, choice), _kernels(inside, choice, choice), strict=True
    ):
        assert torch.equal(ours, alone)


def _leaves(layout: str, shape: tuple[int, int, int, int]) -> list[Tensor]:
    """q, k, v as (S, K, N, E), stored as named."""
    s, n, k, e = shape
    tensors = _inputs(s, n, k, e, torch.float32)[:3]
    stored = {
        "projections": lambda tensor: tensor.transpose(1, 2),
        "heads first": lambda tensor: tensor.transpose(1, 2).contiguous(),
        "one buffer": lambda tensor: torch.cat([tensor, tensor], 2)[:, :, :k].transpose(1, 2),
        "width first": lambda tensor: tensor.permute(0, 2, 3, 1).contiguous().transpose(2, 3),
    }
    return [stored[layout](tensor).detach().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("layout", ["projections", "heads first", "one buffer", "width first"])
def test_inputs_of_any_layout_give_the_same_output_and_gradients(layout: str) -> None:
    shape = (3, 7, 3, 5)
    exact = _plain(_inputs(*shape, torch.float32), torch.float64)
    leaves = _leaves(layout, shape)
    output, _ = attend(torch.nn.Module(), *leaves, None, scaling=5**-0.5)
    assert output.shape == shape and output.is_contiguous()
    gradients = torch.autograd.grad(output, leaves, _inputs(*shape, torch.float32)[3])
    assert all(gradient.transpose(1, 2).is_contiguous() for gradient in gradients)
    flat = torch.cat([gradient.transpose(1, 2).double().flatten() for gradient in gradients])
    for ours, true in zip((output.double(), flat), exact, strict=True):
        assert (ours - true).norm() <= 1e-6 * true.norm()


@pytest.mark.parametrize("sequences", [0, 1])
def test_no_sequence_and_one_sequence_run(sequences: int) -> None:
    leaves = _leaves("projections", (sequences, 5, 2, 4))
    output, _ = attend(torch.nn.Module(), *leaves, None)
    gradients = torch.autograd.grad(output.sum(), leaves)
    assert output.shape == (sequences, 5, 2, 4)
    assert all(g.shape == (sequences, 2, 5, 4) and not g.isnan().any() for g in gradients)


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 21, 2, 8)], ids=str)
def test_the_operators_keep_pytorchs_rules_for_custom_operators(shape: Any) -> None:
    q, k, v = (tensor.requires_grad_() for tensor in _inputs(*shape, torch.float32)[:3])
    torch.library.opcheck(patch_op.patch_attention, (q, k, v, 0.5))
    output, lse = (tensor.detach() for tensor in patch_op.patch_attention(q, k, v, 0.5))
    factors = [tensor.detach() for tensor in (q, k, v)]
    torch.library.opcheck(patch_op.patch_attention_backward, (output, *factors, lse, 0.5))


def _model(attention: str) -> Any:
    torch.manual_seed(0)
    return build_model(
        num_channels=2, context_length=42, prediction_length=6, patch_length=6, patch_stride=6, d_model=32, num_heads=4,
        num_layers=2, ffn_dim=32, dropout=0.0, head_dropout=0.0, attention_dropout=0.0, norm_type="batchnorm",
        pre_norm=True, attention=attention,
    )  # fmt: skip


def _as_patch(model: Any) -> Any:
    model = copy.deepcopy(model)
    model.config._attn_implementation = Patch().register()
    return model


def _step(model: Any) -> Tensor:
    """Predictions and all gradients but k_proj.bias (truly zero) in one vector."""
    generator = torch.Generator().manual_seed(1)
    past, future = torch.randn(3, 42, 2, generator=generator), torch.randn(3, 6, 2, generator=generator)
    output = model(past_values=past, future_values=future)
    output.loss.backward()
    parts = [p.grad for name, p in model.named_parameters() if p.grad is not None and "k_proj.bias" not in name]
    return torch.cat([part.flatten() for part in (output.prediction_outputs.detach(), *parts)])


@pytest.mark.parametrize("pruned", [False, True], ids=["all heads", "pruned"])
def test_a_model_gives_the_same_predictions_and_gradients_as_with_eager(pruned: bool) -> None:
    eager = _model("eager")
    if pruned:
        remove_heads(eager, None, {0: {0, 2}, 1: {1, 2, 3}})
        assert [layer.q_proj.out_features for layer in attention_layers(eager)] == [16, 8]
    ours, plain = _step(_as_patch(eager)), _step(eager)
    assert (ours - plain).norm() <= 1e-6 * plain.norm()


def test_a_model_compiles_without_a_graph_break() -> None:
    model = _as_patch(_model("eager"))
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False)
    ours, plain = _step(compiled), _step(model)
    assert (ours - plain).norm() <= 1e-6 * plain.norm()
