"""A time axis with very many different steps is checked in one pass over them."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.series.timeaxis import TimeAxis

MINUTE = 60_000_000


class Counted(TimeAxis):
    """Counts the searches for the commonest step, each of which goes over all steps."""

    searches = 0

    @property
    def step_us(self):
        type(self).searches += 1
        return super().step_us


def axis(steps, monkeypatch):
    monkeypatch.setattr(Counted, "searches", 0)
    made = Counted("x.csv")
    made.add(np.cumsum([0, *steps]) * MINUTE)
    return made


def test_a_thousand_different_gaps_cost_as_many_searches_as_one(monkeypatch):
    many = axis([1] * 3000 + list(range(2, 1002)), monkeypatch)
    assert (many.step_us, many.gaps, many.missing_rows) == (MINUTE, 1000, sum(range(1, 1001)))
    with pytest.raises(DataError, match="500500 rows are missing in 1000 gaps at one row per 1 min, 4001 are there"):
        many.check()
    searches = Counted.searches
    few = axis([1] * 3 + [2], monkeypatch)
    assert (few.step_us, few.gaps, few.missing_rows) == (MINUTE, 1, 1)
    with pytest.raises(DataError, match="1 rows are missing in 1 gaps"):
        few.check()
    assert searches == Counted.searches
