"""A sweep's report as Markdown. Every number is the table's or MLflow's."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from tune.report.accounts import accounts, accounts_line
from tune.report.answer import NO_ANSWER, answer_line
from tune.report.arms import arm_rows, tag_text
from tune.report.cost import Price
from tune.report.dimensions import dimension_tables
from tune.report.notes import notes
from tune.report.render.table import as_table, headline, table_notes
from tune.report.setting import setting_note
from tune.report.table import cells, is_table
from tune.report.tables import Table, arm_table, closing_tables
from tune.stats.pairs import MARGIN
from tune.tracking.reader import SweepRecord


def markdown(
    record: SweepRecord,
    *,
    margin: float = MARGIN,
    price: Price | None = None,
    pictures: Mapping[str, str] | None = None,
) -> str:
    """The whole report: tables, notes, pictures, cost, what did not run, environment. `pictures`: path -> title."""
    if is_table(record):
        return _of_table(record, price)
    rows = arm_rows(record, margin=margin)
    parts = [
        f"# {_text(record.sweep_id)}",
        _text(tag_text(record, "question")),
        f"**{_text(answer_line(record, rows) or NO_ANSWER)}**",
        f"Device: {_text(tag_text(record, 'device'))}",
        _text(accounts_line(accounts(record))),
        _table(arm_table(rows)),
        "\n".join(f"- {_text(note)}" for note in notes(record, rows, margin=margin)),
        *(_table(table) for table in dimension_tables(record, margin=margin)),
        *(f"## {_text(title)}\n\n![{_text(title)}]({path})" for path, title in (pictures or {}).items()),
        *map(_table, closing_tables(record, price)),
    ]
    return "\n\n".join(parts) + "\n"


def _of_table(record: SweepRecord, price: Price | None) -> str:
    """The report of a table, whose cells are not compared."""
    found = cells(record)
    parts = [
        f"# {_text(record.sweep_id)}",
        _text(tag_text(record, "question")),
        f"**{_text(headline(record, found))}**",
        f"Device: {_text(tag_text(record, 'device'))}",
        _table(as_table(record)),
        "\n".join(f"- {_text(note)}" for note in [*table_notes(record, found), *setting_note(record)]),
        *map(_table, closing_tables(record, price)),
    ]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    parts = [f"## {_text(table.title)}"] if table.title else []
    if not table.rows:
        return "\n\n".join([*parts, _text(table.empty)])
    if table.caption:
        parts.append(_text(table.caption))
    rule = "|" + "|".join("---:" if right else "---" for right in table.numeric) + "|"
    return "\n\n".join([*parts, "\n".join([_line(table.head), rule, *map(_line, table.rows)])])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_text(cell).replace("|", "\\|") for cell in cells) + " |"


def _text(text: str) -> str:
    """One line in which no reader of Markdown sees HTML, an image, a link, code or emphasis."""
    plain = html.escape(" ".join(text.split()), quote=False)
    for letter in "\\`*[]":
        plain = plain.replace(letter, f"\\{letter}")
    return plain
