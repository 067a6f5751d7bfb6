"""The space of a sweep that draws its arms: which cells it leaves out, and that every other cell can be drawn."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.presets import PRESETS
from tune.common.errors import WrongInput
from tune.config.sweeps import Arm, SweepConfig, get_sweep
from tune.machine.device import DeviceFacts
from tune.plan.cells import Space, build_space
from tune.plan.data import UNREAD
from tune.plan.plan import plan_trial
from tune.plan.search_plan import SearchPlan
from tune.plan.space import _once_for_all_loaders, describe, plan_sweep

CPU = DeviceFacts(device_type="cpu", name="some CPU")
SMALL = {"data.dataset": "demo", "data.context_length": 96, "data.prediction_length": 24}


def _fewer(count: int = 2) -> SweepConfig:
    """The full sweep with all backends and patch lengths, and `count` choices of each other dimension."""
    full = get_sweep("full")
    complete = ("attention", "patch_length")
    return replace(
        full, space={name: choices if name in complete else choices[:count] for name, choices in full.space.items()}
    )


def _plan(sweep: SweepConfig | None = None, **given: Any) -> SearchPlan:
    choices = {"draws": 5, "overrides": SMALL, "repeats": 2, "seed": 1, "device": CPU} | given
    plan = plan_sweep(sweep or _fewer(), **choices)
    assert isinstance(plan, SearchPlan)
    return plan


def _sweep(**space: tuple[str, ...]) -> SweepConfig:
    """A sweep over made-up dimensions; each choice sets a field that takes any value."""
    fields = ("model.dropout", "model.head_dropout", "train.learning_rate", "train.batch_size")
    dimensions = {
        name: tuple(
            Arm(label=label, changes={field: 1 + number if field == "train.batch_size" else 0.1 * (1 + number)})
            for number, label in enumerate(labels)
        )
        for (name, labels), field in zip(space.items(), fields, strict=False)
    }
    baseline = Arm(label="baseline", changes={})
    return SweepConfig(name="made", question="?", baseline="baseline", arms=(baseline,), space=dimensions)


def _space(sweep: SweepConfig, refused: dict[tuple[str, ...], str]) -> Space:
    """The space of `sweep` on a device that runs all cells but the refused ones."""
    plan = plan_sweep(sweep, draws=1, overrides=SMALL, repeats=1, seed=1, device=CPU)

    def plan_cell(arm: Arm) -> Any:
        reason = refused.get(tuple(arm.label.split("-")))
        if reason and reason.startswith("wrong"):
            raise WrongInput(reason)
        return replace(plan.trials[0], unsupported=reason)

    return build_space(sweep, plan_cell=plan_cell, seed=1)


CELLS = list(itertools.product(("a1", "a2"), ("b1", "b2", "b3"), ("c1", "c2")))


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(CELLS), max_size=len(CELLS) - 1), st.randoms(use_true_random=False))
def test_no_cell_that_cannot_run_is_ever_drawn_and_every_other_one_can_be(refused: set[Any], random: Any) -> None:
    sweep = _sweep(a=("a1", "a2"), b=("b1", "b2", "b3"), c=("c1", "c2"))
    reasons = {cell: random.choice(("wrong: it does not fit", "the device cannot")) for cell in refused}
    space = _space(sweep, reasons)
    assert set(space.every()) == set(CELLS) - refused
    assert space.cells == len(CELLS) - len(refused)
    asked: dict[str, tuple[str, ...]] = {}

    def choose(name: str, options: tuple[str, ...]) -> str:
        assert len(options) > 1
        assert asked.setdefault(name, options) == options  # a sampler refuses a name with other options
        return random.choice(options)

    for _ in range(20):
        assert space.draw(choose) not in refused


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(CELLS), max_size=len(CELLS) - 1))
def test_every_cell_that_cannot_run_is_named_with_a_reason(refused: set[Any]) -> None:
    space = _space(_sweep(a=("a1", "a2"), b=("b1", "b2", "b3"), c=("c1", "c2")), dict.fromkeys(refused, "it cannot"))
    named = [set(refusal.choices.values()) for refusal in space.refusals if refusal.choices]
    others = sum(refusal.cells for refusal in space.refusals if not refusal.choices)
    left = [cell for cell in refused if not any(choices <= set(cell) for choices in named)]
    assert others == len(left)
    assert all(cell in refused for cell in CELLS for choices in named if choices <= set(cell))


def test_a_choice_that_never_runs_is_named_once_with_its_own_reason() -> None:
    dead = {cell: "a1 is not there" for cell in CELLS if cell[0] == "a1"}
    both = dead | {cell: dead.get(cell, "c2 is not there") for cell in CELLS if cell[2] == "c2"}
    refusals = _space(_sweep(a=("a1", "a2"), b=("b1", "b2", "b3"), c=("c1", "c2")), both).refusals
    assert [(dict(refusal.choices), refusal.reason, refusal.cells) for refusal in refusals] == [
        ({"a": "a1"}, "a1 is not there", 6),
        ({"c": "c2"}, "c2 is not there", 6),
    ]


def test_choices_that_exclude_each_other_are_named_as_a_pair() -> None:
    refused = {cell: "wrong: they exclude each other" for cell in CELLS if cell[:2] == ("a1", "b3")}
    (refusal,) = _space(_sweep(a=("a1", "a2"), b=("b1", "b2", "b3"), c=("c1", "c2")), refused).refusals
    assert (dict(refusal.choices), refusal.cells, refusal.example) == ({"a": "a1", "b": "b3"}, 2, None)


def test_what_is_unsupported_is_one_trial_of_the_plan_for_each_reason_and_what_is_no_configuration_is_none() -> None:
    plan = _plan()
    refused = {trial.arm: trial for trial in plan.trials if trial.unsupported}
    assert "attention-sdpa_efficient" in refused and "attention-eager" not in refused
    assert refused["attention-sdpa_efficient"].trial_id == "full-attention-sdpa_efficient-s1"
    assert refused["attention-sdpa_efficient"].config.model.attention == "sdpa_efficient"
    assert not any(arm.startswith("patch_length") for arm in refused)
    text = "\n".join(describe(plan))
    assert "patch_length=patch-96: left out" in text and "must be shorter than data.context_length=96" in text
    assert f"5 trials of the {plan.shapes.cells:,} shapes" in text


def test_every_cell_of_full_that_is_offered_can_run() -> None:
    plan = _plan(get_sweep("full"))
    assert plan.space.cells == sum(1 for _ in plan.space.every()) > 100
    cells = itertools.islice(plan.space.every(), 0, None, 97)
    drawn = [plan.search_trial((*labels, plan.engines[0]), 7) for labels in cells]
    assert {trial.unsupported for trial in drawn} == {None}
    assert {trial.trial_id for trial in drawn} == {"full-search-007-s1"}
    assert all(trial.arm.startswith("search-007-") and trial.seed == 1 for trial in drawn)


def test_the_finals_known_trials_are_the_baselines() -> None:
    assert [trial.trial_id for trial in _plan().runnable] == ["full-baseline-s2", "full-baseline-s3"]


def test_the_final_has_no_seed_of_the_search_and_says_so_where_there_is_none_left() -> None:
    plan = _plan(seed=7, repeats=3)
    assert [trial.seed for trial in plan.runnable] == [8, 9, 10]
    assert plan.search_trial(plan.error_cell(next(plan.shapes.every())), 1).seed == 7
    assert _plan(seed=2**31 - 3).runnable[-1].seed == 2**31 - 1
    for seed in (-1, 2**31 - 2):
        with pytest.raises(WrongInput, match=f"--seed {seed} with --repeats 2: the final has the seeds after"):
            _plan(seed=seed)


def test_the_baselines_own_cell_is_known_where_it_can_run() -> None:
    plan = _plan(get_sweep("full"))
    assert plan.baseline_cell == ("eager", "patch-12", "batch-128", "device-0", "none", "eager")
    assert plan.baseline_trial == "full-search-001-s1"
    full = get_sweep("full")
    without = replace(full, space=full.space | {"batch_size": full.space["batch_size"][:1]})
    assert _plan(without).baseline_cell is None and _plan(without).baseline_trial is None
    other = replace(full, arms=(replace(full.arms[0], changes={**full.arms[0].changes, "model.dropout": 0.37}),))
    assert _plan(other).baseline_cell is None  # its choices, and another change


H100 = DeviceFacts(device_type="cuda", name="NVIDIA H100", capability=(9, 0), memory_gib=79.6, missing={})


def _by_precision(*labels: str) -> SweepConfig:
    """The full sweep with two choices of two dimensions, across precisions."""
    full = _fewer()
    kept = {name: full.space[name] for name in ("patch_length", "batch_size")}
    precisions = tuple(Arm(label=label, changes={"train.precision": label}) for label in labels)
    return replace(full, space=kept | {"precision": precisions})


def _layers(plan: SearchPlan) -> set[str]:
    cells = [plan.search_trial((*labels, plan.engines[0]), 1) for labels in plan.space.every()]
    return {trial.config.model.layers for trial in (*cells, *plan.runnable)}


def test_search_and_final_have_the_same_layers_in_all_cells_where_auto_would_mix_them() -> None:
    plan = _plan(_by_precision("bf16", "fp32"), device=H100)
    assert _layers(plan) == {"transformers"}
    arm = plan.arm((*next(plan.space.every()), "graph"))
    assert plan.settings(arm).endswith(
        " --set train.precision=bf16 --set train.engine=graph --set model.layers=transformers"
    )
    assert plan.baseline_computation()[1].layers == "transformers"
    assert "all: model.layers=transformers, as auto would differ between cells" in "\n".join(describe(plan))


@pytest.mark.parametrize("layers", ["auto", "fused"])
def test_layers_that_are_equal_or_chosen_by_hand_are_left_as_they_are(layers: str) -> None:
    precisions = ("bf16", "fp16") if layers == "auto" else ("bf16", "fp32")
    plan = _plan(_by_precision(*precisions), device=H100, overrides=SMALL | {"model.layers": layers})
    assert (_layers(plan), dict(plan.settled)) == ({"fused"}, {})
    assert "model.layers" not in plan.settings(plan.arm((*next(plan.space.every()), "graph")))


def test_every_trial_of_full_trains_all_its_epochs_also_where_a_preset_has_a_patience() -> None:
    gpu = DeviceFacts(device_type="cuda", name="some GPU", capability=(9, 0))
    overrides = {"data.dataset": "demo", "model.preset": "ettm"}
    plan = _plan(get_sweep("full"), overrides=overrides, device=gpu)
    assert PRESETS["ettm"]["train.patience"] == 20
    assert {trial.config.train.patience for trial in plan.trials} == {None}
    assert plan.search_trial(plan.error_cell(next(plan.shapes.every())), 1).config.train.patience is None


def test_a_space_without_a_cell_that_runs_is_refused_with_the_reason() -> None:
    sweep = _sweep(a=("a1", "a2"))
    with pytest.raises(WrongInput, match="no cell of the made sweep's space can run here.*it is broken"):
        _space(sweep, {("a1",): "it is broken", ("a2",): "it is broken"})


def test_the_identity_of_a_search_follows_its_draws_and_its_cells() -> None:
    def key(plan: SearchPlan) -> str:
        return plan.key(data_sha256="d", tracking_uri="sqlite:///m.db")

    longer = SMALL | {"data.context_length": 128}
    keys = [key(_plan()), key(_plan(draws=6)), key(_plan(seed=2)), key(_plan(repeats=3)), key(_plan(overrides=longer))]
    keys += [key(_plan(_fewer(3))), key(_plan(target_val_mse=0.4)), key(_plan(target_val_mse=0.5))]
    keys.append(key(_plan(overrides=SMALL | {"train.engine": "eager"})))
    assert len(set(keys)) == len(keys)
    assert key(_plan()) == keys[0]


def test_cells_that_differ_in_their_loader_only_are_planned_once_with_the_same_result() -> None:
    full = get_sweep("full")
    loaders = (*full.space["loader"][:3], Arm(label="wrong", changes={"data.feed": "device", "data.num_workers": 2}))
    space = {
        "attention": full.space["attention"][:2],
        "patch_length": full.space["patch_length"][:4],
        "loader": loaders,
    }
    sweep = replace(full, space=space)
    planned: list[Arm] = []

    def plan_cell(arm: Arm) -> Any:
        planned.append(arm)
        return plan_trial(sweep, arm, SMALL, 1, CPU, UNREAD)

    one_by_one = build_space(sweep, plan_cell=plan_cell, seed=1)
    every = len(planned)
    once = build_space(sweep, plan_cell=_once_for_all_loaders(plan_cell), seed=1)
    assert once.tree == one_by_one.tree and 0 < once.cells == one_by_one.cells
    assert [refusal.line() for refusal in once.refusals] == [refusal.line() for refusal in one_by_one.refusals]
    assert len(planned) - every < every
