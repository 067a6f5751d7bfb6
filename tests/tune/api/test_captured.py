"""An encoder's passes as graphs, with a stand-in for CUDA graphs: a training loop sees no difference."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate_kit import plain_model
from capture_kit import RecordingCapture
from torch import Tensor

from model import swap
from model.guard import Checked
from tune.api.captured import GRAPHS, Captures

BATCH = 4


class Counted(RecordingCapture):
    """Counts what was captured and what was replayed."""

    made = replayed = 0

    def __init__(self) -> None:
        super().__init__()
        Counted.made += 1

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        replay = super().record(work)

        def counted() -> None:
            Counted.replayed += 1
            replay()

        return counted


@pytest.fixture(autouse=True)
def _from_zero() -> None:
    Counted.made = Counted.replayed = 0


def _model(*, captured: bool) -> Any:
    model: Any = plain_model(head_dropout=0.0).train()
    swap.swap(model, attention=False, layers=False, checked=Checked(precision="fp32", device_type="cpu"))
    if captured:
        model.model.encoder.captures = Captures(Counted)
    return model


def _loss(model: Any, seed: int, batch: int = BATCH) -> Tensor:
    values = torch.randn(batch, 28, 2, generator=torch.Generator().manual_seed(seed))
    loss: Tensor = model(past_values=values[:, :24], future_values=values[:, 24:]).loss
    return loss


def _train(model: Any, *, accumulate: int = 1) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(6):
        loss = _loss(model, step)
        loss.backward()
        losses.append(loss.item())
        if step % accumulate == accumulate - 1:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return losses


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_by_graphs_gives_the_weights_and_statistics_of_training_without(accumulate: int) -> None:
    plain, ours = _model(captured=False), _model(captured=True)
    assert _train(ours, accumulate=accumulate) == pytest.approx(_train(plain, accumulate=accumulate), rel=1e-6)
    assert Counted.made == 1 and Counted.replayed == 2 * 5, "the first batch runs, five are replayed twice each"
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_forecasts_are_graphs_of_their_own_and_are_the_callers() -> None:
    pasts = torch.randn(3, 2, 24, 2, generator=torch.Generator().manual_seed(1))
    found = {}
    for captured in (False, True):
        model = _model(captured=captured).eval()
        with torch.no_grad():
            found[captured] = [model(past_values=past).prediction_outputs for past in pasts]
    assert Counted.replayed == 2
    for one, other in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_pass_that_still_waits_for_its_backward_pass_is_left_alone() -> None:
    plain, ours = _model(captured=False), _model(captured=True)
    for model in (plain, ours):
        for seed in (1, 2):
            _loss(model, seed).backward()
        model.zero_grad()
        (_loss(model, 3) + _loss(model, 4)).backward()
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)


def test_a_pass_that_nobody_waits_for_any_more_does_not_block_the_graph() -> None:
    model = _model(captured=True)
    for seed in range(3):
        _loss(model, seed)  # dropped without a backward pass
        gc.collect()
    assert Counted.replayed == 2


def test_a_second_backward_pass_is_refused_with_what_to_do() -> None:
    model = _model(captured=True)
    _loss(model, 1).backward()
    loss = _loss(model, 2)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward pass .* accelerate\\(model, cuda_graph=False\\)"):
        loss.backward()


def test_weights_that_moved_and_layers_that_were_frozen_are_captured_anew() -> None:
    plain, ours = _model(captured=False), _model(captured=True)
    for model in (plain, ours):
        _train(model)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        for parameter in model.model.encoder.layers[0].ff.parameters():
            parameter.requires_grad = False
        _train(model)
    assert Counted.made == 2
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("what", ["hook", "checkpointing", "hidden states"])
def test_what_a_graph_would_compute_otherwise_runs_without_one(what: str) -> None:
    model, seen = _model(captured=True), []
    if what == "hook":
        model.model.encoder.layers[0].ff.register_forward_hook(lambda *_: seen.append(1))
    elif what == "checkpointing":
        model.model.encoder.gradient_checkpointing = True
    for seed in range(3):
        values = torch.randn(BATCH, 24, 2, generator=torch.Generator().manual_seed(seed))
        model(past_values=values, output_hidden_states=what == "hidden states")
    assert Counted.made == 0 and len(seen) == (3 if what == "hook" else 0)


def test_no_more_shapes_than_allowed_are_captured() -> None:
    model = _model(captured=True).eval()
    with torch.no_grad():
        for batch in range(1, GRAPHS + 3):
            for _ in range(2):
                model(past_values=torch.zeros(batch, 24, 2))
    assert Counted.made == GRAPHS


def test_copies_and_pickles_of_a_model_hold_no_graphs() -> None:
    model = _model(captured=True)
    _train(model)
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for twin in twins:
        assert not twin.model.encoder.captures._graphs
        assert _train(copy.deepcopy(twin)) == pytest.approx(_train(twin), rel=1e-6)


def test_the_random_state_is_that_of_a_training_without_graphs() -> None:
    model = _model(captured=True)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for seed in range(3):
        _loss(model, seed).backward()
    assert torch.equal(torch.get_rng_state(), state)
