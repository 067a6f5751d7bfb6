"""A batch that is named is kept or refused, with the number of training windows; a default one fits the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.datasets import DATASETS
from tune.config.axes import lay_over
from tune.config.sweeps import SweepConfig, get_sweep
from tune.machine.device import DeviceFacts
from tune.plan.batch import LARGEST, LEAST_STEPS, default_batch
from tune.plan.data import DataFacts, SplitRows, facts_by_definition
from tune.plan.plan import Plan, make_plan
from tune.plan.search_plan import SearchPlan
from tune.plan.space import plan_sweep

CPU = DeviceFacts(device_type="cpu", name="some CPU", missing={})
LENGTHS = {"data.context_length": 24, "data.prediction_length": 6}
FILE = {"data.dataset": "/data/own.csv", **LENGTHS}


def _facts(windows: int, channels: int = 2) -> DataFacts:
    """Of data with this many training windows of 24 + 6."""
    train = windows + 29
    bounds = {"train": (0, train), "validation": (train, train + 100), "test": (train + 100, train + 200)}
    return DataFacts(channels=channels, rows=SplitRows(every=(bounds,)))


def _plan(
    sweep: SweepConfig, data: DataFacts, overrides: Mapping[str, Any] | None = None, device: DeviceFacts = CPU
) -> Plan:
    given = {name: value for name, value in {**FILE, **(overrides or {})}.items() if name not in sweep.swept}
    return make_plan(sweep, overrides=given, repeats=1, seed=1, device=device, data=data)


def _custom(**axes: Any) -> SweepConfig:
    return lay_over(get_sweep("custom"), {name.replace("__", "."): values for name, values in axes.items()})


@given(st.integers(1, 100_000))
def test_a_default_batch_is_the_largest_power_of_two_with_enough_steps(windows: int) -> None:
    batch = default_batch(windows)
    fits = [2**power for power in range(8) if windows // 2**power >= LEAST_STEPS]
    assert batch == max(fits, default=1) <= LARGEST
    assert batch <= windows


@pytest.mark.parametrize(
    ("windows", "batch"),
    [(1, 1), (7, 1), (15, 1), (16, 2), (251, 16), (255, 16), (256, 32), (1023, 64), (1024, 128), (10**6, 128)],
)
def test_a_batch_that_nobody_named_follows_the_windows_in_every_arm(windows: int, batch: int) -> None:
    plan = _plan(_custom(model__d_model=(64, 128)), _facts(windows))
    assert {trial.config.train.batch_size for trial in plan.trials} == {batch}
    assert not any(trial.batch_named for trial in plan.trials) and plan.runnable == plan.trials
    assert {trial.train_windows for trial in plan.trials} == {windows}


def test_the_arm_with_the_fewest_windows_decides_the_default_batch_of_all() -> None:
    """Contexts of 24 and 200 leave 1,100 and 924 of 1,129 rows."""
    plan = _plan(_custom(data__context_length=(24, 200)), _facts(1100))
    assert sorted(trial.train_windows or 0 for trial in plan.trials) == [924, 1100]
    assert {trial.config.train.batch_size for trial in plan.trials} == {64}


def test_an_arm_whose_context_leaves_no_window_is_unsupported_and_the_others_run() -> None:
    plan = _plan(_custom(data__context_length=(24, 5000)), _facts(1100))
    (short, long) = sorted(plan.trials, key=lambda trial: trial.config.data.context_length)
    assert short.unsupported is None and short.config.train.batch_size == 128
    assert "the train split holds no window" in str(long.unsupported)


NAMED: dict[str, tuple[SweepConfig, dict[str, Any]]] = {
    "by --set": (_custom(model__d_model=(64, 128)), {"train.batch_size": 256}),
    "by an axis": (_custom(train__batch_size=(256,)), {}),
    "by a sweep": (get_sweep("batch_size"), {}),
    "by the study's sweep": (get_sweep("seed_study"), {}),
    "by a preset": (_custom(model__dropout=(0.1, 0.2)), {"model.preset": "ettm"}),
}


@pytest.mark.parametrize(("sweep", "overrides"), NAMED.values(), ids=NAMED)
def test_a_named_batch_above_the_windows_is_unsupported_with_their_number_and_is_never_another(
    sweep: SweepConfig, overrides: dict[str, Any]
) -> None:
    plan = _plan(sweep, _facts(100), overrides)
    above = [trial for trial in plan.trials if trial.config.train.batch_size > 100]
    assert above and all(trial.batch_named for trial in plan.trials)
    for trial in above:
        batch = trial.config.train.batch_size
        assert str(trial.unsupported).startswith(f"train.batch_size={batch} is above the 100 training windows")
        assert "give at most 100" in str(trial.unsupported)
    assert all("windows" not in str(trial.unsupported) for trial in plan.trials if trial not in above)


def test_a_batch_of_exactly_the_windows_can_run() -> None:
    plan = _plan(_custom(train__batch_size=(250, 251, 252)), _facts(251))
    assert {trial.config.train.batch_size for trial in plan.runnable} == {250, 251}


def test_a_search_leaves_out_the_batches_above_the_windows() -> None:
    plan = plan_sweep(
        get_sweep("full"), draws=3, overrides=FILE,
        repeats=1, seed=1, device=CPU, data=_facts(200),
    )  # fmt: skip
    assert isinstance(plan, SearchPlan)
    left_out = {refusal.choices.get("batch_size") for refusal in plan.space.refusals}
    assert {"batch-256", "batch-512"} <= left_out and "batch-128" not in left_out


def test_without_a_number_of_windows_a_batch_is_checked_later() -> None:
    plan = _plan(_custom(train__batch_size=(128, 100_000)), DataFacts(channels=2))
    assert plan.runnable == plan.trials and {trial.train_windows for trial in plan.trials} == {None}


@pytest.mark.parametrize(("name", "windows"), [("ETTh1", 8033), ("ETTh2", 8033), ("ETTm1", 33_953), ("ETTm2", 33_953),
                                               ("traffic", 11_673), ("demo", 1633)])  # fmt: skip
def test_the_windows_of_a_named_data_set_are_known_without_reading_it(name: str, windows: int) -> None:
    assert facts_by_definition(name).train_windows(512, 96) == windows
    plan = make_plan(get_sweep("attention"), overrides={"data.dataset": name}, repeats=1, seed=1, device=CPU)
    assert {trial.train_windows for trial in plan.trials} == {windows}


@pytest.mark.parametrize("name", DATASETS)
def test_every_named_data_set_has_channels_for_the_plan(name: str) -> None:
    assert facts_by_definition(name).channels == len(DATASETS[name].columns or ())


# Windows, channels and patches of a step that batch norm normalises over
ONE_VALUE = {
    "one of each": (1, 1, {"model.patch_length": 20}, False),
    "two windows": (2, 1, {"model.patch_length": 20}, True),
    "two channels": (1, 2, {"model.patch_length": 20}, True),
    "two patches": (1, 1, {"model.patch_length": 12}, True),
    "layer norm": (1, 1, {"model.patch_length": 20, "model.norm_type": "layernorm"}, True),
}


@pytest.mark.parametrize(("batch", "channels", "fields", "runs"), ONE_VALUE.values(), ids=ONE_VALUE)
def test_batch_norm_over_a_single_value_is_refused_in_the_plan(
    batch: int, channels: int, fields: dict[str, Any], runs: bool
) -> None:
    (trial,) = _plan(_custom(), _facts(100, channels), {"train.batch_size": batch, **fields}).trials
    assert (trial.unsupported is None) == runs
    if not runs:
        assert str(trial.unsupported).startswith("batch norm has a single value to normalise")
