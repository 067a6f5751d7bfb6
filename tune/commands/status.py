"""`status`: the sweeps sent to a cluster, or one of them."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import Any

from tune.cluster.job_server import Job
from tune.commands.jobs import add_job, find_job, job_progress, job_server
from tune.commands.parser import Parser, add_shared, tracking_uri
from tune.common.errors import DONE
from tune.console.output import check_json_target, write_json
from tune.console.text import table
from tune.tracking.reader import JobProgress


def parser() -> Parser:
    parser = Parser(prog="experiments.py status", description="List the sweeps sent to a cluster.", allow_abbrev=False)
    add_job(parser, "show only this one")
    add_shared(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print a row per sweep, with its progress where the user's own store has it."""
    check_json_target(arguments.json)
    server, store = job_server(arguments), tracking_uri(arguments)
    jobs = [job for job in server.jobs() if job.sweep is not None]
    if arguments.job is not None:
        jobs = [find_job(server, jobs, arguments.job, store)]
    known = job_progress(jobs, store)
    rows = [_row(job, known.get(job.job_id)) for job in jobs]
    text = sys.stderr if arguments.json == "-" else sys.stdout
    for line in table(["job", "user", "sweep", "state", "ended", "left", "started"], rows):
        print(line, file=text)
    write_json(arguments.json, {"jobs": rows})
    return DONE


def _row(job: Job, progress: JobProgress | None) -> dict[str, Any]:
    """None where nothing is known; trials `ended` and `left` are counts."""
    ended, planned = (None, None) if progress is None else (progress.ended, progress.planned)
    started = None if job.started_ms is None else datetime.fromtimestamp(job.started_ms / 1000, UTC)
    return {
        "job": job.job_id,
        "user": job.user,
        "sweep": job.sweep if progress is None else progress.sweep_id,
        "state": job.state if not job.exit_code else f"{job.state} ({job.exit_code})",
        "ended": ended,
        "left": None if ended is None or planned is None else max(0, planned - ended),
        "started": None if started is None else f"{started:%Y-%m-%d %H:%M UTC}",
    }
