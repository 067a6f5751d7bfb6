"""`--submit`, `status`, `logs` and `stop`: sweeps that run as jobs of a cluster, whoever's terminal is open."""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_pipeline.datasets import FILE_ENDINGS
from tune.cluster.job_bundle import CONFIG, packed
from tune.cluster.job_server import ENDED, STOP_S, Job, JobServer
from tune.commands.parser import Parser, _add_shared, _add_tracking_uri
from tune.common.address import has_password, redacted, sqlite_file
from tune.common.errors import DONE, INTERRUPTED, WrongInput, printable
from tune.common.process import user_name
from tune.config.request import build_request
from tune.config.yaml_file import read_config
from tune.console.output import check_json_target, write_json
from tune.console.text import table
from tune.tracking.reader import JobProgress, progress_of_jobs
from tune.tracking.store import PROJECT, TrackingError


def status_parser() -> Parser:
    parser = Parser(prog="experiments.py status", description="The sweeps sent to a cluster.", allow_abbrev=False)
    _add_job(parser, "this one only")
    _add_shared(parser)
    return parser


def logs_parser() -> Parser:
    text = "What a sweep on a cluster has printed."
    parser = Parser(prog="experiments.py logs", description=text, allow_abbrev=False)
    _add_job(parser, "whose (default: your only one that runs)")
    parser.add_argument("-f", "--follow", action="store_true", help="and what it prints until it ends")
    _add_tracking_uri(parser)
    return parser


def stop_parser() -> Parser:
    text = "Interrupt a sweep on a cluster, so that its command can go on later; it is killed after 90 s."
    parser = Parser(prog="experiments.py stop", description=text, allow_abbrev=False)
    _add_job(parser, "which (default: your only one that runs)")
    _add_tracking_uri(parser)
    return parser


def _add_job(parser: Parser, which: str) -> None:
    parser.add_argument("job", nargs="?", metavar="JOB_OR_SWEEP_ID", help=which)
    text = "the cluster's job server, http://HOST:8265 (default RAY_API_SERVER_ADDRESS)"
    parser.add_argument("--cluster", metavar="URL", help=text)


SENT = ("MLFLOW_TRACKING_URI",)  # variables that travel, in clear; everything else is the cluster's own
SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
HERE_ONLY = ("plan", "json", "save_config", "address")  # options that mean nothing, or another machine, over there


def submit(arguments: argparse.Namespace) -> int:
    """Send the sweep to a job server and follow it; its own exit code, or 130 once it is no longer followed."""
    request = build_request(arguments)
    env = _sent_environment(arguments)
    words = command_there(arguments)
    config = None if arguments.config is None else config_there(arguments.config)
    server = JobServer(arguments.submit, option="--submit")
    job_id = f"{request.sweep.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    with packed(config) as folder:
        server.submit(words, job_id=job_id, folder=folder, user=user_name(), sweep=request.sweep.name, env=env)
    print(f"job {job_id} runs the {request.sweep.name} sweep at {server.url}", file=sys.stderr)
    return _follow(server, job_id)


def command_there(arguments: argparse.Namespace) -> list[str]:
    """The arguments of the same command on the cluster. WrongInput for what means nothing there."""
    for name in HERE_ONLY:
        if getattr(arguments, name):
            option = f"--{name.replace('_', '-')}"
            hint = "; `experiments.py report SWEEP_ID --json FILE` writes it" if name == "json" else ""
            raise WrongInput(f"--submit and {option}: {option} is for a sweep run from here; leave one out{hint}")
    changes: dict[str, list[str]] = {"--submit": []}
    storage = _there("--storage-path", arguments.storage_path)
    if "--data-dir" not in [word.partition("=")[0] for word in arguments.words]:
        data_dir = ["--data-dir", str(storage / "data")]
    else:
        _there("--data-dir", arguments.data_dir)
        data_dir = []
    if arguments.dataset is not None and arguments.dataset.endswith(FILE_ENDINGS):
        _there("--dataset", Path(arguments.dataset))
    if arguments.config is not None:
        changes["--config"] = ["--config", CONFIG]
    return [*replaced(arguments.words, changes), *data_dir, "--address", "auto"]


def replaced(words: Sequence[str], changes: Mapping[str, list[str]]) -> list[str]:
    """Command line words with other ones for options that take a value, written `--x V` or `--x=V`."""
    kept: list[str] = []
    at = 0
    while at < len(words):
        name, joined, _ = words[at].partition("=")
        if name in changes:
            kept += changes[name]
            at += 1 if joined else 2
        else:
            kept.append(words[at])
            at += 1
    return kept


def config_there(file: Path) -> dict[str, Any]:
    """A configuration file's content, fit for another folder. WrongInput for a data file that may not be there."""
    content = read_config(file)
    dataset = content.get("dataset")
    if isinstance(dataset, str) and dataset.endswith(FILE_ENDINGS):
        _there(f"--config {file}: dataset", Path(dataset))
    return content


def _there(option: str, path: Path) -> Path:
    """A path of the cluster. WrongInput for a relative one, which would end with the job's own folder."""
    if not path.is_absolute():
        raise WrongInput(
            f"--submit with {option} {path}: the sweep runs elsewhere; give {option} as an absolute path that all "
            "nodes of the cluster share"
        )
    return path


