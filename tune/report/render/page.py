"""A sweep as one HTML page that a person forwards: it needs no network, no script and no other file.

The answer and its chart come first, then the table, the other charts, and what only some readers want, folded. Every
number is the table's or MLflow's. The page's Content-Security-Policy forbids it to load or to run anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from tune.report.accounts import accounts, accounts_line
from tune.report.answer import answer_sentences, headline
from tune.report.arms import ArmRow, arm_rows, environment_of, tag_text, trained_by_arm
from tune.report.charts import Chart, charts
from tune.report.comparisons import OF_SEARCH
from tune.report.cost import Price
from tune.report.dimensions import dimension_tables
from tune.report.facts import facts
from tune.report.marks import Answers
from tune.report.notes import notes, warnings
from tune.report.render.arms_table import arms_table
from tune.report.render.picture import svg
from tune.report.render.style import POLICY, STYLE
from tune.report.render.table import headline as table_headline
from tune.report.render.table import html_table, table_notes
from tune.report.setting import setting_note, untested_note
from tune.report.table import cells, is_table
from tune.report.tables import Table, arm_table, closing_tables, search_tables
from tune.stats.pairs import MARGIN
from tune.tracking.reader import SweepRecord

LONG = 25  # characters; a column with a longer text gets room
NAV = {"answer": "Answer", "arms": "Arms", "trade": "Time and error", "epochs": "By epoch", "time": "Time",
       "details": "Details"}  # fmt: skip

NAV_OF_TABLE = {"answer": "Answer", "arms": "Table", "details": "Details"}


def html_page(record: SweepRecord, *, margin: float = MARGIN, price: Price | None = None) -> str:
    """The page.

    Raises:
        WrongInput: matplotlib is not installed.
    """
    if is_table(record):
        return _document(tag_text(record, "question"), _table_body(record, price), _made_by(record), NAV_OF_TABLE)
    rows = arm_rows(record, margin=margin)
    drawn = {chart.key: chart for chart in charts(rows, trained_by_arm(record), margin=margin)}
    parts = [
        _head(record, rows, margin, price, drawn["answer"]),
        *_arms(record, rows, drawn["answer"], margin),
        _section("trade", "Time and error", _figure(drawn["pareto"])),
        _section("epochs", "Error by epoch", _titled(drawn["difference"]), _titled(drawn["validation"])),
        _section("time", "Where the time goes", _figure(drawn["times"]), _soft(accounts_line(accounts(record)))),
        *_details(record, rows, drawn["training"], margin, price),
    ]
    return _document(tag_text(record, "question"), "\n".join(parts), _made_by(record), NAV)


def _table_body(record: SweepRecord, price: Price | None) -> str:
    """The page of a table: its cells and their plot, then what only some readers want."""
    found, named = cells(record), facts(record, price)
    notes_of_table = [*table_notes(record, found), *setting_note(record)]
    parts = [
        f'<section id="answer">\n<h1>{escape(tag_text(record, "question"))}</h1>',
        f'<p class="answer">{_kept(escape(table_headline(record, found)))}</p>',
        "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in named) + "</dl>",
        "</section>",
        _section("arms", "The table", html_table(record)),
        '<h2 id="details">Details</h2>',
        _folded("Notes: what did not run, what the numbers mean", _list(notes_of_table)),
        *(_folded(table.title, _table(table, "")) for table in closing_tables(record, price)),
    ]
    return "\n".join(parts)


def _document(title: str, body: str, foot: str, nav: Mapping[str, str]) -> str:
    links = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name in nav.items())
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<nav><ul>{links}</ul></nav>\n<main>",
            body,
            f"</main>\n<footer>{foot}</footer>\n</body>\n</html>\n",
        ]
    )


def _head(record: SweepRecord, rows: Sequence[ArmRow], margin: float, price: Price | None, chart: Chart) -> str:
    answer, named = headline(record, rows), facts(record, price)
    more = "" if answer.startswith("No answer") else " ".join(answer_sentences(record, rows)).removeprefix("Answer: ")
    more = more.replace("use this", "Use this", 1) if more.startswith("use this") else more
    return "\n".join(
        [
            f'<section id="answer">\n<h1>{escape(tag_text(record, "question"))}</h1>',
            f'<p class="answer">{_kept(escape(answer))}</p>',
            f'<p class="more">{_with_code(_kept(escape(more)))}</p>' if more else "",
            *(f'<p class="warning">⚠ {_kept(escape(line))}</p>' for line in warnings(record, rows, margin)),
            "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in named) + "</dl>",
            f"{_figure(chart)}\n</section>",
        ]
    )


def _arms(record: SweepRecord, rows: Sequence[ArmRow], answer: Chart, margin: float) -> Iterable[str]:
    """The table of the arms that ran, and tables by dimension where several vary; both after what a search found."""
    assert isinstance(answer.marks, Answers)
    of_search = {trial.tags.get("arm") for trial in record.trials if trial.tags.get("stage") in OF_SEARCH}
    shown = [row for row in rows if row.status != "unsupported" and row.arm not in of_search]
    unsupported = [row.arm for row in rows if row.status == "unsupported"]
    cannot = [_soft(f"Cannot run here: {', '.join(unsupported)}. The details say why.")] if unsupported else []
    tables = dimension_tables(record, margin=margin)
    yield _section(
        "arms",
        "The arms",
        *(_soft(line) for line in setting_note(record) + untested_note(record)),
        arms_table(shown, answer.marks),
        *cannot,
        *(_table(table, "h3") for table in [*search_tables(record), *(tables if len(tables) > 1 else [])]),
    )


def _details(
    record: SweepRecord, rows: Sequence[ArmRow], training: Chart, margin: float, price: Price | None
) -> Iterable[str]:
    yield '<h2 id="details">Details</h2>'
    yield _folded("Notes: what was assumed, what the numbers mean", _list(notes(record, rows, margin=margin)))
    tables = dimension_tables(record, margin=margin)
    yield _folded("All columns", _table(arm_table(rows), ""))
    yield _folded(training.title, _figure(training))
    found = {table.title for table in search_tables(record)}
    for table in [*(tables if len(tables) == 1 else []), *closing_tables(record, price)]:
        if table.title not in found:
            yield _folded(table.title, _table(table, ""))


def _section(key: str, title: str, *parts: str) -> str:
    return "\n".join([f'<section id="{key}">\n<h2>{escape(title)}</h2>', *parts, "</section>"])


def _folded(title: str, content: str) -> str:
    return f"<details>\n<summary>{escape(title)}</summary>\n{content}\n</details>"


def _titled(chart: Chart) -> str:
    return f"<h3>{escape(chart.title)}</h3>\n{_figure(chart)}"


def _figure(chart: Chart) -> str:
    """The chart for a wide and for a narrow window, of which the style sheet shows one."""
    if not chart.has_data:
        return f'<p class="soft">{escape(chart.title)}: no data yet.</p>'
    drawn = "\n".join(
        f'<div class="{kind}">{svg(chart, narrow=narrow)}</div>' for kind, narrow in (("wide", False), ("narrow", True))
    )
    label = f'role="img" aria-label="{escape(chart.title)}"'
    caption = f"<figcaption>{escape(chart.caption)}</figcaption>"
    return f'<figure id="chart-{chart.key}">\n<div {label}>\n{drawn}\n</div>\n{caption}\n</figure>'


def _made_by(record: SweepRecord) -> str:
    environment = environment_of(record)
    commit = environment.get("git_commit") if isinstance(environment, dict) else None
    code = f", code {str(commit)[:10]}" if commit else ""
    return escape(f"Sweep {record.sweep_id}{code}. Every number comes from its records in MLflow.")


def _soft(text: str) -> str:
    return f'<p class="soft">{_kept(escape(text))}</p>'


def _kind(right: bool, longest: int) -> str:
    """The class of a column. Without extra room, long texts would break after each word."""
    if right:
        return ' class="number"'
    return ' class="long"' if longest > LONG else ""


def _kept(text: str) -> str:
    """Keeps a number and its percent sign on one line."""
    return text.replace(" %", "\u00a0%")


def _with_code(text: str) -> str:
    """Keeps a setting on one line, such as --set model.attention=patch."""
    return re.sub(r"--set [^\s<>]+", r"<code>\g<0></code>", text)


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(table: Table, heading: str) -> str:
    """`heading`: the element of its title; "" where the title stands elsewhere."""

    def line(tag: str, cells: Sequence[str]) -> str:
        shown = (f"<{tag}{kind}>{_kept(escape(cell))}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(shown)}</tr>"

    longest = [max((len(row[index]) for row in table.rows), default=0) for index in range(len(table.head))]
    kinds = [_kind(right, length) for right, length in zip(table.numeric, longest, strict=True)]

    title = f"<{heading}>{escape(table.title)}</{heading}>\n" if heading and table.title else ""
    if not table.rows:
        return f"{title}{_soft(table.empty)}"
    caption = f"{_soft(table.caption)}\n" if table.caption else ""
    body = "\n".join(line("td", cells) for cells in table.rows)
    head = f"<thead>{line('th', table.head)}</thead>"
    return f'{title}{caption}<div class="wide-table"><table>\n{head}\n<tbody>{body}</tbody>\n</table></div>'
