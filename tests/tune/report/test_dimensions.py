"""The report's tables by what a sweep varies, on sweeps planned as the command plans them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from report_kit import sweep, trial

from tune.config.axes import lay_over
from tune.config.sweeps import get_sweep
from tune.config.trial_config import TrialConfig
from tune.machine.device import DeviceFacts
from tune.plan.plan import make_plan
from tune.report.arms import arm_rows
from tune.report.comparisons import ratio_text
from tune.report.dimensions import dimension_tables
from tune.report.tables import Table
from tune.tracking.reader import SweepRecord

CPU = DeviceFacts(device_type="cpu", name="some CPU")
Seconds = Callable[[TrialConfig, int], float | None]


def _record(
    name: str,
    seconds: Seconds,
    *,
    over: Mapping[str, list[Any]] | None = None,
    repeats: int = 3,
    tags: Mapping[str, dict[str, str]] | None = None,
) -> SweepRecord:
    """The sweep `name` with `seconds(config, seed)` for an epoch, four times that in all; None: unsupported."""
    config = lay_over(get_sweep(name), over or {})
    plan = make_plan(config, overrides={"data.dataset": "demo"}, repeats=repeats, seed=1, device=CPU)
    trials = []
    for planned in plan.trials:
        s = seconds(planned.config, planned.seed)
        status = {"status": "unsupported", "reason": "not here"} if s is None else {}
        params = {field: str(value) for field, value in planned.config.flat().items() if value is not None}
        metrics = {} if s is None else {"final/train_total_s": 4 * s}
        own = (tags or {}).get(planned.arm, {})
        trials.append(trial(planned.arm, planned.seed, s=s, params=params, metrics=metrics, tags=own, **status))
    swept, arms = ",".join(sorted(config.swept)), ",".join(arm.label for arm in config.arms)
    return sweep(*trials, baseline=config.baseline, swept=swept, arms=arms)


def _by_batch(config: TrialConfig, seed: int) -> float:
    return (1 + seed / 100) * 128 / config.train.batch_size


def _only(tables: list[Table]) -> Table:
    (table,) = tables
    return table


def test_a_sweep_of_one_dimension_has_a_row_for_each_value_beside_the_baseline() -> None:
    record = _record("batch_size", _by_batch)
    table = _only(dimension_tables(record))
    assert table.title == "By batch size"
    assert table.head[:4] == ["batch size", "batch size 128: s/epoch", "s/epoch", "x batch size 128"]
    assert [row[0] for row in table.rows] == ["32", "64", "256", "512"]
    assert [row[1:4] for row in table.rows][0] == ["1.020", "4.080", "0.25x (0.25-0.25)"]
    assert [row[4:] for row in table.rows][0] == ["4.08", "16.32", "0.25x (0.25-0.25)"]


def test_its_ratios_are_those_of_the_table_of_arms() -> None:
    record = _record("batch_size", lambda config, seed: _by_batch(config, seed) ** (1 + seed / 10))
    rows = [row for row in arm_rows(record) if not row.is_baseline]
    ratios = [(row[3], row[6]) for row in _only(dimension_tables(record)).rows]
    assert ratios == [(ratio_text(row.comparison), ratio_text(row.total_comparison)) for row in rows]


def test_two_pairs_have_a_ratio_without_an_interval() -> None:
    table = _only(dimension_tables(_record("batch_size", _by_batch, repeats=2)))
    assert table.rows[0][3] == "0.25x"


def _by_backend_and_patch(config: TrialConfig, seed: int) -> float | None:
    """sdpa_efficient gains 10 % with patches of 12 and 50 % with 24; nothing else runs."""
    gain = {("sdpa_efficient", 12): 1.1, ("sdpa_efficient", 24): 1.5, ("eager", 12): 1.0, ("eager", 24): 1.0}
    speedup = gain.get((config.model.attention, config.model.patch_length))
    return speedup and (12 / config.model.patch_length) * (1 + seed / 50) / speedup


def test_a_cross_has_the_backends_side_by_side_and_each_row_against_its_own_baseline() -> None:
    record = _record("attention", _by_backend_and_patch, over={"model.patch_length": [12, 24]})
    table = next(table for table in dimension_tables(record) if table.title == "Attention by patch size")
    at = {name: index for index, name in enumerate(table.head)}
    assert table.head[:2] == ["patch size", "eager: s/epoch"]
    assert [row[0] for row in table.rows] == ["12", "24"]
    place = at["sdpa_efficient: s/epoch"] + 1
    assert table.head[place] == "x eager"
    assert [row[place] for row in table.rows] == ["1.10x (1.10-1.10)", "1.50x (1.50-1.50)"]
    assert [row[at["sdpa_flash: s/epoch"]] for row in table.rows] == ["unsupported", "unsupported"]


def test_a_cross_has_a_table_of_its_other_dimension_too() -> None:
    record = _record("attention", _by_backend_and_patch, over={"model.patch_length": [12, 24]})
    table = next(table for table in dimension_tables(record) if table.title == "Patch size by attention")
    rows = {row[0]: row for row in table.rows}
    assert table.head == ["attention", "patch size 12: s/epoch", "patch size 24: s/epoch", "x patch size 12"]
    assert (rows["eager"][3], rows["sdpa_efficient"][3]) == ("2.00x (2.00-2.00)", "2.73x (2.73-2.73)")


def test_all_ratios_of_a_cross_are_one_family_of_holm() -> None:
    """p of each of three equal ratios is compared with a third of 5 %: the interval is t at 98.33 %."""

    def seconds(config: TrialConfig, seed: int) -> float:
        return 1.0 if config.train.batch_size == 128 else math.exp(-0.1 * seed)

    over = {"model.patch_length": [12, 24, 48]}
    record = _record("custom", seconds, over={"train.batch_size": [128, 256], **over})
    table = next(table for table in dimension_tables(record) if table.title == "Batch size by patch size")
    assert {row[3] for row in table.rows} == {"1.22x (0.79-1.90)"}  # exp(0.2 -+ 7.649 x 0.1/sqrt(3))
    assert "Holm over the 3 ratios" in table.caption


def test_one_ratio_is_no_family_of_holm() -> None:
    def seconds(config: TrialConfig, seed: int) -> float | None:
        return None if (config.train.batch_size, config.model.patch_length) == (256, 24) else 1 + seed / 100

    record = _record("custom", seconds, over={"train.batch_size": [128, 256], "model.patch_length": [12, 24]})
    table = next(table for table in dimension_tables(record) if table.title == "Batch size by patch size")
    assert table.caption.endswith("on one device; intervals: 95 %.")


def test_loaders_are_compared_for_each_number_of_workers() -> None:
    record = _record("num_workers", lambda config, seed: 2.0 if config.data.feed == "tsfm" else 1.0)
    tables = {table.title: table for table in dimension_tables(record)}
    assert set(tables) == {"Feed by workers", "Workers by feed"}
    first = tables["Feed by workers"]
    assert first.head[:4] == ["workers", "arrow: s/epoch", "tsfm: s/epoch", "x arrow"]
    assert first.rows[0][:4] == ["0", "1.000", "2.000", "0.50x (0.50-0.50)"]
    assert first.rows[1][4:] == ["-", "-"]  # the device feed has no workers


def test_pruning_is_one_dimension_in_words() -> None:
    table = _only(dimension_tables(_record("pruning", lambda config, seed: 1.0)))
    values = [row[0] for row in table.rows]
    assert table.title == "By pruning" and table.head[1] == "none: s/epoch"
    assert values[:3] == ["heads 0", "heads 4 8", "magnitude, 1 a layer, one shot"]
    assert values[-1] == "taylor, 5 a layer, gradual"


def test_an_arm_as_published_is_in_no_such_table() -> None:
    record = _record("batch_size", _by_batch, tags={"batch-32": {"as_published": "true"}})
    assert [row[0] for row in _only(dimension_tables(record)).rows] == ["64", "256", "512"]


def test_trials_of_a_search_are_in_no_such_table() -> None:
    record = _record("batch_size", _by_batch, tags={"batch-32": {"stage": "search"}})
    assert "32" not in [row[0] for row in _only(dimension_tables(record)).rows]


@pytest.mark.parametrize("missing", ["swept", "baseline"])
def test_a_sweep_that_lacks_what_is_needed_has_no_such_table(missing: str) -> None:
    record = _record("batch_size", _by_batch)
    del record.tags[missing]
    assert [table.rows for table in dimension_tables(record)] in ([], [[]])
    if missing == "swept":
        assert "not recorded" in _only(dimension_tables(record)).empty
