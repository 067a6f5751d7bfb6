"""A table in a terminal of 80 columns, in Markdown and on a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from tune.common.program import PROGRAM
from tune.common.words import counted
from tune.config.benchmarks import PUBLISHED_SOURCE, TFB_SOURCE
from tune.config.trial_config import as_settings
from tune.report.arms import tag_text, trials_by_arm
from tune.report.cost import Price, cost_line, costs
from tune.report.render.scales import Scale
from tune.report.setting import NOT_READ, untested_note, whether_tested
from tune.report.table import Cell, cells, set_by_hand
from tune.report.tables import Table
from tune.tracking.reader import SweepRecord
from tune.tracking.store import STOPPED

if TYPE_CHECKING:
    from rich.console import Console

HEAD = ("cell", "seeds", "test MSE", "MAE", "naive", "paper", "TFB", "epochs")
DRAWN = "beside published, %"
EDGE = 3.0  # percent of a drawing that stays free at its two ends


def print_table(record: SweepRecord, console: Console, *, price: Price | None) -> None:
    """Print it: a row for each cell, then what has not run, and what the numbers mean."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Shown

    found = cells(record)
    console.print(f"{record.sweep_id} on {tag_text(record, 'device')}", style="dim", markup=False)
    console.print(headline(record, found), style="bold", markup=False)
    shown = Shown(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for index, name in enumerate(head_of(record)):
        shown.add_column(name, justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
    for cell in found:
        shown.add_row(*_row(record, cell))
    console.print(shown)
    for line in [*table_notes(record, found), cost_line(costs(record, trials_by_arm(record)), price)]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"More: {PROGRAM} report {record.sweep_id} --csv FILE, or --html FILE (a page).", markup=False)


def headline(record: SweepRecord, found: Sequence[Cell]) -> str:
    """How much of the table there is, and how it stands beside the published errors."""
    whole = [cell for cell in found if cell.not_run is None]
    line = f"{len(whole)} of {counted(len(found), 'cell')} done"
    beside = [cell for cell in whole if cell.test_mse is not None and cell.published is not None]
    if not beside:
        return f"{line}."
    below = sum(_relative(cell.test_mse, cell.published) <= 0 for cell in beside)
    near = sum(0 < _relative(cell.test_mse, cell.published) <= 1 for cell in beside)
    more = f", within 1 % above it in {near} more" if near else ""
    return f"{line}; test MSE at or below PatchTST as published in {below}{more}."


def head_of(record: SweepRecord) -> list[str]:
    """The names of the columns: where the test set was not read, validation errors take the place of test errors."""
    return [name if whether_tested(record) != NOT_READ else name.replace("test MSE", "val MSE") for name in HEAD]


def _row(record: SweepRecord, cell: Cell) -> list[str]:
    mse = cell.val_mse if whether_tested(record) == NOT_READ else cell.test_mse
    scatter = ""
    if cell.test_bounds is not None:
        scatter = f" ±{(cell.test_bounds[1] - cell.test_bounds[0]) / 2:.4f}"
    seeds = f"{len(cell.done)}" if len(cell.done) == cell.seeds else f"{len(cell.done)} of {cell.seeds}"
    return [
        cell.name,
        seeds,
        _number(mse) + scatter,
        _number(cell.test_mae),
        _number(cell.naive_mse),
        _number(cell.published, 3),
        _number(cell.tfb, 3),
        _number(cell.epochs, 0),
    ]


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _relative(ours: float | None, theirs: float | None) -> float:
    """How much larger ours is, in percent. Both are known."""
    assert ours is not None and theirs is not None
    return 100 * (ours / theirs - 1)


def table_notes(record: SweepRecord, found: Sequence[Cell]) -> Iterator[str]:
    """What a reader must know beside the table."""
    yield from (f"{cell.name}: {cell.not_run}" for cell in found if cell.not_run)
    yield from untested_note(record)
    if record.status == "interrupted" and (stopped := record.tags.get(STOPPED)):
        yield f"{stopped[0].upper()}{stopped[1:]}. The same command goes on from here."
    for cell in found:
        if cell.test_mse is not None and cell.naive_mse is not None and cell.naive_mse <= cell.test_mse:
            yield f"{cell.name} does not beat a naive forecast ({cell.naive_mse:.4f})."
    yield (
        "MSE and MAE of standardised values over the full test set, means over seeds; ± is half of a 95 % t interval. "
        "'naive' is the better one of repeating the last value and the last day. No cell is compared with another."
    )
    yield f"paper: {PUBLISHED_SOURCE}. TFB: {TFB_SOURCE}."
    commits = dict.fromkeys(commit for cell in found for commit in cell.commits)
    mixed = "; a cell with several says so in the CSV" if len(commits) > 1 else ""
    if changed := set_by_hand(record):
        yield f"Not the presets' own recipes: all cells have {as_settings(changed)}."
    yield f"Recipes: the presets of commit {', '.join(commits) or '(not known)'}{mixed}."


def as_table(record: SweepRecord) -> Table:
    """The table for Markdown."""
    found = cells(record)
    return Table(
        title="",
        head=[*head_of(record), "s", "commit"],
        rows=[[*_row(record, cell), _number(cell.train_s, 1), " then ".join(cell.commits)] for cell in found],
        numeric=[False, *[True] * (len(HEAD) - 1), True, False],
    )


def html_table(record: SweepRecord) -> str:
    """The table with a plot: each cell's error relative to the published one, TFB's beside it, on one scale."""
    found = cells(record)
    ends = [0.0, *(end for cell in found for end in (*_ours(cell)[1], *_of_tfb(cell)))]
    reach = max(1.0, *(1.08 * abs(end) for end in ends))
    scale = Scale(low=-reach, high=reach, begin=EDGE, end=100 - EDGE)
    head = "".join(f"<th{_kind(name)}>{escape(name)}</th>" for name in (*head_of(record), DRAWN))
    body = "\n".join(_html_row(record, cell, scale) for cell in found)
    table = f'<table class="arms">\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>\n</table>'
    legend = (
        f'<p class="soft">Dots: our test MSE relative to PatchTST as published, from -{reach:.1f} % to +{reach:.1f} %, '
        "with the interval over seeds; the upright line is the published error, left of it is better. Rings: TFB's "
        "PatchTST.</p>"
    )
    return f'<div class="wide-table">{table}</div>\n{legend}'


def _html_row(record: SweepRecord, cell: Cell, scale: Scale) -> str:
    shown = zip(head_of(record), _row(record, cell), strict=True)
    plain = "".join(f"<td{_kind(name)}>{escape(text)}</td>" for name, text in shown)
    return f'<tr>{plain}<td class="drawn">{_drawn(cell, scale)}</td></tr>'


def _kind(name: str) -> str:
    return {"cell": "", DRAWN: ' class="drawn"'}.get(name, ' class="number"')


def _ours(cell: Cell) -> tuple[float | None, tuple[float, ...]]:
    """Our error relative to the published one in percent, and its interval's ends; nothing where one is unknown."""
    if cell.test_mse is None or cell.published is None:
        return None, ()
    bounds = cell.test_bounds or (cell.test_mse, cell.test_mse)
    return _relative(cell.test_mse, cell.published), tuple(_relative(end, cell.published) for end in bounds)


def _of_tfb(cell: Cell) -> tuple[float, ...]:
    return () if cell.tfb is None or cell.published is None else (_relative(cell.tfb, cell.published),)


def _drawn(cell: Cell, scale: Scale) -> str:
    """A row of the plot as SVG, as wide as its cell."""
    middle = f"{scale(0.0):.2f}%"
    shapes = [f'<line x1="{middle}" x2="{middle}" y1="0" y2="14" stroke="var(--soft)" stroke-width="1"/>']
    for at in _of_tfb(cell):
        shapes.append(_dot(scale(at), "var(--page)"))
    ours, bounds = _ours(cell)
    if ours is not None:
        low, high = (f"{scale(end):.2f}%" for end in bounds)
        shapes.append(f'<line x1="{low}" x2="{high}" y1="7" y2="7" stroke="var(--good)" stroke-width="3"/>')
        shapes.append(_dot(scale(ours), "var(--good)"))
    return f'<svg aria-hidden="true">{"".join(shapes)}</svg>' + ("" if ours is None else f"{ours:+.1f}\u00a0%")


def _dot(at: float, fill: str) -> str:
    return f'<circle cx="{at:.2f}%" cy="7" r="3.5" stroke="var(--good)" stroke-width="1.5" fill="{fill}"/>'
