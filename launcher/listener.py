"""Who listens on a port of this machine: the program of a pid file, or another one.

python -m launcher.listener PID_FILE PORT    exit code 0: ours; 1: another, in one line on stderr; 3: nobody listens

A program that answers on a port need not be the server that was started there. Only that server may get its password.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

OURS, ANOTHER, WRONG, NOBODY = 0, 1, 2, 3
HOST = "127.0.0.1"


def holds(pid_file: Path, port: int) -> bool:
    """Whether the process of the file, or a descendant of it, is alive and listens on this port of 127.0.0.1."""
    try:
        root = psutil.Process(int(pid_file.read_text()))
        return any(_listens(process, port) for process in [root, *root.children(recursive=True)])
    except (OSError, ValueError, psutil.Error):  # no file, no number, no such process any more
        return False


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        connections = process.net_connections(kind="tcp") if process.uids().real == os.getuid() else []
    except psutil.Error:  # gone
        return False
    return any(
        connection.status == psutil.CONN_LISTEN and connection.laddr == (HOST, port) for connection in connections
    )


def somebody_listens(port: int) -> bool:
    """Whether anything takes connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(5.0)
        return probe.connect_ex((HOST, port)) == 0


def main(arguments: Sequence[str]) -> int:
    """Tell who listens on the port, as an exit code."""
    if len(arguments) != 2 or not arguments[1].isdecimal():
        print("error: write python -m launcher.listener PID_FILE PORT", file=sys.stderr)
        return WRONG
    pid_file, port = Path(arguments[0]), int(arguments[1])
    if holds(pid_file, port):
        return OURS
    if not somebody_listens(port):
        return NOBODY
    print(
        f"error: port {port} is in use by another program than the MLflow server of {pid_file}; end that program, or "
        "set MLFLOW_PORT to a free port",
        file=sys.stderr,
    )
    return ANOTHER


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
