"""Removed heads are gone from weights, biases, config and moments; what is left computes what masking would."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.heads import attention_layers, count_parameters, heads_per_layer
from model.patchtst import build_model, load_model, save_model
from model.pruning import SCORES
from model.pruning.schedules import SCHEDULES
from model.pruning.surgery import MOMENTS, remove_heads, select_heads

D, K, E, LAYERS, CHANNELS, L, H = 24, 6, 4, 2, 3, 48, 12
HEAD_PARAMETERS = 4 * D * E + 3 * E
GONE = {0: {0, 3}, 1: {5}}


def _model(**fields: Any) -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_channels": CHANNELS, "context_length": L, "prediction_length": H, "patch_length": 12, "patch_stride": 12,
        "d_model": D, "num_heads": K, "num_layers": LAYERS, "ffn_dim": 32, "dropout": 0.1, "head_dropout": 0.2,
        "attention_dropout": 0.0, "norm_type": "batchnorm", "pre_norm": True, "attention": "eager",
    }  # fmt: skip
    return build_model(**shape | fields)


def _loss(model: Any, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    past, future = torch.randn(8, L, CHANNELS, generator=generator), torch.randn(8, H, CHANNELS, generator=generator)
    return model(past_values=past, future_values=future).loss


def _trained(steps: int = 3, **adam: Any) -> tuple[Any, torch.optim.Optimizer]:
    model = _model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, **adam)
    for step in range(steps):
        _loss(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def _mask_heads(model: Any, heads: dict[int, set[int]]) -> None:
    """Zero the heads' outputs before out_proj: the reference for surgery."""
    for layer, gone in heads.items():
        columns = torch.ones(K * E)
        for head in gone:
            columns[head * E : (head + 1) * E] = 0
        hook: Callable[..., Any] = lambda module, inputs, columns=columns: (inputs[0] * columns,)  # noqa: E731
        attention_layers(model)[layer].out_proj.register_forward_pre_hook(hook)


heads_to_remove = st.dictionaries(
    st.integers(0, LAYERS - 1), st.sets(st.integers(0, K - 1), min_size=1, max_size=K - 1), min_size=1
)


@settings(max_examples=20, deadline=None)
@given(heads=heads_to_remove)
def test_a_pruned_model_computes_what_masking_the_heads_would(heads: dict[int, set[int]]) -> None:
    model, _ = _trained()
    masked = copy.deepcopy(model)
    _mask_heads(masked, heads)
    remove_heads(model, None, heads)
    past = torch.randn(5, L, CHANNELS, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours, theirs = (m.eval()(past_values=past).prediction_outputs for m in (model, masked))
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


@settings(max_examples=20, deadline=None)
@given(heads=heads_to_remove)
def test_parameters_fall_by_exactly_the_heads_own(heads: dict[int, set[int]]) -> None:
    model = _model()
    before = count_parameters(model)
    remove_heads(model, None, heads)
    assert before - count_parameters(model) == sum(map(len, heads.values())) * HEAD_PARAMETERS


@pytest.mark.parametrize("adam", [{}, {"amsgrad": True}, {"foreach": True}, {"fused": True}], ids=str)
def test_moments_of_what_stays_are_untouched_bit_for_bit(adam: dict[str, Any]) -> None:
    model, optimizer = _trained(**adam)
    old = {name: (p.detach().clone(), copy.deepcopy(optimizer.state[p])) for name, p in model.named_parameters()}
    remove_heads(model, optimizer, GONE)
    for name, parameter in model.named_parameters():
        weight, moments = old[name]
        index = [slice(None)] * weight.dim()
        parts = name.split(".")
        if "self_attn" in parts:
            stay = [head for head in range(K) if head not in GONE[int(parts[3])]]
            rows = torch.tensor([head * E + offset for head in stay for offset in range(E)])
            if parts[-2] != "out_proj":
                index[0] = rows
            elif parts[-1] == "weight":
                index[1] = rows
        assert torch.equal(parameter, weight[tuple(index)])
        state = optimizer.state[parameter]
        assert state.keys() == moments.keys()
        for key, value in state.items():
            expected = moments[key][tuple(index)] if key in MOMENTS else moments[key]
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(expected)), (name, key)


