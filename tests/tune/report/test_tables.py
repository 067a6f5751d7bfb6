"""The report's tables beside the table of arms."""

from __future__ import annotations

from report_kit import sweep as _sweep
from report_kit import trial as _trial

from tune.report.arms import arm_rows
from tune.report.tables import not_done_table


def test_trials_that_are_not_done_come_in_the_order_of_the_table_of_arms() -> None:
    record = _sweep(*(_trial(arm, status="unsupported", reason="needs a GPU") for arm in ("other", "fast")), _trial())
    table = not_done_table(record)
    assert [row[0] for row in table.rows] == [row.arm for row in arm_rows(record)][1:] == ["fast", "other"]
