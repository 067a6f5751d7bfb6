"""Notes on what a report lacks."""

import pytest
from report_kit import sweep, trial

from tune.report.arms import arm_rows
from tune.report.notes import notes


@pytest.mark.parametrize(
    ("tags", "said"), [({}, False), ({"refused_records": "0"}, False), ({"refused_records": "3"}, True)]
)
def test_records_that_mlflow_refused_are_counted_in_the_report(tags: dict[str, str], said: bool) -> None:
    record = sweep(trial(), trial("fast"), **tags)
    lines = notes(record, arm_rows(record))
    assert any(line.startswith("MLflow refused 3 records, whose values are missing here") for line in lines) == said
