"""The report of a sweep with `--repeats auto`: verdicts and intervals of the looks, where arms stopped, and why."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from report_kit import sweep, timed, trial

from tune.report.answer import sweep_answer
from tune.report.arms import ArmRow, arm_rows
from tune.report.looks import look_notes, look_tags, stop_text
from tune.report.notes import notes
from tune.report.values import as_json, parent_tags
from tune.stats.looks import FIRST_BLOCKS
from tune.stats.verdicts import UNDECIDED, WITHIN_MARGIN
from tune.tracking.reader import SweepRecord, TrialRecord

AUTO = {"repeats": "auto"}


def _arm(
    name: str, s: float, mse: float = 0.3, *, seeds: int = 3, scatter: float = 0.001, status: str = "done"
) -> list[TrialRecord]:
    """Trials of seeds 1 to `seeds`, whose times scatter by this much."""
    return [
        trial(name, seed, s=s * (1 + scatter * (-1) ** seed * (name != "none")), status=status,
              metrics={"final/val_mse": mse * (1 + scatter * (-1) ** seed * (name != "none"))})
        for seed in range(1, seeds + 1)
    ]  # fmt: skip


def _rows(record: SweepRecord, **given: Any) -> dict[str, ArmRow]:
    return {row.arm: row for row in arm_rows(record, **given)}


def _decided() -> SweepRecord:
    return sweep(*_arm("none", 2.0), *_arm("fast", 1.0), *_arm("other", 2.0), **AUTO)


def test_an_arm_has_the_verdicts_and_intervals_of_its_look() -> None:
    rows = _rows(_decided())
    fast, other = rows["fast"].comparison, rows["other"].comparison
    assert fast is not None and other is not None and fast.looks is not None
    assert (fast.verdict, other.verdict) == ("faster", WITHIN_MARGIN)
    assert fast.interval == fast.looks.speed.interval and fast.level == fast.looks.speed.level
    assert fast.accuracy is not None and fast.accuracy.bounds == fast.looks.accuracy.interval
    assert (stop_text(fast), fast.count) == ("after 3 blocks: both decided", 3)
    assert rows["none"].comparison is None


def test_the_report_says_where_arms_stopped_and_what_the_looks_may_get_wrong() -> None:
    record = _decided()
    lines = notes(record, list(_rows(record).values()))
    assert "Looks after 3, 5 and 10 blocks (--repeats auto): fast, other after 3 blocks: both decided." in lines
    assert any("in 1, 1.5 and 2.5 % of sweeps, in 5 % together" in line for line in lines)
    cells = {row.arm: row for row in _rows(record).values()}
    assert "within 1 %" in [cell for _, cell in _shown(cells["other"])]
    assert not any("95 %" in line for line in lines if "'x baseline'" in line)


def _shown(row: ArmRow) -> list[tuple[str, str]]:
    from tune.report.arms import COLUMNS

    return [(name, cell(row)) for name, cell in COLUMNS]


def test_fixed_repeats_have_no_look() -> None:
    record = sweep(*_arm("none", 2.0), *_arm("fast", 1.0), repeats="3")
    comparison = _rows(record)["fast"].comparison
    assert comparison is not None and comparison.looks is None and stop_text(comparison) == ""
    assert look_notes({"fast": comparison}) == [] and parent_tags(record) == {}
    assert any("95 %" in line for line in notes(record, list(_rows(record).values())))


def test_trials_that_ran_ahead_of_a_look_do_not_count_for_it() -> None:
    ahead = trial("fast", 4, s=9.0)
    record = sweep(*_arm("none", 2.0, seeds=4), *_arm("fast", 1.0), ahead, **AUTO)
    alone = sweep(*_arm("none", 2.0), *_arm("fast", 1.0), **AUTO)
    assert _rows(record)["fast"].comparison == _rows(alone)["fast"].comparison


def test_before_the_first_look_there_is_a_ratio_and_no_verdict() -> None:
    planned = [trial(arm, 3, status="planned") for arm in ("none", "fast")]
    record = sweep(*_arm("none", 2.0, seeds=2), *_arm("fast", 1.0, seeds=2), *planned, **AUTO)
    (comparison,) = (row.comparison for row in arm_rows(record) if row.comparison)
    assert comparison.ratio == pytest.approx(2.0, rel=0.01)
    assert (comparison.verdict, comparison.interval, comparison.count) == (None, None, 2)
    assert stop_text(comparison) == "no look yet"
    assert sweep_answer(record, arm_rows(record)) == "Answer: none yet, no look yet."
    late = [trial("slow", 3, status="running")]
    record = sweep(*_arm("none", 2.0), *_arm("fast", 1.0), *_arm("slow", 3.0, seeds=2), *late, **AUTO)
    cells = dict(_shown(_rows(record)["fast"]))
    assert cells["speed"] == "no look yet"
    assert sweep_answer(record, arm_rows(record)) == "Answer: none yet, no look yet."


def test_another_margin_of_the_report_moves_no_stop() -> None:
    record = sweep(*_arm("none", 2.0), *_arm("fast", 1.0, 0.302), *_arm("other", 2.0, 0.9), **AUTO)
    wide = _rows(record, margin=1.0)
    narrow = _rows(record, margin=0.0001)
    for arm in ("fast", "other"):
        texts = {stop_text(rows[arm].comparison) for rows in (wide, narrow, _rows(record))}  # type: ignore[arg-type]
        assert len(texts) == 1
    assert narrow["fast"].comparison.accuracy.verdict != "not_worse"  # type: ignore[union-attr]
    assert wide["fast"].comparison.accuracy.verdict == "not_worse"  # type: ignore[union-attr]


def test_unsupported_and_failed_arms_leave_by_themselves() -> None:
    failed, missing = _arm("other", 1.0, status="oom"), [trial("gone", 1, status="unsupported")]
    record = sweep(*_arm("none", 2.0), *_arm("fast", 1.0), *failed, *missing, **AUTO)
    rows = _rows(record)
    alone = sweep(*_arm("none", 2.0), *_arm("fast", 1.0), **AUTO)
    assert rows["fast"].comparison == _rows(alone)["fast"].comparison
    assert stop_text(rows["other"].comparison) == "after 3 blocks: no pair with the baseline"  # type: ignore[arg-type]
    assert rows["gone"].comparison is None


def test_json_and_tags_carry_verdict_look_level_interval_and_reason() -> None:
    content = as_json(_decided())
    assert content["repeats"] == "auto"
    fast = content["comparisons"]["fast"]
    assert (fast["verdict"], fast["accuracy"]["verdict"]) == ("faster", "not_worse")
    looks = fast["looks"]
    assert (looks["stopped_at"], looks["because"]) == (FIRST_BLOCKS, "both_decided")
    assert (looks["speed"]["look"], looks["speed"]["alpha"]) == (3, 0.01)
    assert looks["speed"]["interval"] == fast["interval"] and looks["speed"]["level"] == fast["level"]
    tags = {name: json.loads(text) for name, text in parent_tags(_decided()).items()}
    assert tags.keys() == {"look.fast", "look.other"}
    assert tags["look.other"]["speed"]["verdict"] == WITHIN_MARGIN
    assert tags["look.other"]["stopped"] == "after 3 blocks: both decided"


def test_the_name_of_a_tag_is_one_that_mlflow_takes() -> None:
    comparison = _rows(_decided())["fast"].comparison
    assert comparison is not None and list(look_tags({"a=1": comparison})) == ["look.a:1"]


def test_the_answer_is_that_of_the_looks() -> None:
    line = sweep_answer(_decided(), arm_rows(_decided()))
    assert line is not None and line.startswith("Answer: fast, an epoch 2.00x") and line.endswith("3 pairs.")


@pytest.mark.parametrize("scatter", [0.001, 0.004, 0.02])
@pytest.mark.parametrize("seed", range(4))
def test_an_a_a_sweep_says_within_1_pct_or_too_close_to_call(scatter: float, seed: int) -> None:
    chance = random.Random(seed)
    arms = [f"a{number}" for number in range(5)]
    trials = [
        trial(arm, block, metrics={**timed(2.0 * chance.gauss(1, scatter)), "final/val_mse": chance.gauss(0.3, 1e-4)},
              s=None)
        for block in range(1, 11) for arm in arms
    ]  # fmt: skip
    record = sweep(*trials, baseline="a0", arms=",".join(arms), **AUTO)
    verdicts = {row.comparison.verdict for row in arm_rows(record) if row.comparison}
    assert verdicts <= {WITHIN_MARGIN, UNDECIDED}
