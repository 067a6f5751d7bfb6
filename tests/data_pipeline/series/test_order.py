"""A row written twice is dropped; other rows of one time, and times that go backwards, are faults with their row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_pipeline.errors import DataError, DataFaults
from data_pipeline.faults import Faults
from data_pipeline.series.order import RowOrder
from data_pipeline.source.rows import Chunk

HOUR = 3_600_000_000


def read(rows, chunk):
    """The order, its faults and the rows [n, C] that are left of (hour, value, value)."""
    faults = Faults("x.csv")
    order = RowOrder(("a", "b"), faults)
    left = []
    for start in range(0, len(rows), chunk):
        part = np.array(rows[start : start + chunk], float)
        exact = part[:, 1:]
        made = Chunk(timestamps=(part[:, 0] * HOUR).astype(np.int64), values=exact.astype(np.float32), exact=exact)
        kept = order.distinct(made)
        left += [(int(time) // HOUR, *row) for time, row in zip(kept.timestamps, kept.exact.tolist(), strict=True)]
    return order, faults, left


CHUNKS = pytest.mark.parametrize("chunk", [1, 2, 3, 100])
PLAIN = [(hour, hour % 3, 7.5) for hour in range(9)]
NAN = float("nan")


@CHUNKS
def test_rows_in_order_stay_as_they_are(chunk):
    order, faults, left = read(PLAIN, chunk)
    assert left == PLAIN and not faults and order.note is None


@CHUNKS
def test_a_row_equal_to_the_one_before_it_is_left_out_and_told(chunk):
    order, faults, left = read(PLAIN[:4] + PLAIN[3:], chunk)
    assert left == PLAIN and not faults
    assert order.note == "1 row equal to the row before it in time and values left out (first: data row 5)"


@CHUNKS
def test_rows_written_three_times_and_rows_without_values_are_left_out_too(chunk):
    rows = [(0, 1, NAN), (0, 1, NAN), (0, 1, NAN), (1, NAN, NAN), (2, 3, 4), (2, 3, 4)]
    order, faults, left = read(rows, chunk)
    assert [row[0] for row in left] == [0, 1, 2] and not faults
    assert order.dropped == 3 and "3 rows equal to the row before them" in order.note and "data row 2)" in order.note


@CHUNKS
@pytest.mark.parametrize("other", [(3, 0, 7.6), (3, 1, 7.5), (3, 0, NAN)])
def test_different_rows_of_one_time_are_a_fault_with_both_values(chunk, other):
    _, faults, _ = read(PLAIN[:4] + [other] + PLAIN[4:], chunk)
    column = "a" if other[1] else "b"
    with pytest.raises(DataError, match=f"data row 5: the time 1970-01-01 03:00:00 is in the row before.*'{column}'"):
        faults.raise_if_any()


@CHUNKS
def test_times_that_go_backwards_are_a_fault_counted_once_each(chunk):
    _, faults, _ = read(PLAIN[5:] + PLAIN[:5] + PLAIN[2:4], chunk)
    with pytest.raises(DataError, match=r"data row 5: time goes backwards from 1970-01-01 08:00:00.*\(1 more"):
        faults.raise_if_any()


@CHUNKS
def test_rows_are_told_as_the_source_numbers_them(chunk):
    faults = Faults("x.csv")
    order = RowOrder(("a",), faults)
    times, numbers = np.array([0, 1, 2, 2, 3, 3]) * HOUR, np.array([1, 2, 5, 9, 12, 13])
    exact = np.array([0.0, 1, 2, 2, 3, 4])[:, None]
    for start in range(0, 6, chunk):
        part = slice(start, start + chunk)
        made = Chunk(timestamps=times[part], values=exact[part].astype(np.float32), exact=exact[part])
        order.distinct(replace(made, rows=numbers[part]))
    assert order.note is not None and "first: data row 9" in order.note
    with pytest.raises(DataError, match="data row 13: "):
        faults.raise_if_any()


@CHUNKS
def test_series_below_each_other_are_recognised(chunk):
    _, faults, _ = read(PLAIN + PLAIN, chunk)
    with pytest.raises(DataError, match=r"data row 10: .*several series below each other\?.*data\.id_column"):
        faults.raise_if_any()


@CHUNKS
def test_both_kinds_of_fault_are_told_together(chunk):
    _, faults, _ = read([*PLAIN, (8, 0, 0), (2, 0, 0)], chunk)
    with pytest.raises(DataFaults, match="2 kinds of fault"):
        faults.raise_if_any()
