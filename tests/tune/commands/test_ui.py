"""`ui` serves the store of the sweeps, and says in one line what stands in its way."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from port_kit import free_port

from tune.commands.main import main
from tune.commands.ui import HOST

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(name="store")
def store_fixture(tmp_path: Path) -> str:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("patchtst-sweeps")
    return uri


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_it_serves_the_ui_until_it_is_ended(store: str, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, str(ROOT / "experiments.py"), "ui", "--port", str(port), "--tracking-uri", store]
    running = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert running.stdout is not None
    try:
        assert f" at http://{HOST}:{port} (Ctrl-C ends it). Open\n" in running.stdout.readline()
        link = running.stdout.readline().removeprefix("  all sweeps: ").strip()
        assert re.fullmatch(rf"http://{HOST}:{port}/#/experiments/\d+/runs\?workflowType=machine_learning", link)
        assert "MLflow" in _page(f"http://{HOST}:{port}/")
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        running.stdout.close()


@pytest.fixture(autouse=True)
def _this_process_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("it serves the store"))


def _page(address: str) -> str:
    for _ in range(600):
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answers at {address}")


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_a_port_that_another_program_has_is_refused_with_one_that_is_free(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["ui", "--port", str(port), "--tracking-uri", store]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --port {port}: another program has it; give another, such as --port ")


def test_without_a_store_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--tracking-uri", f"sqlite:///{tmp_path / 'none.db'}"]) == 2
    assert "there is no MLflow store" in capsys.readouterr().err


def test_of_a_server_it_says_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--tracking-uri", "http://127.0.0.1:9/"]) == 0  # it is away: no experiment to open
    said = "http://127.0.0.1:9/ is a server and has its own UI. Open\n  all sweeps: http://127.0.0.1:9\n"
    assert capsys.readouterr().out == said
