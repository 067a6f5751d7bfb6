"""All files of a report: Markdown, an HTML page and a PNG of each chart."""

from __future__ import annotations

from tune.report.arms import arm_rows, trained_by_arm
from tune.report.charts import charts
from tune.report.cost import Price
from tune.report.render.markdown import markdown
from tune.report.render.page import html_page
from tune.report.render.picture import png
from tune.report.table import is_table
from tune.report.table_csv import table_csv
from tune.stats.pairs import MARGIN
from tune.tracking.reader import SweepRecord


def report_files(
    record: SweepRecord, *, margin: float = MARGIN, price: Price | None = None
) -> dict[str, str | bytes | None]:
    """Path in the report's folder -> content. None: the chart has no data, and its picture must not be there.

    Raises:
        WrongInput: matplotlib is not installed.
    """
    if is_table(record):
        page = html_page(record, margin=margin, price=price)
        return {"report.md": markdown(record, price=price), "report.html": page, "table.csv": table_csv(record)}
    paths = {
        f"png/{chart.key}.png": chart
        for chart in charts(arm_rows(record, margin=margin), trained_by_arm(record), margin=margin)
    }
    pictures = {path: chart.title for path, chart in paths.items() if chart.has_data}
    return {
        "report.md": markdown(record, margin=margin, price=price, pictures=pictures),
        "report.html": html_page(record, margin=margin, price=price),
        **{path: png(chart) if chart.has_data else None for path, chart in paths.items()},
    }
