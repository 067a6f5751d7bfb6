"""`list runs`: the latest sweeps in the MLflow store."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from tune.commands.parser import Parser, add_shared, tracking_uri
from tune.common.errors import DONE, WrongInput
from tune.console.output import check_json_target, write_json
from tune.console.text import table
from tune.tracking.reader import list_sweeps
from tune.tracking.store import PROJECT


def parser() -> Parser:
    parser = Parser(
        prog="experiments.py list runs", description="List the latest sweeps in MLflow.", allow_abbrev=False
    )
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default 20)")
    add_shared(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print the sweeps, newest first. TrackingError where the store cannot be read."""
    check_json_target(arguments.json)
    if arguments.limit < 1:
        raise WrongInput(f"--limit {arguments.limit}: give 1 or more")
    sweeps = list_sweeps(tracking_uri(arguments), PROJECT, limit=arguments.limit, timeout_s=10.0)
    rows = [
        {
            "sweep_id": sweep.sweep_id,
            "status": sweep.status,
            "trials": sweep.trials,
            "device": sweep.tags.get("device"),
            "started": datetime.fromtimestamp(sweep.started_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
        for sweep in sweeps
    ]
    text = sys.stderr if arguments.json == "-" else sys.stdout
    for line in table(["sweep_id", "status", "trials", "device", "started"], rows):
        print(line, file=text)
    write_json(arguments.json, {"sweeps": rows})
    return DONE