def test_the_optimizer_trains_exactly_the_models_parameters_and_nothing_else_is_kept() -> None:
    model, optimizer = _trained()
    remove_heads(model, optimizer, GONE)
    in_groups = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert in_groups == {id(p) for p in model.parameters()}
    assert {id(p) for p in optimizer.state} <= in_groups


def test_heads_stay_out_while_training_goes_on_and_original_numbers_survive_several_removals() -> None:
    model, optimizer = _trained()
    remove_heads(model, optimizer, {0: {1}, 1: {4}})
    _loss(model).backward()
    optimizer.step()
    optimizer.zero_grad()
    remove_heads(model, optimizer, {0: {4}})
    loss = _loss(model)
    loss.backward()
    optimizer.step()
    assert heads_per_layer(model) == [[0, 2, 3, 5], [0, 1, 2, 3, 5]]
    assert [a.q_proj.weight.shape[0] for a in attention_layers(model)] == [4 * E, 5 * E]
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({0: set(range(K))}, "at least one must stay"),
        ({0: {K}}, f"layer 0 has no head {K}"),
        ({LAYERS: {0}}, f"there is no layer {LAYERS}"),
        ({0: {1}, 1: {99}}, "layer 1 has no head 99"),
    ],
    ids=str,
)
def test_a_removal_that_cannot_be_is_refused_with_nothing_changed(heads: dict[int, set[int]], message: str) -> None:
    model = _model()
    before = count_parameters(model)
    with pytest.raises(ValueError, match=message):
        remove_heads(model, None, heads)
    assert count_parameters(model) == before and heads_per_layer(model) == [list(range(K))] * LAYERS


def test_a_head_cannot_leave_twice() -> None:
    model = _model()
    remove_heads(model, None, {0: {2}})
    with pytest.raises(ValueError, match="layer 0 has no head 2"):
        remove_heads(model, None, {0: {2}})


def _batches(model: Any) -> Iterator[Callable[[], torch.Tensor]]:
    return iter([partial(_loss, model, seed) for seed in range(3)])


def _scores(name: str, model: Any, seed: int = 0) -> list[torch.Tensor]:
    return SCORES[name](model, loss_batches=_batches(model), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SCORES)
def test_every_score_gives_a_number_per_head_also_after_heads_have_left(name: str) -> None:
    model, optimizer = _trained()
    remove_heads(model, optimizer, GONE)
    scores = _scores(name, model)
    assert [len(score) for score in scores] == [4, 5]
    assert all(torch.isfinite(score).all() and (score >= 0).all() for score in scores)


@pytest.mark.parametrize("name", SCORES)
def test_scoring_leaves_no_trace_in_the_training(name: str) -> None:
    model, optimizer = _trained()
    model.train()
    _loss(model).backward()
    before = copy.deepcopy(model.state_dict())
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    state, random_state = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    _scores(name, model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(p.grad, gradients[n]) for n, p in model.named_parameters() if n in gradients)
    assert str(optimizer.state_dict()) == str(state)


def test_a_batch_that_fails_leaves_no_trace_and_frozen_submodules_stay_in_their_mode() -> None:
    model, _ = _trained()
    model.model.encoder.layers[0].norm_sublayer1.eval()
    modes, before = [module.training for module in model.modules()], copy.deepcopy(model.state_dict())

    def out_of_memory() -> torch.Tensor:
        _loss(model).backward()
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        SCORES["taylor"](model, loss_batches=[out_of_memory], generator=torch.Generator())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_repeatable(name: str) -> None:
    model, _ = _trained()
    model.eval()
    assert all(torch.equal(a, b) for a, b in zip(_scores(name, model), _scores(name, model), strict=True))


def test_random_scores_come_from_the_generator_alone() -> None:
    model = _model()
    assert not torch.equal(_scores("random", model, seed=1)[0], _scores("random", model, seed=2)[0])


@pytest.mark.parametrize("name", ["magnitude", "taylor"])
def test_a_head_without_weights_is_the_least_important(name: str) -> None:
    model, _ = _trained()
    attention = attention_layers(model)[1]
    rows = slice(2 * E, 3 * E)
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight[rows] = 0
            projection.bias[rows] = 0
        attention.out_proj.weight[:, rows] = 0
    assert _scores(name, model)[1].argmin().item() == 2


