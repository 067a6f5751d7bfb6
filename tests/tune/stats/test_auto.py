"""The comparisons of looks: on recorded sweeps they contradict no verdict of five fixed repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tune.commands.compare import read_side
from tune.stats.auto import compare_at_looks, look_at
from tune.stats.looks import Standing
from tune.stats.pairs import MARGIN, Comparison, TrialResult, compare_arms
from tune.stats.verdicts import UNDECIDED, WITHIN_MARGIN

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"
Results = list[TrialResult]


def _recorded(name: str, baseline: str) -> tuple[Results, dict[str, Results]]:
    arms = dict(read_side(str(RESULTS / name), "").arms)
    return arms.pop(baseline), arms


def _looked(baseline: Results, arms: Mapping[str, Results]) -> dict[str, Comparison]:
    return compare_at_looks(baseline, arms, margin=MARGIN, stops=look_at(baseline, arms, margin=MARGIN))


def test_looks_at_the_attention_sweep_of_an_h100_say_the_same_after_three_blocks_as_five_fixed_ones() -> None:
    baseline, arms = _recorded("2026-11-27-attention-ETTm1-h100.json", "eager")
    fixed, looked = compare_arms(baseline, arms, margin=MARGIN), _looked(baseline, arms)
    compared = [arm for arm, comparison in fixed.items() if comparison.verdict]
    assert len(compared) == 5
    for arm in compared:
        assert looked[arm].verdict == fixed[arm].verdict
        assert looked[arm].accuracy.verdict == fixed[arm].accuracy.verdict  # type: ignore[union-attr]
        assert looked[arm].looks.stopped_at == 3  # type: ignore[union-attr]


def test_looks_at_equal_arms_on_an_h200_say_within_the_margin_or_undecided() -> None:
    looked = _looked(*_recorded("2026-11-27-aa-h200.json", "patience=50"))
    assert len(looked) == 4
    assert {comparison.verdict for comparison in looked.values()} == {WITHIN_MARGIN, UNDECIDED}


def test_an_arm_that_has_stopped_misses_no_partner_in_later_blocks() -> None:
    baseline, arms = _recorded("2026-11-27-attention-ETTm1-h100.json", "eager")
    stopped = {arm: [each for each in results if int(each.seed) <= 3] for arm, results in arms.items()}
    looked = _looked(baseline, stopped)["patch"]
    assert looked == _looked(baseline, arms)["patch"]
    assert (looked.count, looked.left_out) == (3, {})


def test_a_pair_on_two_devices_does_not_count_for_a_look_and_is_told() -> None:
    baseline, arms = _recorded("2026-11-27-attention-ETTm1-h100.json", "eager")
    moved = [replace(each, device="another") if each.seed == "1" else each for each in arms["patch"]]
    looked = _looked(baseline, {"patch": moved})["patch"]
    assert looked.left_out == {"on different devices": 1}
    assert looked.looks is not None and (looked.looks.speed.look, looked.looks.speed.count) == (5, 4)


def test_a_trial_that_has_not_ended_keeps_a_look_from_being_made() -> None:
    baseline, arms = _recorded("2026-11-27-attention-ETTm1-h100.json", "eager")
    running = [replace(each, ended=False, time_s=None, unfit="not done", mse=None) for each in arms["patch"][:1]]
    looked = _looked(baseline, {"patch": [*running, *arms["patch"][1:]]})["patch"]
    assert (looked.verdict, looked.interval) == (None, None)
    assert looked.ratio == pytest.approx(2.0, rel=0.05)


def test_from_ten_pairs_on_a_bootstrap_stands_beside_the_interval_of_the_look() -> None:
    times = [TrialResult(seed=str(seed), time_s=1.0, mse=0.3) for seed in range(1, 11)]
    noisy = [replace(each, time_s=1.0 + 0.03 * (-1) ** int(each.seed) - 0.02, mse=0.3) for each in times]
    stops = {"arm": Standing(stopped_at=10, because="last_look")}
    looked = compare_at_looks(times, {"arm": noisy}, margin=MARGIN, stops=stops)["arm"]
    assert looked.count == 10 and looked.bootstrap is not None and looked.ratio is not None
    assert looked.bootstrap[0] < looked.ratio < looked.bootstrap[1]
