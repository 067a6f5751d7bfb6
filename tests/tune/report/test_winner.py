"""The arm that a command goes on with is the one that the report's answer names."""

from __future__ import annotations

from typing import Any

from report_kit import sweep, trial

from tune.report.answer import answer_line
from tune.report.arms import arm_rows
from tune.report.winner import winner

SEEDS = (1, 2, 3)
NONE = [trial("none", seed, s=2.0 + seed / 100) for seed in SEEDS]


def arm(name: str, s: float, mse: float = 0.3, **given: Any) -> list[Any]:
    return [trial(name, seed, s=s + seed / 100, metrics={"final/val_mse": mse}, **given) for seed in SEEDS]


def won(*trials: Any) -> tuple[str | None, str]:
    record = sweep(*trials)
    rows = arm_rows(record)
    return winner(record, rows), answer_line(record, rows) or ""


def test_the_fastest_of_the_arms_that_keep_the_error_wins() -> None:
    who, said = won(*NONE, *arm("fast", 1.0), *arm("other", 0.5, mse=0.4))
    assert who == "fast" and said.startswith("Answer: fast")


def test_the_baseline_wins_where_no_arm_is_shown_to_be_faster() -> None:
    who, said = won(*NONE, *arm("fast", 4.0))
    assert who == "none" and said.startswith("Answer: the baseline, none")


def test_nobody_wins_before_there_is_a_verdict() -> None:
    who, said = won(*NONE[:2], *arm("fast", 1.0)[:2])
    assert who is None and "none yet" in said
    assert won()[0] is None


def test_a_sweep_of_one_arm_has_that_arm_if_it_trained() -> None:
    assert won(trial("none", 1))[0] == "none"
    assert won(trial("none", 1, status="failed"))[0] is None


def test_of_a_search_only_the_final_counts() -> None:
    drawn = arm("other", 0.1, tags={"stage": "search"})
    final = arm("fast", 1.0, tags={"stage": "final"})
    base = [trial("none", seed, s=2.0 + seed / 100, tags={"stage": "final"}) for seed in SEEDS]
    assert won(*base, *final, *drawn)[0] == "fast"
