"""What the commands for a cluster's jobs share (--submit, status, logs, stop): the server, one job, its output."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from tune.cluster.job_server import ENDED, Job, JobServer
from tune.commands.parser import Parser
from tune.common.errors import INTERRUPTED, WrongInput, printable
from tune.common.process import user_name
from tune.common.program import PROGRAM
from tune.tracking.reader import JobProgress, progress_of_jobs
from tune.tracking.store import PROJECT, TrackingError


def add_job(parser: Parser, which: str) -> None:
    parser.add_argument("job", nargs="?", metavar="JOB_OR_SWEEP_ID", help=which)
    text = "the cluster's job server, http://HOST:8265 (default RAY_API_SERVER_ADDRESS)"
    parser.add_argument("--cluster", metavar="URL", help=text)


def has_cluster(arguments: argparse.Namespace) -> bool:
    """Whether the command line or the environment names a job server."""
    return bool(arguments.cluster or os.environ.get("RAY_API_SERVER_ADDRESS"))


def job_server(arguments: argparse.Namespace) -> JobServer:
    url = arguments.cluster or os.environ.get("RAY_API_SERVER_ADDRESS")
    if url is None:
        raise WrongInput("give --cluster http://HOST:8265, the cluster's job server, or set RAY_API_SERVER_ADDRESS")
    return JobServer(url, option="--cluster" if arguments.cluster else "RAY_API_SERVER_ADDRESS")


def find_job(server: JobServer, jobs: Sequence[Job], wanted: str | None, store: str) -> Job:
    """The job with the id `wanted`, or the latest job of the sweep with that id; None: the user's only running job."""
    if wanted is not None:
        if not any(job.job_id == wanted for job in jobs):
            known = job_progress(jobs, store)
            theirs = [job for job in jobs if job.job_id in known and known[job.job_id].sweep_id == wanted]
            if theirs:
                return theirs[-1]
        return server.job(wanted)
    mine = [job for job in jobs if job.sweep is not None and job.user == user_name() and job.state not in ENDED]
    if len(mine) != 1:
        names = ", ".join(job.job_id for job in mine) or "none"
        raise WrongInput(f"which job? your running jobs: {names}; give the id of one, see `{PROGRAM} status`")
    return mine[0]


def job_progress(jobs: Sequence[Job], store: str) -> dict[str, JobProgress]:
    """The progress of each job by its id, from the user's own store.

    Addresses in the jobs' records are never asked: anybody can write them, and they would get the user's credentials.
    """
    if not jobs:
        return {}
    try:
        return progress_of_jobs(store, PROJECT, [job.job_id for job in jobs])
    except TrackingError as error:
        print(f"the progress of the sweeps is not known: {error}", file=sys.stderr)
        return {}


def follow(server: JobServer, job_id: str) -> int:
    """Show a job's output until the job ends, and return its exit code. Ctrl-C ends only the showing."""
    shown = printable(job_id)
    try:
        job = server.follow(job_id, write_log)
    except KeyboardInterrupt:
        where = f"{shlex.quote(shown)} --cluster {shlex.quote(server.url)}"
        print(
            f"\n{shown} goes on; follow it: {PROGRAM} logs -f {where}; its progress: {PROGRAM} status "
            f"{where}; stop it: {PROGRAM} stop {where}",
            file=sys.stderr,
        )
        return INTERRUPTED
    if job.state not in ENDED:
        raise WrongInput(f"{server.url} ended the log of {job_id}, which is {job.state}; see `{PROGRAM} status`")
    code = job.shell_code
    end = job.state if job.exit_code is None else f"{job.state} with exit code {code}"
    print(f"{shown} is {end}", file=sys.stderr)
    return code


def write_log(text: str) -> None:
    """Write the output of a job without its control characters, which would command the terminal."""
    sys.stdout.write("".join(letter for letter in text if letter.isprintable() or letter in "\n\t"))
    sys.stdout.flush()
