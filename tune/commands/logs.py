"""`logs`: the output of a sweep on a cluster."""

from __future__ import annotations

import argparse

from tune.commands.jobs import add_job, find_job, follow, job_server, write_log
from tune.commands.parser import Parser, add_tracking_uri, tracking_uri
from tune.common.errors import DONE
from tune.common.program import PROGRAM


def parser() -> Parser:
    text = "Show the output of a sweep on a cluster."
    parser = Parser(prog=f"{PROGRAM} logs", description=text, allow_abbrev=False)
    add_job(parser, "the job or sweep (default: your only running job)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    add_tracking_uri(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print the output of a job so far; with --follow until the job ends, and return its exit code."""
    server = job_server(arguments)
    job = find_job(server, server.jobs(), arguments.job, tracking_uri(arguments))
    if arguments.follow:
        return follow(server, job.job_id)
    write_log(server.logs(job.job_id))
    return DONE
