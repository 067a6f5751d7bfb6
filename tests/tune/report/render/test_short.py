"""The short report: the answer comes first, it fits 80 columns, and nothing unknown looks known."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from report_kit import sweep, trial

from tune.report.render.terminal import PIPE, print_report
from tune.tracking.reader import SweepRecord, TrialRecord


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _arm(arm: str, s: float, *, seeds: int = 3, **given: Any) -> list[TrialRecord]:
    return [trial(arm, seed, s=s * (1 + seed / 1000), **given) for seed in range(seeds)]


def _record(*more: TrialRecord, seeds: int = 3) -> SweepRecord:
    return sweep(*_arm("none", 2.0, seeds=seeds), *_arm("fast", 1.0, seeds=seeds), *more, arms="none,fast")


def _lines(record: SweepRecord, stream: io.StringIO | None = None) -> list[str]:
    stream = stream or Terminal()
    print_report(record, stream)
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()]


def _row(lines: list[str], arm: str) -> str:
    (row,) = [line for line in lines if re.match(rf"{arm} +[\d.-]", line)]
    return row


@pytest.mark.parametrize("width", [80, 120])
def test_the_answer_is_above_the_table_and_all_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = _lines(_record())
    assert max(map(len, lines)) <= width
    answer = next(at for at, line in enumerate(lines) if line.startswith("Answer: fast, an epoch 2.00x"))
    assert answer == 1 and answer < lines.index(_row(lines, "fast"))
    assert re.search(r"1\.001 +2\.00x 2\.00-2\.00 .*\+0\.00 % +faster, not worse$", _row(lines, "fast"))
    assert "baseline" in _row(lines, "none")


def test_a_bar_shows_the_interval_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    for width in (80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        shown[width] = _lines(_record(*_arm("slow", 4.0)))
    assert not any("slower | faster" in line for line in shown[80])
    assert "·····|····●" in _row(shown[120], "fast") and "●····|·····" in _row(shown[120], "slow")


def test_a_ratio_of_too_few_pairs_stands_beside_these_words() -> None:
    row = _row(_lines(_record(seeds=2)), "fast")
    assert "2.00x" in row and row.endswith("too few pairs (2, 3 needed)") and "faster" not in row


def test_arms_that_cannot_run_here_share_a_line_and_others_say_why() -> None:
    missing = [trial(arm, status="unsupported", reason="not installed") for arm in ("flex", "patch")]
    lines = _lines(_record(*missing, trial("big", status="oom", reason="out of GPU memory")))
    assert "Cannot run here: flex, patch." in lines and "big: oom: out of GPU memory" in lines


def test_trials_of_a_search_have_no_row() -> None:
    searched = [trial(f"search-{number:03}", s=1.0, tags={"stage": "search"}) for number in range(3)]
    assert not [line for line in _lines(_record(*searched)) if line.startswith("search-")]


def test_a_model_that_a_naive_forecast_beats_is_said_before_the_answer() -> None:
    naive = {"final/naive_last_value_mse": 0.35, "final/test_mse": 0.4}
    record = sweep(*_arm("none", 2.0, metrics=naive), *_arm("fast", 1.0, metrics=naive))
    lines = _lines(record)
    assert lines[1].startswith("Test MSE of 'none' with seed 0, 0.4000, does not beat all of the naive")
    assert "lower the learning rate" in " ".join(lines[1:4])


@pytest.mark.parametrize(("stalled", "warned"), [((50.0, 0.1, 0.2), True), ((0.5, 0.1, 0.2), False)])
def test_a_machine_on_which_epochs_stall_gets_a_warning_above_the_table(
    stalled: tuple[float, ...], warned: bool
) -> None:
    history = {"time/stalled_pct": stalled}
    record = sweep(*_arm("none", 2.0, history=history), *_arm("fast", 1.0, history=history))
    text = " ".join(_lines(record))
    assert ("Timings on this machine are not trustworthy: 6 of 18 epochs" in text) is warned


def test_a_pipe_gets_the_same_report_in_a_fixed_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = _lines(_record(), io.StringIO())
    assert lines[1].startswith("Answer: fast") and max(map(len, lines)) <= PIPE


def test_arms_that_were_not_alone_on_their_device_are_named_once_below_the_table() -> None:
    lines = _lines(_record(*_arm("shared", 1.0, tags={"timing_valid": "false"})))
    assert "Not alone on their device, so without a verdict: shared." in lines


def test_it_says_how_to_see_the_rest() -> None:
    assert "report pruning-1 --verbose" in " ".join(_lines(_record()))
