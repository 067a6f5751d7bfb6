"""A sweep as one HTML page that needs no network and no other file. Every number is the table's or MLflow's.

The page's Content-Security-Policy forbids it to load anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from tune.common.errors import WrongInput
from tune.report.accounts import accounts, accounts_line
from tune.report.answer import NO_ANSWER, answer_line
from tune.report.arms import arm_rows, tag_text, trained_by_arm
from tune.report.charts import Chart, charts
from tune.report.cost import Price
from tune.report.dimensions import dimension_tables
from tune.report.notes import notes
from tune.report.tables import Table, arm_table, closing_tables
from tune.stats.pairs import MARGIN
from tune.tracking.reader import SweepRecord

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --page: #ffffff; --line: #d0d7de; --soft: #59636e; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --page: #0d1117; --line: #3d444d; --soft: #9198a1; }
}
body { margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: var(--text); background: var(--page);
       font: 16px/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.25; overflow-wrap: anywhere; } h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; } .soft, .none { color: var(--soft); } .chart { min-height: 1rem; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .4rem; text-align: left; vertical-align: top; }
td, li { overflow-wrap: break-word; }
th, td { min-width: 4.5rem; } th:first-child, td:first-child { min-width: 8rem; } td.long { min-width: 13rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; min-width: 0; } td.number { white-space: nowrap; }
"""
LONG = 25  # characters; a column with a longer text gets room
# The charts take the page's colours, also when the reader switches between light and dark.
DRAW = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text").trim(), line = style.getPropertyValue("--line").trim();
  for (const { key, data, layout } of charts) {
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
    Plotly.react("chart-" + key, data, { ...layout, uirevision: "kept",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, family: "system-ui" },
      xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
      shapes: (layout.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: text } })),
    }, { displaylogo: false, responsive: true });
  }
}
draw();
dark.addEventListener("change", draw);
"""


def html_page(record: SweepRecord, *, margin: float = MARGIN, price: Price | None = None) -> str:
    """The page: table and notes, tables by dimension, charts, cost, what did not run, environment.

    Raises:
        WrongInput: plotly is not installed.
    """
    rows, arms = arm_rows(record, margin=margin), trained_by_arm(record)
    figures = charts(rows, arms)
    body = [
        f"<h1>{escape(record.sweep_id)}</h1>",
        f"<p>{escape(tag_text(record, 'question'))}</p>",
        f"<p><strong>{escape(answer_line(record, rows) or NO_ANSWER)}</strong></p>",
        f'<p class="soft">Device: {escape(tag_text(record, "device"))}</p>',
        f'<p class="soft">{_kept(escape(accounts_line(accounts(record))))}</p>',
        _table(arm_table(rows)),
        _list(notes(record, rows, margin=margin)),
        *(_table(table) for table in dimension_tables(record, margin=margin)),
        *(_section(figure) for figure in figures),
        *map(_table, closing_tables(record, price)),
    ]
    return _document(record.sweep_id, "\n".join(body), [figure for figure in figures if figure.data])


def _document(title: str, body: str, figures: Sequence[Chart]) -> str:
    drawn = [{"key": figure.key, "data": figure.data, "layout": _framed(figure.layout)} for figure in figures]
    scripts = [_plotly_js(), DRAW] if drawn else []
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            body,
            f'<script type="application/json" id="charts">{script_json(drawn)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def script_json(content: Any) -> str:
    """JSON in which an HTML parser finds no tag, comment or entity, so nothing in it can end the script element."""
    text = json.dumps(content, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _plotly_js() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise WrongInput(
            "the HTML report needs the package plotly, which is not installed: pip install -r requirements.txt"
        ) from None
    return str(get_plotlyjs())


def _framed(layout: dict[str, Any]) -> dict[str, Any]:
    return {"margin": {"t": 36, "r": 20, "b": 60, "l": 60}, "height": 460, "hovermode": "closest"} | layout


def _section(chart: Chart) -> str:
    shown = f'<div class="chart" id="chart-{chart.key}"></div>' if chart.data else '<p class="none">No data yet.</p>'
    return f'<h2>{escape(chart.title)}</h2>\n<p class="soft">{escape(chart.caption)}</p>\n{shown}'


def _kind(right: bool, longest: int) -> str:
    """The class of a column. Without extra room, long texts would break after each word."""
    if right:
        return ' class="number"'
    return ' class="long"' if longest > LONG else ""


def _kept(text: str) -> str:
    """Keeps a number and its percent sign on one line."""
    return text.replace(" %", "\u00a0%")


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(table: Table) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        shown = (f"<{tag}{kind}>{_kept(escape(cell))}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(shown)}</tr>"

    longest = [max((len(row[index]) for row in table.rows), default=0) for index in range(len(table.head))]
    kinds = [_kind(right, length) for right, length in zip(table.numeric, longest, strict=True)]

    title = f"<h2>{escape(table.title)}</h2>\n" if table.title else ""
    if not table.rows:
        return f'{title}<p class="none">{escape(table.empty)}</p>'
    caption = f'<p class="soft">{escape(table.caption)}</p>\n' if table.caption else ""
    body = "\n".join(line("td", cells) for cells in table.rows)
    head = f"<thead>{line('th', table.head)}</thead>"
    return f'{title}{caption}<div class="wide"><table>\n{head}\n<tbody>{body}</tbody>\n</table></div>'
