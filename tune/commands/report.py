"""`report`: the table of an earlier sweep, and its pages."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tune.commands.parser import SWEEP_HELP, Parser, add_csv, add_margin, add_shared, tracking_uri
from tune.common.errors import DONE, WrongInput
from tune.common.program import PROGRAM
from tune.console.output import (
    check_csv_target,
    check_html_target,
    check_json_target,
    check_out_target,
    write_csv,
    write_folder,
    write_json,
    write_page,
)
from tune.report.cost import Price, parse_price
from tune.stats.pairs import MARGIN, margin_of
from tune.storage.waiting import waiting
from tune.tracking.store import PROJECT

if TYPE_CHECKING:
    from tune.tracking.reader import SweepRecord


def parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} report", description="Print the table of a sweep, from MLflow.", allow_abbrev=False
    )
    parser.add_argument("sweep_id", metavar="SWEEP_ID", help=SWEEP_HELP)
    text = "also write the report into this folder: report.md, report.html (one page that works offline), png/CHART.png"
    parser.add_argument("--out", metavar="DIR", help=text)
    parser.add_argument("--html", metavar="FILE", help="also write the HTML page alone, to this file")
    add_csv(parser)
    text = "price of one GPU for one hour, with a currency if you like (2.50 or '2.50 EUR'): adds the sweep's cost"
    parser.add_argument("--price-per-gpu-hour", metavar="PRICE", help=text)
    parser.add_argument("--verbose", action="store_true", help="print all columns and notes")
    add_margin(parser)
    add_shared(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print the table of an earlier sweep, and write its files if --out, --html or --json asks for them."""
    check_json_target(arguments.json)
    check_html_target(arguments.html, arguments.json)
    check_csv_target(arguments.csv, arguments.json, arguments.html)
    check_out_target(arguments.out)
    text = sys.stderr if arguments.json == "-" else sys.stdout
    margin, given = margin_of(arguments.margin_pct), arguments.price_per_gpu_hour
    price = None if given is None else parse_price(given)
    store, verbose = tracking_uri(arguments), arguments.verbose
    record = show_report(arguments.sweep_id, store, arguments.json, text, margin=margin, price=price, verbose=verbose)
    if arguments.out is not None:
        from tune.report.render.files import report_files

        write_folder(arguments.out, report_files(record, margin=margin, price=price))
    if arguments.html is not None:
        from tune.report.render.page import html_page

        write_page(arguments.html, html_page(record, margin=margin, price=price))
    write_table(arguments.csv, record)
    if line := waiting(Path("runs"), record.sweep_id):
        print(line, file=sys.stderr)
    return DONE


def write_table(target: str | None, record: SweepRecord) -> None:
    """Write the CSV that --csv asks for. Raises WrongInput for a sweep that is no table."""
    from tune.report.table import is_table
    from tune.report.table_csv import table_csv

    if target is None:
        return
    if not is_table(record):
        name = record.tags.get("sweep", record.name)
        raise WrongInput(f"--csv {target}: {name} is no table, as benchmark is; use --json FILE")
    write_csv(target, table_csv(record))


def show_report(
    sweep_id: str,
    store: str,
    json_target: str | None,
    text: IO[str],
    *,
    margin: float = MARGIN,
    price: Price | None = None,
    verbose: bool = False,
) -> SweepRecord:
    """Read a sweep from the MLflow store at the address `store`, print its report to `text`, write its JSON."""
    from tune.report.render.terminal import print_report
    from tune.report.values import as_json
    from tune.tracking.reader import read_sweep

    record = read_sweep(store, PROJECT, sweep_id)
    print_report(record, text, margin=margin, price=price, verbose=verbose)
    write_json(json_target, as_json(record, margin=margin, price=price))
    return record
