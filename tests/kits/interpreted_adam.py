"""OneLaunchAdam in Triton's interpreter, on a CPU: run by tests/test_interpreted.py in its own process.

The reference is torch.optim.Adam(fused=True) with betas that fp32 can hold: torch's CPU kernel takes them as fp64, its
CUDA kernel and ours as fp32.
"""

from __future__ import annotations

import copy
import ctypes
import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data_pipeline.feed.batches import Batch
from model.patchtst import build_model
from model.pruning.surgery import remove_heads
from tune.engine.adam import BLOCK, OneLaunchAdam
from tune.engine.optimizer import make_scaler
from tune.engine.step import Stepper

BETAS = (ctypes.c_float(0.9).value, ctypes.c_float(0.999).value)
SIZES = (3, BLOCK, 0, 2 * BLOCK + 1, 35, 16, BLOCK - 4)
Pair = tuple[torch.optim.Adam, torch.optim.Adam]


def _pair(sizes: Any = SIZES, lr: Any = 1e-2, betas: tuple[float, float] = BETAS) -> Pair:
    """Ours and torch's, over equal parameters."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(size, generator=generator) for size in sizes]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in values] for _ in range(2))
    return OneLaunchAdam(ours, lr=lr, betas=betas), torch.optim.Adam(theirs, lr=lr, betas=betas, fused=True)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _step(pair: Pair, seed: int, scale: float | None = None, overflowed: bool = False, without: Any = ()) -> None:
    """One step of both with equal gradients; `without` are the numbers of parameters that get none."""
    generator = torch.Generator().manual_seed(seed)
    for number, parameters in enumerate(zip(*map(_parameters, pair), strict=True)):
        grad = torch.randn(parameters[0].shape, generator=generator) * (scale or 1.0)
        for parameter in parameters:
            parameter.grad = None if number in without else grad.clone()
    for optimizer in pair:
        if scale is not None:
            optimizer.grad_scale, optimizer.found_inf = torch.tensor([scale]), torch.tensor(float(overflowed))
        optimizer.step()


def _assert_same(pair: Pair) -> None:
    ours, theirs = pair
    for mine, other in zip(_parameters(ours), _parameters(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
        assert ours.state[mine].keys() == theirs.state[other].keys()
        for name, value in ours.state[mine].items():
            torch.testing.assert_close(value, theirs.state[other][name], rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(0, 2 * BLOCK + 5), min_size=1, max_size=6),
    beta1=st.sampled_from([0.0, 0.5, BETAS[0]]),
    lr=st.sampled_from([1e-2, torch.tensor(1e-2)]),
    scale=st.sampled_from([None, 1024.0, 3.0]),
    steps=st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 5))), min_size=1, max_size=6),
)
def test_any_parameters_train_as_with_torchs(sizes: Any, beta1: float, lr: Any, scale: Any, steps: Any) -> None:
    pair = _pair(sizes, lr, (beta1, BETAS[1]))
    for seed, (overflowed, without) in enumerate(steps):
        _step(pair, seed, scale, overflowed, without)
        _assert_same(pair)


@pytest.mark.parametrize(("sizes", "steps"), [(SIZES, 20), (range(0, 910, 7), 2)], ids=["20 steps", "130 tensors"])
def test_steps_of_many_tensors_give_torchs_weights_moments_and_steps(sizes: Any, steps: int) -> None:
    pair = _pair(sizes)
    for seed in range(steps):
        _step(pair, seed)
    _assert_same(pair)
    assert {float(state["step"]) for state in pair[0].state.values()} == {float(steps)}


def test_a_new_rate_and_beta1_are_taken_at_the_next_step() -> None:
    pair = _pair(lr=torch.tensor(1e-2))
    for seed in range(6):
        for group in (group for optimizer in pair for group in optimizer.param_groups):
            group["lr"].fill_(1e-3 * (seed + 1))
            group["betas"] = (0.5 + seed / 16, BETAS[1])
        _step(pair, seed)
    _assert_same(pair)


def test_groups_of_parameters_have_rates_of_their_own() -> None:
    pair = _pair()
    for optimizer in pair:
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(5))], "lr": 0.5})
    for seed in range(3):
        _step(pair, seed)
    _assert_same(pair)


def test_parameters_at_odd_addresses_are_updated_and_nothing_beside_them() -> None:
    pair = _pair([2 * BLOCK, 8])
    memory = [torch.full((parameter.numel() + 2,), 7.0) for parameter in _parameters(pair[0])]
    for place, parameter in zip(memory, _parameters(pair[0]), strict=True):
        place[1:-1] = parameter.detach()
        parameter.data = place[1:-1]
    for seed in range(3):
        _step(pair, seed)
    _assert_same(pair)
    assert all(place[0] == place[-1] == 7.0 for place in memory)


def test_gradients_in_bf16_are_taken_as_they_are() -> None:
    pair = _pair([35, 2048])
    for seed in range(3):
        for mine, other in zip(*map(_parameters, pair), strict=True):
            mine.grad_dtype = torch.bfloat16
            mine.grad = torch.randn(mine.shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
            other.grad = mine.grad.float()
        for optimizer in pair:
            optimizer.step()
    _assert_same(pair)


@pytest.mark.parametrize("first", [0, 1], ids=["from ours", "from torch's"])
def test_each_goes_on_from_the_others_saved_state(first: int) -> None:
    pair = _pair()
    for seed in range(3):
        _step(pair, seed)
    file = io.BytesIO()
    torch.save(pair[first].state_dict(), file)
    file.seek(0)
    pair[1 - first].load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        for mine, other in zip(*map(_parameters, pair), strict=True):
            other.copy_(mine)
    for seed in range(3, 6):
        _step(pair, seed)
    _assert_same(pair)


def test_a_dimension_of_one_element_may_have_any_stride() -> None:
    pair = _pair([(5, 1)])
    for parameter in map(_parameters, pair):
        parameter[0].grad = torch.arange(5.0).view(1, 5).t()
    for optimizer in pair:
        optimizer.step()
    assert pair[0].param_groups[0]["params"][0].grad.stride() != pair[0].param_groups[0]["params"][0].stride()
    _assert_same(pair)


def test_a_copy_steps_on_memory_of_its_own() -> None:
    pair = _pair()
    _step(pair, 0)
    copied = copy.deepcopy(pair[0]), copy.deepcopy(pair[1])
    _step(copied, 1)
    _assert_same(copied)
    _assert_same(pair)


def _steppers(precision: str, scale: float | None = None) -> tuple[Stepper, Stepper]:
    """A small model with our optimizer, and the same with torch's."""
    steppers = []
    for ours in (True, False):
        torch.manual_seed(0)
        model = build_model(
            num_channels=2, context_length=48, prediction_length=8, patch_length=12, patch_stride=12, d_model=16,
            num_heads=4, num_layers=2, ffn_dim=16, dropout=0.0, head_dropout=0.0, attention_dropout=0.0,
            norm_type="batchnorm", pre_norm=True, attention="eager",
        ).train()  # fmt: skip
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = OneLaunchAdam(trained, betas=BETAS) if ours else torch.optim.Adam(trained, betas=BETAS, fused=True)
        scaler = make_scaler("cpu", precision)
        if scaler is not None:
            scaler.load_state_dict(scaler.state_dict() | {"scale": scale})
        steppers.append(Stepper(model, optimizer, precision=precision, scaler=scaler))
    return steppers[0], steppers[1]


