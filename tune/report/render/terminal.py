"""The report in a terminal or a pipe: short, or with every column and note."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from tune.report.accounts import accounts, accounts_line
from tune.report.answer import answer_line
from tune.report.arms import COLUMNS, ArmRow, arm_rows, tag_text, trials_by_arm
from tune.report.cost import Price, cost_line, costs
from tune.report.notes import notes
from tune.report.render.short import print_short
from tune.report.render.table import print_table
from tune.report.table import is_table
from tune.stats.pairs import MARGIN
from tune.tracking.reader import SweepRecord

if TYPE_CHECKING:
    from rich.table import Table


# columns shown where the terminal is too narrow for all
NARROW = ("arm", "all windows s/epoch", "x baseline", "speed", "accuracy")
WIDEST = 260  # characters of the full report, where there is no terminal
PIPE = 120  # of the short one


def print_report(
    record: SweepRecord, stream: IO[str], *, margin: float = MARGIN, price: Price | None = None, verbose: bool = False
) -> None:
    """Print the report, answer first. `verbose`: all notes, and all columns as far as there is room."""
    from rich.console import Console

    if is_table(record):
        console = Console(file=stream, width=None if stream.isatty() else PIPE, highlight=False)
        print_table(record, console, price=price)
        return
    rows = arm_rows(record, margin=margin)
    if not verbose:
        width = None if stream.isatty() else PIPE
        console = Console(file=stream, width=width, highlight=False)
        print_short(record, rows, console, margin=margin, price=price)
        return
    console = Console(file=stream, width=None if stream.isatty() else WIDEST, highlight=False)
    table = _table(record, rows, [name for name, _ in COLUMNS], folded=stream.isatty())
    needed = console.measure(table, options=console.options.update(max_width=sys.maxsize)).maximum
    if not stream.isatty():
        console.width = max(WIDEST, needed)
    left_out = [name for name, _ in COLUMNS if name not in NARROW] if needed > console.width else []
    if left_out:
        table = _table(record, rows, NARROW, folded=True)
    *others, last = notes(record, rows, margin=margin)
    if answer := answer_line(record, rows):
        console.print(answer, soft_wrap=True, markup=False, style="bold")
    else:
        others.append(last)
    console.print(table)
    if left_out:
        console.print(f"Left out, as they need {needed} columns: {', '.join(left_out)}.", soft_wrap=True, markup=False)
    for line in others:
        console.print(line, soft_wrap=True, markup=False)
    console.print(cost_line(costs(record, trials_by_arm(record)), price), soft_wrap=True, markup=False)
    console.print(accounts_line(accounts(record)), soft_wrap=True, markup=False)


def _table(record: SweepRecord, rows: Sequence[ArmRow], names: Sequence[str], *, folded: bool) -> Table:
    """The table of these columns. Where they do not fit, a cell's text continues on the next line; none is cut.

    `folded`: a heading of several words over narrow cells takes two lines.
    """
    from rich.table import Table

    table = Table(title=f"{record.sweep_id} on {tag_text(record, 'device')}")
    for name in names:
        heading = name.replace(" s/epoch", "\ns/epoch").replace("total s", "total\ns") if folded else name
        table.add_column(heading, justify="left" if name in ("arm", "status") else "right", overflow="fold")
    cells = dict(COLUMNS)
    for row in rows:
        table.add_row(*(cells[name](row) for name in names))
    return table
