"""`stop`: interrupt a sweep on a cluster."""

from __future__ import annotations

import argparse
import sys

from tune.cluster.job_server import ENDED, STOP_S
from tune.commands.jobs import add_job, find_job, job_server
from tune.commands.parser import Parser, add_tracking_uri, tracking_uri
from tune.common.errors import DONE, WrongInput, printable
from tune.common.program import PROGRAM


def parser() -> Parser:
    text = "Interrupt a sweep on a cluster; the same command resumes it later. It is killed after 90 s."
    parser = Parser(prog=f"{PROGRAM} stop", description=text, allow_abbrev=False)
    add_job(parser, "the job or sweep (default: your only running job)")
    add_tracking_uri(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Interrupt a job and wait for its end. WrongInput for one that has ended."""
    server = job_server(arguments)
    job = find_job(server, server.jobs(), arguments.job, tracking_uri(arguments))
    if job.state in ENDED:
        raise WrongInput(f"{job.job_id} is not running: it is {job.state}; see `{PROGRAM} status`")
    shown = printable(job.job_id)
    print(f"stopping {shown}, which may take up to {STOP_S} s", file=sys.stderr)
    job = server.stop(job.job_id)
    if job.state not in ENDED:
        raise WrongInput(f"{job.job_id} was interrupted and is still {job.state}; see `{PROGRAM} logs`")
    print(f"{shown} is {job.state}; the same command again goes on from there")
    return DONE