def test_magnitude_is_the_norm_of_the_heads_own_rows_and_columns() -> None:
    model = _model()
    attention, head = attention_layers(model)[0], 3
    rows = slice(head * E, (head + 1) * E)
    parts = [p.weight[rows] for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
    parts += [p.bias[rows] for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
    parts.append(attention.out_proj.weight[:, rows])
    expected = torch.cat([part.detach().double().flatten() for part in parts]).norm()
    assert _scores("magnitude", model)[0][head].item() == pytest.approx(expected.item(), rel=1e-12)


def test_taylor_sums_over_batches_the_size_of_gradient_times_weight_of_a_whole_head() -> None:
    """By autograd.grad on a copy in training mode, a head's parameters picked one by one."""
    model = _model(dropout=0.0, head_dropout=0.0).eval()
    twin = copy.deepcopy(model).train()
    head, layer = 3, attention_layers(twin)[1]
    rows, expected = slice(head * E, (head + 1) * E), 0.0
    projections = (layer.q_proj, layer.k_proj, layer.v_proj)
    own = [p.weight for p in projections] + [p.bias for p in projections] + [layer.out_proj.weight]
    for seed in range(3):
        products = [w * g for w, g in zip(own, torch.autograd.grad(_loss(twin, seed), own), strict=True)]
        mine = [p[rows] for p in products[:-1]] + [products[-1][:, rows]]
        expected += abs(sum(part.double().sum().item() for part in mine))
    assert _scores("taylor", model)[1][head].item() == pytest.approx(expected, rel=1e-4)


def test_taylor_without_a_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one training batch"):
        SCORES["taylor"](_model(), loss_batches=None, generator=torch.Generator())


def test_the_lowest_heads_are_selected_ties_by_number_and_one_always_stays() -> None:
    scores = [torch.tensor([3.0, 1.0, 1.0, 2.0])]
    assert select_heads(scores, [[0, 4, 7, 9]], 2) == {0: {4, 7}}
    assert select_heads(scores, [[0, 4, 7, 9]], 1) == {0: {4}}
    with pytest.raises(ValueError, match="at least one must stay"):
        select_heads(scores, [[0, 4, 7, 9]], 4)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 10, 30])
@pytest.mark.parametrize("heads", [1, 5, 8])
def test_every_schedule_only_removes_and_ends_at_the_full_number(name: str, epochs: int, heads: int) -> None:
    removed = SCHEDULES[name](heads, epochs)
    assert len(removed) == epochs
    assert list(removed) == sorted(removed)
    assert removed[-1] == heads


def test_schedules_remove_when_the_design_says() -> None:
    assert SCHEDULES["one_shot"](5, 9) == (0, 0, 0, 5, 5, 5, 5, 5, 5)
    assert SCHEDULES["one_shot"](5, 2) == (5, 5)
    assert SCHEDULES["gradual"](5, 10) == (0, 2, 4, 5, 5, 5, 5, 5, 5, 5)
    assert SCHEDULES["gradual"](8, 8) == (0, 5, 7, 8, 8, 8, 8, 8)
    assert SCHEDULES["gradual"](5, 1) == (5,)


def test_a_pruned_model_is_saved_and_loaded_from_its_folder_alone(tmp_path: Path) -> None:
    model, optimizer = _trained()
    remove_heads(model, optimizer, GONE)
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert heads_per_layer(loaded) == heads_per_layer(model)
    past = torch.randn(4, L, CHANNELS)
    with torch.no_grad():
        ours, theirs = (m.eval()(past_values=past).prediction_outputs for m in (loaded, model))
    assert torch.equal(ours, theirs)


def test_an_unpruned_model_is_loadable_by_stock_transformers(tmp_path: Path) -> None:
    from transformers import PatchTSTForPrediction

    model, _ = _trained()
    save_model(model, tmp_path / "m")
    stock = PatchTSTForPrediction.from_pretrained(tmp_path / "m").eval()
    past = torch.randn(4, L, CHANNELS)
    with torch.no_grad():  # stock transformers chooses its own attention function
        theirs, ours = (m(past_values=past).prediction_outputs for m in (stock, model.eval()))
    assert torch.allclose(theirs, ours, atol=1e-5)


def test_the_study_models_head_has_the_published_number_of_parameters() -> None:
    from model.presets import build_fields

    model = build_model(num_channels=7, prediction_length=96, attention="eager", **build_fields("study"))
    before = count_parameters(model)
    remove_heads(model, None, {0: {0}, 1: {0}, 2: {0}})
    assert before - count_parameters(model) == 3 * 4_120
