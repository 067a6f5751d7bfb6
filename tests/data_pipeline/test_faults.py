"""Several faults of a file make one answer."""

from __future__ import annotations

import pytest

from data_pipeline.errors import DataError, DataFaults
from data_pipeline.faults import MOST_LINES, Faults


def test_no_fault_raises_nothing():
    Faults("x.csv").raise_if_any()


def test_one_kind_of_fault_is_one_line_with_its_first_row_and_count():
    faults = Faults("x.csv")
    for row in (3, 4):
        faults.add("number", f"'?{row}' is not a number", "fill it", column="a", row=row)
    with pytest.raises(DataError) as caught:
        faults.raise_if_any()
    expected = "x.csv: data row 3, column 'a': '?3' is not a number (1 more of this kind): fill it"
    assert str(caught.value) == expected


def test_kinds_of_fault_are_told_in_the_order_of_rows():
    faults = Faults("x.csv")
    faults.add("twice", "09:00 is there twice", "keep one", row=7)
    faults.add("number", "'?' is not a number", "fill it", column="a", row=2)
    with pytest.raises(DataFaults) as caught:
        faults.raise_if_any()
    first, second, third = str(caught.value).splitlines()
    assert first == "x.csv: 2 kinds of fault" and second.startswith("data row 2, column 'a'") and "twice" in third


def test_an_answer_has_at_most_ten_lines_and_counts_the_rest():
    faults = Faults("x.csv")
    for column in range(30):
        faults.add("number", "'?' is not a number", "fill it", column=f"c{column}", row=1)
    with pytest.raises(DataFaults) as caught:
        faults.raise_if_any()
    lines = str(caught.value).splitlines()
    assert len(lines) == MOST_LINES and lines[-1] == "and 22 kinds of fault more"
