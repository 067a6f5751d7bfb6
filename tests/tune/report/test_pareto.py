"""What a report says of a search: the shapes that no other one beats, with errors of one seed and times of probes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from report_kit import sweep, trial

from tune.report.answer import search_answer
from tune.report.arms import arm_rows
from tune.report.pareto import ACCURATE, BOTH, FASTEST, as_json, found, rows, search_notes
from tune.report.tables import search_tables
from tune.report.values import as_json as report_json
from tune.tracking.reader import SweepRecord, TrialRecord

ACCOUNT = {
    "trained": 3, "of_polish": 1, "probed": 2, "able": 2, "limit_val_mse": 0.404, "limit": "1% above the baseline's",
    "target_val_mse": None, "target_reached": False, "complete": True,
}  # fmt: skip


def _trained(shape: str, val_mse: float, work: str = "", **given: Any) -> TrialRecord:
    tags = {"stage": "search", "shape": shape, "work": work or shape, "timing_valid": "false"}
    return trial(f"search-{shape}", s=None, tags=tags, metrics={"final/val_mse": val_mse}, **given)


def _probed(work: str, epoch_s: float, way: str = "patch-graph", status: str = "done") -> TrialRecord:
    tags = {"stage": "probe", "work": work, "way": way, "shape": work}
    return trial(f"probe-{work}-{way}", s=epoch_s, tags=tags, status=status)


def _record(*trials: TrialRecord, **account: Any) -> SweepRecord:
    return sweep(*trials, search=json.dumps(ACCOUNT | account))


def test_a_shape_that_is_beaten_in_both_error_and_time_is_not_shown() -> None:
    shapes = found(
        _record(
            _trained("a", 0.400), _trained("b", 0.390), _trained("c", 0.401),
            _probed("a", 1.0), _probed("b", 2.0), _probed("c", 1.5),
        )
    )  # fmt: skip
    assert [(each.shape, each.remark) for each in shapes] == [("a", FASTEST), ("b", ACCURATE)]


def test_the_fastest_is_one_whose_error_is_not_worse() -> None:
    shapes = found(_record(_trained("fast", 0.5), _trained("able", 0.404), _probed("fast", 0.1), _probed("able", 1.0)))
    assert [(each.shape, each.not_worse, each.remark) for each in shapes] == [("fast", False, ""), ("able", True, BOTH)]


def test_a_shape_has_the_fastest_probe_of_its_work_in_whatever_way() -> None:
    (shape,) = found(_record(_trained("a", 0.4, work="w"), _probed("w", 2.0, "slow"), _probed("w", 1.0, "fast")))
    assert (shape.epoch_s, shape.way) == (1.0, "fast")


def test_a_failed_probe_gives_no_time_and_a_shape_without_one_stays_for_its_error() -> None:
    shapes = found(_record(_trained("a", 0.4), _trained("b", 0.3), _trained("c", 0.35), _probed("a", 1.0),
                           _probed("b", 1.0, status="failed")))  # fmt: skip
    assert [(each.shape, each.epoch_s, each.remark) for each in shapes] == [("a", 1.0, FASTEST), ("b", None, ACCURATE)]


def test_the_notes_say_what_was_done_what_counts_as_not_worse_and_that_no_verdict_is_drawn() -> None:
    lines = search_notes(_record(_trained("a", 0.4), _probed("a", 1.0)))
    assert lines == [
        "Search: 3 shapes trained (1 beside the fastest), 2 cells probed. Errors are of one seed, times of some "
        "hundred steps: the final alone decides. A validation MSE of at most 0.4040 (1% above the baseline's) counts "
        "as not worse.",
        "Fastest and most accurate: a, validation MSE 0.4000, 1.0000 s an epoch of all windows with patch-graph.",
    ]


def test_a_target_that_no_shape_reached_is_said() -> None:
    record = _record(_trained("a", 0.4), _probed("a", 1.0), target_val_mse=0.25)
    assert "No shape reached the target, a validation MSE of at most 0.25." in search_notes(record)
    reached = _record(_trained("a", 0.2), _probed("a", 1.0), target_val_mse=0.25, target_reached=True)
    assert not any("target" in line for line in search_notes(reached))


def test_a_search_that_was_cut_short_is_said() -> None:
    lines = search_notes(_record(_trained("a", 0.4), complete=False))
    assert lines[-1] == "The search ended before every neighbour of the fastest cell was tried."


@pytest.mark.parametrize("tags", [{}, {"search": '{"trained": 3, "of_po'}, {"search": "[]"}])
def test_a_sweep_without_the_account_has_nothing_of_a_search(tags: dict[str, str]) -> None:
    record = sweep(_trained("a", 0.4), **tags)
    assert (search_notes(record), rows(record), as_json(record), search_tables(record)) == ([], [], None, [])


def test_the_table_and_the_json_hold_the_same_shapes() -> None:
    record = _record(_trained("a", 0.4), _trained("b", 0.39), _probed("a", 1.0), _probed("b", 2.0))
    (table,) = search_tables(record)
    assert [row[0] for row in table.rows] == ["a", "b"] and table.rows[0][2:] == ["0.4000", "1.0000", FASTEST]
    content = report_json(record)["search"]
    assert content["trained"] == 3 and [each["shape"] for each in content["found"]] == ["a", "b"]
    json.dumps(content)


def test_a_probe_has_no_row_in_the_table_of_arms_and_no_part_in_a_comparison() -> None:
    record = _record(trial("none"), _trained("a", 0.4), _probed("a", 1.0))
    assert sorted(row.arm for row in arm_rows(record)) == ["none", "search-a"]


def _final(arm: str, seed: int, s: float) -> TrialRecord:
    return trial(arm, seed, s=s, tags={"stage": "final", "settings": f"--set model.attention={arm}"})


@pytest.mark.parametrize(
    ("account", "reach"),
    [
        (ACCOUNT, ", the best found within one step"),
        (ACCOUNT | {"complete": False}, ", the best found in the time given"),
        (None, ""),
    ],
)
def test_the_answer_says_how_far_the_search_looked(account: dict[str, Any] | None, reach: str) -> None:
    trials = [_final(arm, seed, s) for arm, s in (("none", 2.0), ("fast", 1.0)) for seed in (1, 2, 3)]
    tags = {} if account is None else {"search": json.dumps(account)}
    record = sweep(*trials, **tags)
    line = search_answer(record, arm_rows(record))
    assert line is not None and line.startswith(f"use this{reach}: --set model.attention=fast (2.00x")
