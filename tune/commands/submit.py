"""`--submit`: run a sweep as a job of a cluster, which needs no open terminal."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_pipeline.datasets import is_path
from tune.cluster.job_bundle import CONFIG, packed
from tune.cluster.job_server import JobServer
from tune.commands.jobs import follow
from tune.common import signals
from tune.common.address import has_password, redacted, sqlite_file
from tune.common.errors import WrongInput
from tune.common.process import user_name
from tune.common.program import PROGRAM
from tune.config.request import build_request
from tune.config.yaml_file import ConfigFile, read_config

SENT = ("MLFLOW_TRACKING_URI",)  # variables that are sent, in clear; all others are the cluster's own
SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
HERE_ONLY = ("plan", "json", "csv", "save_config", "address")  # options of a sweep that is run from this machine


def submit(arguments: argparse.Namespace) -> int:
    """Send the sweep to a job server and follow it. Returns its exit code, or 130 after Ctrl-C."""
    file = None if arguments.config is None else read_config(arguments.config)
    request = build_request(arguments, file)
    env = _sent_environment(arguments)
    words = command_there(arguments)
    config = None if file is None else config_there(file)
    server = JobServer(arguments.submit, option="--submit")
    job_id = f"{request.sweep.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    with packed(config) as folder, signals.deferred(patient=False):  # else nobody would be told of the job
        server.submit(words, job_id=job_id, folder=folder, user=user_name(), sweep=request.sweep.name, env=env)
    print(f"job {job_id} runs the {request.sweep.name} sweep at {server.url}", file=sys.stderr)
    return follow(server, job_id)


def command_there(arguments: argparse.Namespace) -> list[str]:
    """The arguments of the same command on the cluster. WrongInput for options that have no meaning there."""
    for name in HERE_ONLY:
        if getattr(arguments, name):
            option = f"--{name.replace('_', '-')}"
            hint = f"; `{PROGRAM} report SWEEP_ID --json FILE` writes it" if name == "json" else ""
            raise WrongInput(f"--submit and {option}: {option} is for a sweep run from here; leave one out{hint}")
    changes: dict[str, list[str]] = {"--submit": []}
    storage = _shared_path("--storage-path", arguments.storage_path)
    if "--data-dir" not in [word.partition("=")[0] for word in arguments.words]:
        data_dir = ["--data-dir", str(storage / "data")]
    else:
        _shared_path("--data-dir", arguments.data_dir)
        data_dir = []
    if arguments.dataset is not None and is_path(arguments.dataset):
        _shared_path("--dataset", Path(arguments.dataset))
    if arguments.config is not None:
        changes["--config"] = ["--config", CONFIG]
    return [*replaced(arguments.words, changes), *data_dir, "--address", "auto"]


def replaced(words: Sequence[str], changes: Mapping[str, list[str]]) -> list[str]:
    """The command line `words` with `changes`: option, written `--x V` or `--x=V`, -> the words in its place."""
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


def config_there(file: ConfigFile) -> Mapping[str, Any]:
    """The content of a configuration file. WrongInput for a data file by a relative path."""
    dataset = file.content.get("dataset", file.content.get("set", {}).get("data.dataset"))
    if isinstance(dataset, str) and is_path(dataset):
        _shared_path(f"--config {file.path}: dataset", Path(dataset))
    return file.content


def _shared_path(option: str, path: Path) -> Path:
    """`path`, on the cluster. WrongInput for a relative path, which would lie in the job's own temporary folder."""
    if not path.is_absolute():
        raise WrongInput(
            f"--submit with {option} {path}: the sweep runs elsewhere; give {option} as an absolute path that all "
            "nodes of the cluster share"
        )
    return path


def _sent_environment(arguments: argparse.Namespace) -> dict[str, str]:
    """The variables to send. WrongInput without a store that the cluster can reach without a secret in clear."""
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
