"""The simulation of `--repeats auto`: what it draws, and that a row counts what it says."""

from __future__ import annotations

import math

import pytest

from benchmarks.simulate_auto import CASES, FIXED, simulate, truth
from tune.stats.looks import FIRST_BLOCKS, MOST_BLOCKS


@pytest.mark.parametrize("case", CASES)
def test_the_baseline_is_the_measure_of_every_case(case: str) -> None:
    gains, excess = truth(case, 6)
    assert (gains[0], excess[0]) == (0.0, 0.0) and len(gains) == len(excess) == 6


def test_the_same_seed_gives_the_same_row() -> None:
    first, again = (simulate("gain", arms=3, scatter_pct=0.2, sweeps=20, seed=3) for _ in range(2))
    assert first == again
    assert (first.found, first.found_fixed, first.usable) == (1.0, 1.0, 1.0)
    assert FIRST_BLOCKS <= first.blocks <= MOST_BLOCKS
    assert first.trials * FIXED >= FIRST_BLOCKS


def test_an_arm_exactly_at_the_speed_margin_is_no_gain_to_be_found() -> None:
    gains, _ = truth("near", 3)
    assert gains[1:] == [math.log1p(0.01)] * 2
    row = simulate("near", arms=3, scatter_pct=1.0, sweeps=40, seed=1)
    assert row.found is None and row.within_margin <= 0.2
