"""Processes that the tests of `make mlflow-server` need: the server itself, and a PostgreSQL of their own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from port_kit import free_port
from system_kit import skip_for_want_of

from tune.tracking.store import TrackingError, check_store

ROOT = Path(__file__).resolve().parents[2]
STARTED_WITHIN_S = 120


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline:
        if happened():
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise TimeoutError(log.read_text())


class Server:
    """`mlflow server` on a free port of 127.0.0.1, with its store in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + STARTED_WITHIN_S
        while time.monotonic() < deadline:
            try:
                check_store(self.uri, timeout_s=1)
                return
            except TrackingError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.2)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class PrivateServer:
    """What `make mlflow-server` starts, with these variables; its files lie in `folder`, and it starts beside that."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self.log, self.port = folder, folder.parent / f"{folder.name}.log", free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        given = {"SERVER_DIR": str(folder), "PORT": str(self.port), "WORKERS": "1", **variables}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "launcher.mlflow_server"],
                cwd=folder.parent, env={**os.environ, **given, "PYTHONPATH": str(ROOT)},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def password(self) -> str:
        return (self.folder / "admin-password").read_text().strip()

    def wait(self) -> None:
        wait_until(self._answers, self.process, self.log)

    def _answers(self) -> bool:
        try:
            check_store(self.uri, timeout_s=1)
        except TrackingError:
            return False
        return True

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL of Debian, or of the one on the PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    on_path = shutil.which("initdb")
    return installed[-1].parent if installed else Path(on_path).parent if on_path else None


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL on a port of 127.0.0.1 with a password; gives the tracking URI. Root runs it as `postgres`."""
    programs = postgres_programs()
    if programs is None:
        skip_for_want_of("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = "postgres" if os.getuid() == 0 else None
    if user is not None and user not in {entry.pw_name for entry in pwd.getpwall()}:
        skip_for_want_of("PostgreSQL refuses to run as root, and there is no user postgres")
    assert programs is not None
    folder, password, port = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp")), secrets.token_urlsafe(12), free_port()
    password_file = folder / "password"
    password_file.write_text(password)
    if user is not None:
        for path in (folder, password_file):
            shutil.chown(path, user, user)
    data, log = folder / "data", folder.with_suffix(".log")
    make = [str(programs / "initdb"), "-D", str(data), "-U", "sweeps", "-A", "scram-sha-256", "--no-sync"]
    subprocess.run([*make, f"--pwfile={password_file}"], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    run = [str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
    with log.open("wb") as stream:
        process = subprocess.Popen([*run, "-c", "fsync=off"], user=user, cwd=folder, stdout=stream, stderr=stream)
    try:
        wait_until(lambda: "ready to accept connections" in log.read_text(), process, log)
        yield f"postgresql+psycopg2://sweeps:{password}@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGQUIT)  # at once
        process.wait()
        shutil.rmtree(folder)
        log.unlink()
