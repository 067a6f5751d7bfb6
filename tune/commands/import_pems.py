"""`data import-pems`: a folder of Caltrans PeMS station files becomes one Parquet file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tune.commands.parser import Parser
from tune.common.errors import DONE
from tune.common.program import PROGRAM
from tune.console.eta import duration

SECONDS_BETWEEN_LINES = 2.0


def parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} data import-pems",
        description="Import station files of the Caltrans PeMS Data Clearinghouse: one district, 5-minute or hourly.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with dDD_text_station_{5min,hour}_*.txt[.gz]")
    parser.add_argument("--out", type=Path, required=True, metavar="NAME.parquet", help="what to write")
    parser.add_argument("--measure", default="flow", metavar="NAME", help="flow (default), occupancy or speed")
    text = "leave stations out that were observed less, by the field '%% observed' (default 0: none)"
    parser.add_argument("--min-observed", type=float, default=0.0, metavar="PERCENT", help=text)
    text = "interpolate gaps of at most so many rows (default 6 of 5-minute files, 2 of hourly ones; 0: none)"
    parser.add_argument("--max-gap", type=int, metavar="ROWS", help=text)
    parser.add_argument("--complete-only", action="store_true", help="leave stations out that still have empty cells")
    parser.add_argument("--skip-damaged", action="store_true", help="leave cut and ragged files out, by name")
    parser.add_argument("--force", action="store_true", help="replace an output that exists")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Import the folder and print what was read, filled and left out."""
    from data_pipeline.pems.importing import ImportOptions, import_folder
    from data_pipeline.pems.report import render

    options = ImportOptions(
        measure=arguments.measure,
        min_observed_pct=arguments.min_observed,
        max_gap=arguments.max_gap,
        complete_only=arguments.complete_only,
        skip_damaged=arguments.skip_damaged,
        replace=arguments.force,
    )
    progress = None if arguments.quiet else progress_lines(time.monotonic)
    print(render(import_folder(arguments.folder, arguments.out, options, progress)))
    return DONE


def progress_lines(clock: Callable[[], float]) -> Callable[[str, float], None]:
    """A callback for (what was done, share of the work done) that prints a line with the time left to stderr."""
    began_s = clock()
    shown_s = began_s - SECONDS_BETWEEN_LINES

    def progress(what: str, share: float) -> None:
        nonlocal shown_s
        now_s = clock()
        if share <= 0 or now_s - shown_s < SECONDS_BETWEEN_LINES and share < 1:
            return
        shown_s = now_s
        left_s = (now_s - began_s) * (1 - share) / share
        print(f"[{share:4.0%}] {what}, ETA {duration(left_s)}", file=sys.stderr, flush=True)

    return progress