def _sent_environment(arguments: argparse.Namespace) -> dict[str, str]:
    """The variables that travel. WrongInput without a store that can be named in clear and reached from there."""
    env = {name: os.environ[name] for name in SENT if os.environ.get(name)}
    uri = arguments.tracking_uri or env.get("MLFLOW_TRACKING_URI")
    if uri is None:
        raise WrongInput(
            "--submit without a store: give --tracking-uri, or set MLFLOW_TRACKING_URI, the address of the MLflow "
            "server as the cluster sees it"
        )
    if has_password(uri):
        raise WrongInput(
            f"MLFLOW_TRACKING_URI {redacted(uri)} has a user or password in it, which a job's record would show; set "
            "it here without them, and them in the cluster's own environment"
        )
    if uri.startswith("sqlite"):
        path = uri.partition(":///")[2]
        if not path.startswith("/"):
            raise WrongInput(f"--submit with {uri}: write an absolute path, sqlite:///{sqlite_file(uri)}")
    if left := [name for name in SECRETS if name in os.environ]:
        print(f"not sent: {', '.join(left)}; they have to be in the cluster's own environment", file=sys.stderr)
    return {} if arguments.tracking_uri else env


def status(arguments: argparse.Namespace, tracking_uri: str) -> int:
    """`status`: every sweep sent to the cluster, or one, with how far it is where the user's own store knows it."""
    check_json_target(arguments.json)
    server = _server(arguments)
    jobs = [job for job in server.jobs() if job.sweep is not None]
    if arguments.job is not None:
        jobs = [_find(server, jobs, arguments.job, tracking_uri)]
    known = _progress(jobs, tracking_uri)
    rows = [_row(job, known.get(job.job_id)) for job in jobs]
    text = sys.stderr if arguments.json == "-" else sys.stdout
    for line in table(["job", "user", "sweep", "state", "ended", "left", "started"], rows):
        print(line, file=text)
    write_json(arguments.json, {"jobs": rows})
    return DONE


def logs(arguments: argparse.Namespace, tracking_uri: str) -> int:
    """`logs`: what a job has printed; with --follow until it ends, and then its exit code."""
    server = _server(arguments)
    job = _find(server, server.jobs(), arguments.job, tracking_uri)
    if arguments.follow:
        return _follow(server, job.job_id)
    _write(server.logs(job.job_id))
    return DONE


def stop(arguments: argparse.Namespace, tracking_uri: str) -> int:
    """`stop`: interrupt a job, wait for its end. WrongInput for one that has ended."""
    server = _server(arguments)
    job = _find(server, server.jobs(), arguments.job, tracking_uri)
    if job.state in ENDED:
        raise WrongInput(f"{job.job_id} is not running: it is {job.state}; see `experiments.py status`")
    shown = printable(job.job_id)
    print(f"stopping {shown}, which may take up to {STOP_S} s", file=sys.stderr)
    job = server.stop(job.job_id)
    if job.state not in ENDED:
        raise WrongInput(f"{job.job_id} was told to stop and is still {job.state}; see `experiments.py logs`")
    print(f"{shown} is {job.state}; the same command again goes on from there")
    return DONE


def _server(arguments: argparse.Namespace) -> JobServer:
    url = arguments.cluster or os.environ.get("RAY_API_SERVER_ADDRESS")
    if url is None:
        raise WrongInput("give --cluster http://HOST:8265, the cluster's job server, or set RAY_API_SERVER_ADDRESS")
    return JobServer(url, option="--cluster" if arguments.cluster else "RAY_API_SERVER_ADDRESS")


def _find(server: JobServer, jobs: Sequence[Job], wanted: str | None, tracking_uri: str) -> Job:
    """The job of this id, or the latest that ran the sweep of this id; without one the user's only one that runs."""
    if wanted is not None:
        if not any(job.job_id == wanted for job in jobs):
            known = _progress(jobs, tracking_uri)
            theirs = [job for job in jobs if job.job_id in known and known[job.job_id].sweep_id == wanted]
            if theirs:
                return theirs[-1]
        return server.job(wanted)
    mine = [job for job in jobs if job.sweep is not None and job.user == user_name() and job.state not in ENDED]
    if len(mine) != 1:
        names = ", ".join(job.job_id for job in mine) or "none"
        raise WrongInput(f"which job? of yours that run: {names}; give the id of one, see `experiments.py status`")
    return mine[0]


def _progress(jobs: Sequence[Job], tracking_uri: str) -> dict[str, JobProgress]:
    """Only the user's own store is asked, with the user's credentials: an address in a job's record is anybody's."""
    if not jobs:
        return {}
    try:
        return progress_of_jobs(tracking_uri, PROJECT, [job.job_id for job in jobs])
    except TrackingError as error:
        print(f"how far the sweeps are is not known: {error}", file=sys.stderr)
        return {}


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


def _follow(server: JobServer, job_id: str) -> int:
    """Show what a job prints until it ends: its exit code. Ctrl-C leaves the job alone."""
    shown = printable(job_id)
    try:
        job = server.follow(job_id, _write)
    except KeyboardInterrupt:
        where = f"{shlex.quote(shown)} --cluster {shlex.quote(server.url)}"
        print(
            f"\n{shown} goes on; follow it: experiments.py logs -f {where}; how far it is: experiments.py status "
            f"{where}; stop it: experiments.py stop {where}",
            file=sys.stderr,
        )
        return INTERRUPTED
    if job.state not in ENDED:
        raise WrongInput(f"{server.url} ended the log of {job_id}, which is {job.state}; see `experiments.py status`")
    code = job.shell_code
    end = job.state if job.exit_code is None else f"{job.state} with exit code {code}"
    print(f"{shown} is {end}", file=sys.stderr)
    return code


def _write(text: str) -> None:
    """What others have printed, without what would command a terminal."""
    sys.stdout.write("".join(letter for letter in text if letter.isprintable() or letter in "\n\t"))
    sys.stdout.flush()
