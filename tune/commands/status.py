"""`status`: the sweeps of this machine's storage folder, or those sent to a cluster; all of them, or one."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tune.cluster.job_server import Job
from tune.commands.jobs import add_job, find_job, has_cluster, job_progress, job_server
from tune.commands.parser import Parser, add_shared, tracking_uri
from tune.common.errors import DONE, WrongInput, did_you_mean
from tune.common.ids import sweep_meant
from tune.common.program import PROGRAM
from tune.console.output import check_json_target, write_json
from tune.console.text import table
from tune.storage.open_sweep import every
from tune.storage.progress import look
from tune.tracking.reader import JobProgress

MOST_SHOWN = 20  # of this machine's sweeps: the outbox of each is read


def parser() -> Parser:
    text = "List the latest sweeps of this machine; with --cluster, the sweeps sent to that cluster."
    parser = Parser(prog=f"{PROGRAM} status", description=text, allow_abbrev=False)
    add_job(parser, "show only this one")
    text = "folder of this machine's sweeps (default runs)"
    parser.add_argument("--storage-path", type=Path, default=Path("runs"), metavar="DIR", help=text)
    add_shared(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print a row per sweep, with its progress: here by its folder, of a cluster where the user's own store has it.

    WrongInput for a storage folder, or a sweep, that is not there.
    """
    check_json_target(arguments.json)
    if not has_cluster(arguments):
        return _local(arguments)
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


def _local(arguments: argparse.Namespace) -> int:
    storage: Path = arguments.storage_path
    if not storage.is_dir():
        where = "give the folder of your sweeps with --storage-path, or a cluster with --cluster"
        raise WrongInput(f"--storage-path {storage}: there is no such folder; {where}")
    sweeps = every(storage)[::-1]
    if arguments.job is not None:
        known = [sweep.sweep_id for sweep in sweeps]
        meant = sweep_meant(arguments.job, known)
        if meant is None:
            latest = ", ".join(known[:3]) or "none"
            near = did_you_mean(arguments.job, known)
            raise WrongInput(f"status {arguments.job}: no such sweep in {storage}; the latest are: {latest}.{near}")
        sweeps = [sweep for sweep in sweeps if sweep.sweep_id == meant]
    rows = [asdict(look(sweep)) for sweep in sweeps[:MOST_SHOWN]]
    text = sys.stderr if arguments.json == "-" else sys.stdout
    for line in table(["sweep_id", "state", "ended", "left", "started", "process"], rows):
        print(line, file=text)
    if len(sweeps) > MOST_SHOWN:
        print(f"and {len(sweeps) - MOST_SHOWN} earlier ones: `list runs` shows them", file=text)
    if any(row["state"] == "unfinished" for row in rows):
        print("unfinished: the same command again goes on from there", file=text)
    write_json(arguments.json, {"sweeps": rows})
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
