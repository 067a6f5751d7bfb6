"""The report in a terminal of 80 columns: the answer first, what to beware of, one row an arm, and what they share.

Everything else is in the full report (`--verbose`, tune.report.render.terminal) and on the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tune.common.program import PROGRAM
from tune.report.accounts import accounts, accounts_line
from tune.report.answer import NO_ANSWER, answer_line
from tune.report.arms import ArmRow, tag_text, trained_by_arm, trials_by_arm
from tune.report.comparisons import OF_SEARCH, speed_text
from tune.report.cost import Price, cost_line, costs
from tune.report.errors_on_test import errors_on_test_notes
from tune.report.naive import is_beaten_by_naive, naive_note
from tune.report.pareto import search_notes
from tune.report.setting import setting_note, untested_note
from tune.report.stalls import stall_note
from tune.stats.intervals import MIN_PAIRS, Bounds
from tune.stats.verdicts import ACCURACY_WORDS, FASTER, NOT_WORSE, SLOWER, WORSE
from tune.tracking.reader import SweepRecord

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

BAR = 11  # characters; the middle one is the baseline's speed
ROOM_FOR_BARS = 92  # columns of a terminal
GOOD, BAD, UNSURE = "green", "red", "dim"


def print_short(
    record: SweepRecord, rows: Sequence[ArmRow], console: Console, *, margin: float, price: Price | None
) -> None:
    """Print it. `rows` and `margin` are those of `tune.report.arms.arm_rows`."""
    console.print(f"{record.sweep_id} on {tag_text(record, 'device')}", style="dim", markup=False)
    if is_beaten_by_naive(record):
        console.print(*naive_note(record), style=BAD, markup=False)
    console.print(answer_line(record, rows) or NO_ANSWER, style="bold", markup=False)
    for line in _warnings(record, rows, margin):
        console.print(line, style="yellow", markup=False)
    shown = [row for row in rows if _has_row(record, row)]
    console.print(_table(shown, bars=console.width >= ROOM_FOR_BARS))
    for line in _below(record, rows, shown, price):
        console.print(line, markup=False)


def _warnings(record: SweepRecord, rows: Sequence[ArmRow], margin: float) -> Iterator[str]:
    arms, baseline = trained_by_arm(record), record.tags.get("baseline")
    compared = {row.arm: row.comparison for row in rows if row.comparison}
    yield from stall_note(arms)
    yield from errors_on_test_notes(arms, baseline, compared, margin)


def _has_row(record: SweepRecord, row: ArmRow) -> bool:
    """Whether an arm has a row: it ran, in the final if there was a search."""
    stages = {trial.tags.get("stage") for trial in record.trials if trial.tags.get("arm") == row.arm}
    return row.status != "unsupported" and not stages & set(OF_SEARCH)


def _below(record: SweepRecord, rows: Sequence[ArmRow], shown: Sequence[ArmRow], price: Price | None) -> Iterator[str]:
    if unsupported := [row.arm for row in rows if row.status == "unsupported"]:
        yield f"Cannot run here: {', '.join(unsupported)}."
    if shared := [row.arm for row in shown if row.epoch_s is not None and row.timing_valid != "true"]:
        yield f"Not alone on their device, so without a verdict: {', '.join(shared)}."
    yield from (f"{row.arm}: {row.status}: {row.reason}" for row in shown if row.reason)
    yield from (f"{row.arm} is refused, so it is in no comparison: {row.refused}." for row in shown if row.refused)
    yield from setting_note(record)
    yield from untested_note(record)
    yield from search_notes(record)[:1]
    yield cost_line(costs(record, trials_by_arm(record)), price)
    yield accounts_line(accounts(record))
    yield f"More: {PROGRAM} report {record.sweep_id} --verbose (all columns and notes), or --html FILE (a page)."


def _table(rows: Sequence[ArmRow], *, bars: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("arm", overflow="fold", min_width=8)
    for name in ("s/epoch", "speed"):
        table.add_column(name, justify="right", no_wrap=True)
    if bars:
        table.add_column("slower | faster", justify="center", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    widest = max((abs(_log_of(row)) for row in rows), default=0.0)
    for row in rows:
        bar = [_bar(row, widest)] if bars else []
        table.add_row(row.arm, _seconds(row), _speed(row), *bar, _error(row), _verdict(row))
    return table


def _seconds(row: ArmRow) -> str:
    return "-" if row.epoch_s is None else f"{row.epoch_s:.3f}"


def _speed(row: ArmRow) -> Text:
    """2.03x 2.02-2.04; grey with too few pairs for an interval."""
    from rich.text import Text

    comparison = row.comparison
    if row.is_baseline or comparison is None or comparison.ratio is None:
        return Text("baseline" if row.is_baseline else "-", style="dim")
    few = comparison.count < MIN_PAIRS
    text = f"{comparison.ratio:.2f}x" + (
        "" if comparison.interval is None else " {:.2f}-{:.2f}".format(*comparison.interval)
    )
    return Text(text, style=UNSURE if few else _colour(comparison.verdict))


def _colour(verdict: str | None) -> str:
    return {FASTER: GOOD, SLOWER: BAD}.get(verdict or "", "")


def _error(row: ArmRow) -> str:
    accuracy = row.comparison.accuracy if row.comparison else None
    return "-" if accuracy is None else f"{100 * accuracy.difference:+.2f} %"


def _verdict(row: ArmRow) -> Text:
    """faster, not worse; too few pairs (2, 3 needed)"""
    from rich.text import Text

    comparison = row.comparison
    if row.shown_as or row.refused:
        return Text(row.shown_as or "refused", style=UNSURE)
    if comparison is None or not row.trials:
        return Text("" if row.is_baseline else row.status, style=UNSURE)
    if comparison.verdict is None:
        return Text(speed_text(comparison), style=UNSURE)
    error = comparison.accuracy.verdict if comparison.accuracy else None
    text = Text(speed_text(comparison), style=_colour(comparison.verdict))
    if error is not None:
        word = "error undecided" if error not in (NOT_WORSE, WORSE) else ACCURACY_WORDS[error]
        text.append(", ", style="").append(word, style=BAD if error == WORSE else "")
    return text


def _log_of(row: ArmRow) -> float:
    """The farthest end of the interval, as a logarithm; 0 without one."""
    import math

    interval: Bounds | None = row.comparison.interval if row.comparison else None
    return 0.0 if interval is None else max((abs(math.log(end)) for end in interval if end > 0), default=0.0)


def _bar(row: ArmRow, widest: float) -> str:
    """The interval on a logarithmic scale around the baseline's speed: ·····|··━━·"""
    import math

    interval = row.comparison.interval if row.comparison else None
    cells = ["·"] * BAR
    cells[BAR // 2] = "|"
    if interval is not None and widest > 0 and min(interval) > 0:
        first, last = (_cell(math.log(end) / widest) for end in interval)
        cells[first : last + 1] = ["●"] if first == last else ["━"] * (last - first + 1)
    return "".join(cells)


def _cell(share: float) -> int:
    """-1: the first cell; 1: the last."""
    return min(BAR - 1, max(0, round((share + 1) / 2 * (BAR - 1))))
