"""A Ray cluster on this machine: one node with the job server, token authentication, on loopback addresses."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from port_kit import free_port

STARTED_WITHIN_S = 180


@dataclass
class LocalCluster:
    """`environment` is that of the nodes. `clients` holds the variables with which a user gets in."""

    folder: Path
    url: str
    address: str
    environment: dict[str, str]
    clients: dict[str, str]
    node: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        ray = Path(sys.executable).with_name("ray")
        with (self.folder / "node.log").open("ab") as log:
            self.node = subprocess.Popen(
                [str(ray), "start", "--block", "--head", "--num-cpus=1", "--num-gpus=0", *arguments],
                env=self.environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder,
            )  # fmt: skip

    def wait(self) -> None:
        deadline = time.monotonic() + STARTED_WITHIN_S
        while time.monotonic() < deadline:
            assert self.node is not None and self.node.poll() is None, (self.folder / "node.log").read_text()
            try:
                urllib.request.urlopen(f"{self.url}/api/version", timeout=5).close()
                return
            except urllib.error.HTTPError:  # it asks for its token
                return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError((self.folder / "node.log").read_text())

    def stop(self) -> None:
        assert self.node is not None
        self.node.send_signal(signal.SIGTERM)
        try:
            self.node.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self.node.pid, signal.SIGKILL)
            self.node.wait()


@contextmanager
def local_cluster(**variables: str) -> Iterator[LocalCluster]:
    """A cluster of one node with one CPU. `variables` are added to the node's environment.

    Two nodes of one machine would unpack a job's files into the same folder, the second while the job runs there.
    """
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))  # Ray's sockets need a short path
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    clients = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{plain['PATH']}"
    port, dashboard = free_port("127.0.0.10"), free_port()
    ours = {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # as in conftest.py
    cluster = LocalCluster(
        folder=folder, url=f"http://127.0.0.1:{dashboard}", address=f"127.0.0.10:{port}",
        environment={**plain, **clients, **ours, **variables}, clients=clients,
    )  # fmt: skip
    try:
        head = ["--node-ip-address=127.0.0.10", f"--port={port}", f"--temp-dir={folder}/t"]
        head += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true"]
        head += [f"--dashboard-agent-listen-port={free_port('127.0.0.10')}"]
        cluster.start(*head)
        cluster.wait()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
