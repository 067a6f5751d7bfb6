"""`ui`: the MLflow UI over the store of the sweeps, in this terminal."""

from __future__ import annotations

import argparse
import os
import socket
import sys

from tune.commands.parser import Parser, add_tracking_uri, tracking_uri, whole_number
from tune.common.address import is_server, redacted
from tune.common.errors import DONE, WrongInput
from tune.common.program import PROGRAM
from tune.tracking.reader import check_is_there

HOST, PORT = "127.0.0.1", 5000  # of this machine only: the UI has no password
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def parser() -> Parser:
    parser = Parser(prog=f"{PROGRAM} ui", description="Open the MLflow UI over your sweeps.", allow_abbrev=False)
    parser.add_argument("--port", type=whole_number, default=PORT, metavar="N", help=f"(default {PORT})")
    add_tracking_uri(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Serve the store until Ctrl-C; of a server, say its address. WrongInput without a store, and for a taken port."""
    uri = tracking_uri(arguments)
    if is_server(uri):
        print(f"{redacted(uri)} is a server and has its own UI. {_links(uri)}")
        return DONE
    uri = check_is_there(uri)
    check_port(arguments.port)
    address = f"http://{HOST}:{arguments.port}"
    print(f"MLflow UI of {redacted(uri)} at {address} (Ctrl-C ends it). {_links(uri, address)}", flush=True)
    options = ["--host", HOST, "--port", str(arguments.port), "--workers", "1"]
    # in place of this process, so that signals reach MLflow; the address may hold a password, so no option has it
    environment = os.environ | QUIET | {"MLFLOW_BACKEND_STORE_URI": uri}
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "ui", *options], environment)  # nosec B606


def _links(uri: str, address: str = "") -> str:
    """Two lines to open: all sweeps, and the newest one."""
    from tune.tracking.ui_links import latest_sweep, ui_link

    latest = latest_sweep(uri)
    newest = [] if latest is None else [f"  {latest}: {ui_link(uri, latest, address)}"]
    return "\n".join(["Open", f"  all sweeps: {ui_link(uri, None, address)}", *newest])


def check_port(port: int) -> None:
    """Raises WrongInput, with a port that is free, if another program has this one."""
    if not 1 <= port <= 65535:
        raise WrongInput(f"--port {port}: give a number from 1 to 65535")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            return
        except OSError:
            listener.bind((HOST, 0))
            free = listener.getsockname()[1]
    raise WrongInput(f"--port {port}: another program has it; give another, such as --port {free}")
