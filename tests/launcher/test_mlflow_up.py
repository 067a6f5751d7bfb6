"""launcher/mlflow-up and launcher/with-mlflow: only the server that was started there gets the password."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from port_kit import free_port
from server_kit import ROOT

from launcher import listener

LISTENS = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
time.sleep(120)
"""


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of a program that answers at /health as MLflow does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield http.server_port
        http.shutdown()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """~/.patchtst-sweeps after mlflow-up: the process of its pid file lives, but another one listens."""
    folder = tmp_path / ".patchtst-sweeps"
    folder.mkdir(mode=0o700)
    (folder / "admin-password").write_text("canary")
    with subprocess.Popen(["sleep", "300"]) as other:
        (folder / "mlflow.pid").write_text(f"{other.pid}\n")
        yield folder
        other.kill()


def call(state: Path, script: str, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [str(ROOT / "launcher" / script), *arguments],
        env={"HOME": str(state.parent), "PATH": path, "MLFLOW_PORT": str(port)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("script", ["mlflow-up", "with-mlflow"])
def test_another_program_on_the_port_is_reported_in_one_line_and_gets_no_password(
    script: str, state: Path, stranger: int
) -> None:
    done = call(state, script, stranger, "env")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: port {stranger} is in use by another program") and "MLFLOW_PORT" in line


def test_if_nobody_listens_the_command_does_not_run_and_the_message_says_what_to_do(state: Path) -> None:
    port = free_port()
    done = call(state, "with-mlflow", port, "env")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: no MLflow server listens on port {port}: run launcher/mlflow-up\n"


def test_the_started_server_is_recognised_by_its_process_or_a_child_of_it(state: Path) -> None:
    port = free_port()
    command = f'"{sys.executable}" -c "$0" {port}; true'  # the shell stays, as make does
    with subprocess.Popen(["sh", "-c", command, LISTENS], stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None and started.stdout.readline() == "ready\n"
            (state / "mlflow.pid").write_text(f"{started.pid}\n")
            assert listener.main([str(state / "mlflow.pid"), str(port)]) == listener.OURS
            done = call(state, "with-mlflow", port, "env")
            variables = dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("MLFLOW_"))
            assert variables["MLFLOW_TRACKING_URI"] == f"http://127.0.0.1:{port}"
            assert (variables["MLFLOW_TRACKING_USERNAME"], variables["MLFLOW_TRACKING_PASSWORD"]) == ("admin", "canary")
            assert not listener.holds(state / "mlflow.pid", port + 1)
        finally:
            for process in listener.psutil.Process(started.pid).children(recursive=True):
                process.kill()


def test_a_server_that_ends_at_once_is_reported_without_waiting(state: Path, tmp_path: Path) -> None:
    """Here `make` fails."""
    (tmp_path / "bin").mkdir()
    make = tmp_path / "bin" / "make"
    make.write_text("#!/bin/sh\nexit 2\n")
    make.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / "launcher" / "mlflow-up")],
        env={"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
             "MLFLOW_PORT": str(free_port())},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: the MLflow server has ended, or does not answer")
