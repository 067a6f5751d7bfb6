"""`list runs`: the latest sweeps in the MLflow store, and whether the process of one that runs can be seen."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import Any

from tune.commands.parser import Parser, add_shared, tracking_uri
from tune.common.errors import DONE, WrongInput
from tune.common.process import PROCESS_TAG, ProcessInfo
from tune.common.program import COMMAND, PROGRAM
from tune.console.output import check_json_target, write_json
from tune.console.text import table
from tune.tracking.reader import SweepSummary, list_sweeps
from tune.tracking.store import PROJECT, REFUSED

RUNNING, INTERRUPTED, DEAD = "running", "interrupted", "dead"
COLUMNS = ["sweep_id", "status", "trials", "device", "started", "process"]


def parser() -> Parser:
    parser = Parser(prog=f"{PROGRAM} list runs", description="List the latest sweeps in MLflow.", allow_abbrev=False)
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default 20)")
    add_shared(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print the sweeps, newest first. TrackingError where the store cannot be read."""
    check_json_target(arguments.json)
    if arguments.limit < 1:
        raise WrongInput(f"--limit {arguments.limit}: give 1 or more")
    sweeps = list_sweeps(tracking_uri(arguments), PROJECT, limit=arguments.limit, timeout_s=10.0)
    rows = [_row(sweep) for sweep in sweeps]
    text = sys.stderr if arguments.json == "-" else sys.stdout
    for line in table(COLUMNS, rows):
        print(line, file=text)
    if any(row["status"] in (INTERRUPTED, DEAD) for row in rows):
        print(f"{INTERRUPTED}, or {DEAD} (killed): the same command again goes on from there", file=text)
    for row in rows:
        if row["refused"]:
            again = f"{COMMAND} flush {row['sweep_id']} tries them again"
            print(f"{row['sweep_id']}: MLflow refused {row['refused']} of its records; {again}", file=text)
    write_json(arguments.json, {"sweeps": rows})
    return DONE


def _row(sweep: SweepSummary) -> dict[str, Any]:
    status, process = _state(sweep)
    return {
        "sweep_id": sweep.sweep_id,
        "status": status,
        "trials": sweep.trials,
        "device": sweep.tags.get("device"),
        "started": datetime.fromtimestamp(sweep.started_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "process": process,
        "refused": int(sweep.tags.get(REFUSED, "0")),
    }


def _state(sweep: SweepSummary) -> tuple[str, str | None]:
    """The sweep's status, and where it runs. A store alone shows a sweep whose process was killed as running for ever.

    The process of a running sweep is None if an earlier version began it, which did not note it.
    """
    if sweep.status != RUNNING or PROCESS_TAG not in sweep.tags:
        return sweep.status, None
    process = ProcessInfo.from_json(sweep.tags[PROCESS_TAG])
    if process.runs is None:
        return RUNNING, f"{process.pid} on {process.host}, cannot be seen from here"
    return (RUNNING, f"{process.pid} on this machine") if process.runs else (DEAD, None)
