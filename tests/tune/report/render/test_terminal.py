"""The table of arms fits where it is shown: no number, interval or verdict is cut, whatever the width."""

from __future__ import annotations

import io
import re

import pytest
from report_kit import sweep, trial

from tune.report.render.terminal import NARROW, WIDEST, print_report
from tune.tracking.reader import SweepRecord

TIMES_S = {"none": (2.0, 2.01, 1.99), "fast": (1.0, 1.02, 0.99)}
WORK = "windows/epoch, steps/epoch"
RATIO, SPEED, ACCURACY = "1.99x (1.94-2.05)", "faster", "not worse (+0 %, at most +0 %)"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _record(fast: str = "fast") -> SweepRecord:
    names = {"none": "none", "fast": fast}
    trials = [trial(names[arm], seed, s=s) for arm, times in TIMES_S.items() for seed, s in enumerate(times, 1)]
    return sweep(*trials, arms=",".join(names.values()))


def _shown(stream: io.StringIO, record: SweepRecord) -> list[str]:
    print_report(record, stream, verbose=True)
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()


def _words(lines: list[str], row: str, columns: int) -> list[str]:
    """The cells of the row that begins with `row`, each of its lines joined again."""
    rows = [re.split("[│┃]", line)[1:-1] for line in lines if line[:1] in "│┃"]
    start = next(number for number, cells in enumerate(rows) if cells[0].strip() == row)
    taken = [rows[start]]
    for cells in rows[start + 1 :]:
        if cells[0].strip():
            break
        taken.append(cells)
    assert {len(cells) for cells in taken} == {columns}
    return [" ".join(" ".join(cells).split()) for cells in zip(*taken, strict=True)]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_shows_ratio_and_verdicts_uncut_and_names_what_it_leaves_out(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = _shown(Terminal(), _record())
    assert max(len(line) for line in lines if line[:1] in "│┃┏└") <= width
    cells = _words(lines, "fast", len(NARROW))
    assert cells == ["fast", "1.003", RATIO, SPEED, ACCURACY]
    (left_out,) = [line for line in lines if line.startswith("Left out, as they need ")]
    assert f"status, heads, parameters, val MSE, test MSE, {WORK}, train total s, x baseline, total" in left_out


def test_a_heading_takes_two_lines_before_a_cell_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = _shown(Terminal(), _record(fast="flash-bidirectional"))
    (row,) = [line for line in lines if "flash-bidirectional │" in line]
    assert f" {ACCURACY} │" in row and RATIO in row


def test_a_wide_terminal_and_a_pipe_show_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    for stream in (Terminal(), io.StringIO()):
        lines = _shown(stream, _record())
        assert _words(lines, "fast", 14)[9:12] == [RATIO, SPEED, ACCURACY]
        assert not [line for line in lines if line.startswith("Left out")]


def test_a_long_name_makes_the_table_of_a_pipe_wider_and_cuts_nothing() -> None:
    long = "patch_length=12-" * 12 + "end"
    lines = _shown(io.StringIO(), _record(fast=long))
    assert max(map(len, lines)) > WIDEST
    assert _words(lines, long, 14)[9:12] == [RATIO, SPEED, ACCURACY]