def _batch() -> Batch:
    return Batch(past=torch.randn(4, 48, 2), future=torch.randn(4, 8, 2), valid=4)


def _assert_trained_alike(steppers: tuple[Stepper, Stepper]) -> None:
    mine, other = (stepper.model.state_dict() for stepper in steppers)
    for name in mine:
        if not name.endswith("k_proj.bias"):  # its true gradient is zero: Adam makes a step of its rounding
            torch.testing.assert_close(mine[name], other[name], rtol=1e-5, atol=1e-5)


def test_after_heads_left_a_model_trains_on_as_with_torchs() -> None:
    steppers = _steppers("fp32")
    for stage in range(3):
        for _ in range(2):
            batch = _batch()
            for stepper in steppers:
                stepper.step(batch)
        for stepper in steppers if stage < 2 else ():
            remove_heads(stepper.model, stepper.optimizer, {0: {stage}, 1: {3 - stage}})
    _assert_trained_alike(steppers)


def test_warming_up_leaves_no_trace_and_skipped_steps_of_fp16_are_counted() -> None:
    steppers = _steppers("fp16", scale=2.0**40)
    for stepper in steppers:
        stepper.warm_up(_batch(), _batch().past)
        stepper.model.train()
    assert not any(value.any() for state in steppers[0].optimizer.state.values() for value in state.values())
    for _ in range(30):
        batch = _batch()
        for stepper in steppers:
            stepper.step(batch)
    skipped = [stepper.take_skipped_steps() for stepper in steppers]
    assert skipped[0] == skipped[1] and 1 <= skipped[0] < 30
    _assert_trained_alike(steppers)


@pytest.mark.parametrize("option", ["weight_decay", "amsgrad", "maximize"])
def test_what_the_kernel_does_not_compute_is_refused(option: str) -> None:
    pair = _pair()
    pair[0].param_groups[0][option] = True
    with pytest.raises(ValueError, match="without weight_decay, amsgrad and maximize"):
        _step(pair, 0)


@pytest.mark.parametrize("kind", ["fp64", "strides"])
def test_tensors_that_the_kernel_was_not_written_for_are_refused(kind: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(4, 6, dtype=torch.float64 if kind == "fp64" else torch.float32))
    parameter.grad = torch.ones_like(parameter) if kind == "fp64" else torch.ones(6, 4).t()
    with pytest.raises(ValueError, match="use torch.optim.Adam"):
        OneLaunchAdam([parameter]).step()
