"""Which fields decide an error and which only a time, and which choices are one step away from another."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.config.sweeps import Arm, get_sweep
from tune.config.trial_config import FIELDS, TrialConfig
from tune.machine.device import DeviceFacts
from tune.plan.plan import make_plan
from tune.plan.shapes import KEEPS_FUNCTION, effort, is_way, middles, neighbours, work_of

H100 = DeviceFacts(device_type="cuda", name="NVIDIA H100", capability=(9, 0), memory_gib=79.6, missing={})
SPACE = get_sweep("full").space


def _config(**fields: Any) -> TrialConfig:
    overrides = {"data.dataset": "demo", "model.attention": "eager", **fields}
    (trial,) = make_plan(get_sweep("custom"), overrides=overrides, repeats=1, seed=1, device=H100).trials
    return trial.config


def test_every_field_that_keeps_the_function_is_a_field() -> None:
    assert set(KEEPS_FUNCTION) <= set(FIELDS) and "train.precision" not in KEEPS_FUNCTION


def test_backends_and_loaders_are_ways_and_all_else_decides_the_error() -> None:
    assert [name for name, choices in SPACE.items() if is_way(choices)] == ["attention", "loader"]
    assert is_way([Arm(label="a", changes={"train.engine": "eager"})])
    assert not is_way([Arm(label="a", changes={"train.engine": "eager", "train.precision": "fp32"})])


@pytest.mark.parametrize(
    "fields",
    [
        {"model.attention": "sdpa_efficient"},
        {"data.feed": "arrow", "data.num_workers": 4},
        {"train.engine": "compile"},
        {"train.seed": 7},
    ],
)
def test_the_work_of_a_step_does_not_depend_on_how_it_runs(fields: dict[str, Any]) -> None:
    name = "train.seed"
    seed = fields.pop(name, 1)
    config = _config(**fields)
    config = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
    assert work_of(config) == work_of(_config())


def _pruned(score: str, count: int, schedule: str = "one_shot") -> dict[str, Any]:
    return {"pruning.score": score, "pruning.heads_per_layer": count, "pruning.schedule": schedule}


def test_the_work_depends_on_the_number_of_heads_that_leave_and_not_on_which_and_when() -> None:
    works = [work_of(_config(**_pruned(*how))) for how in (("taylor", 5), ("random", 5), ("magnitude", 5, "gradual"))]
    assert len(set(works)) == 1
    assert len({works[0], work_of(_config(**_pruned("taylor", 2))), work_of(_config())}) == 3
    assert work_of(_config(**{"model.patch_length": 24})) != work_of(_config(**{"train.batch_size": 64})) != works[0]


def test_longer_patches_larger_batches_and_fewer_heads_are_less_effort() -> None:
    usual = effort(_config())
    for less in ({"model.patch_length": 96}, {"train.batch_size": 512}, _pruned("random", 8)):
        assert (
            all(a <= b for a, b in zip(effort(_config(**less)), usual, strict=True))
            and effort(_config(**less)) != usual
        )


def test_a_neighbour_of_a_number_is_the_next_one_up_or_down() -> None:
    assert neighbours(SPACE["patch_length"], "patch-48") == ["patch-24", "patch-96"]
    assert neighbours(SPACE["batch_size"], "batch-512") == ["batch-256"]


def test_every_other_name_is_a_neighbour_of_a_name() -> None:
    names = [choice.label for choice in SPACE["attention"]]
    assert neighbours(SPACE["attention"], "eager") == [name for name in names if name != "eager"]


def test_a_neighbour_differs_in_one_field_of_a_choice_with_several() -> None:
    assert neighbours(SPACE["loader"], "arrow-4") == ["arrow-2", "arrow-8"]
    assert neighbours(SPACE["loader"], "device-0") == ["arrow-0"]
    assert set(neighbours(SPACE["pruning"], "magnitude-5-one_shot")) == {
        "magnitude-2-one_shot", "magnitude-8-one_shot", "magnitude-5-gradual", "random-5-one_shot", "taylor-5-one_shot"
    }  # fmt: skip


def test_no_pruning_is_one_step_from_the_fewest_heads() -> None:
    fewest = {choice.label for choice in SPACE["pruning"] if "-1-" in choice.label}
    assert set(neighbours(SPACE["pruning"], "none")) == fewest
    assert "none" in neighbours(SPACE["pruning"], "taylor-1-gradual")
    assert "none" not in neighbours(SPACE["pruning"], "taylor-2-gradual")


@given(st.sampled_from(sorted(SPACE)), st.data())
def test_who_is_a_neighbour_has_a_neighbour(name: str, data: st.DataObject) -> None:
    choices = SPACE[name]
    label = data.draw(st.sampled_from([choice.label for choice in choices]))
    for other in neighbours(choices, label):
        assert label in neighbours(choices, other)


def test_another_feed_is_tried_with_its_middle_number_of_workers_too() -> None:
    assert middles(SPACE["loader"], "device-0") == ["arrow-4"]
    assert middles(SPACE["loader"], "arrow-8") == ["device-0"]
    assert middles(SPACE["patch_length"], "patch-48") == []
