"""cluster.local.yaml for real: `ray up`, a sweep on it, `ray down`, on two machines of the loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_kit import ADDRESSES, ROOT, Machines, lacking, need_system

from tune.tracking.reader import read_sweep
from tune.tracking.store import PROJECT

HEAD, *WORKERS = ADDRESSES
WITH_MLFLOW = "~/patchtst-sweeps/launcher/with-mlflow"
SWEEP = "python experiments.py --sweep custom --dataset demo --epochs 1 --set model.d_model=16 --gpus-per-trial 0"


@pytest.fixture
def machines() -> Iterator[Machines]:
    need_system(*lacking())
    folder = Path(tempfile.mkdtemp(prefix="up-", dir="/tmp"))  # short: ssh makes a socket in it
    try:
        with Machines(folder) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_filled_in(machines: Machines) -> Path:
    """The file with what a user replaces in it; nothing else of it is changed."""
    text = (ROOT / "cluster.local.yaml").read_text()
    for old, new in {
        "head_ip: REPLACE-ME": f"head_ip: {HEAD}",
        "worker_ips: [REPLACE-ME]": f"worker_ips: [{', '.join(WORKERS)}]",
        "ssh_user: REPLACE-ME": "ssh_user: root",
        "~/.ssh/REPLACE-ME": str(machines.folder / "key"),
        '"."': f'"{ROOT}"',
        "/shared": str(machines.folder / "shared"),
    }.items():
        assert old in text
        text = text.replace(old, new)
    file = machines.folder / "user" / "cluster.local.yaml"
    file.write_text(text)
    return file


def ray_runs(machines: Machines, address: str) -> bool:
    node = f"--node_ip_address={address}"
    return any(node in process.cmdline() for process in machines.processes() if process.name() == "raylet")


def on_the_head(machines: Machines, file: Path, command: str) -> subprocess.CompletedProcess[str]:
    return machines.run("ray", "exec", str(file), command, timeout_s=500)


def what_happened(machines: Machines, done: subprocess.CompletedProcess[str]) -> str:
    logs = [machines.home(HEAD) / ".patchtst-sweeps" / "mlflow.log"]
    logs += sorted((machines.folder / HEAD / "ray").glob("session_2*/logs/monitor.*"))
    tails = [f"--- {log}\n{log.read_text()[-3000:]}" for log in logs if log.exists()]
    return "\n".join([done.stdout[-6000:], done.stderr[-3000:], *tails])


def refuses_strangers(machines: Machines, file: Path) -> None:
    """Neither MLflow nor Ray answers without credentials; both do with them, and secrets are their owner's only."""
    address = "http://127.0.0.1:5000/api/2.0/mlflow/experiments/search?max_results=1"
    health = f"ray health-check --address {HEAD}:6379"
    asked = {
        "anonymous": f"curl -s -o /dev/null -w %{{http_code}} '{address}'",
        "admin": f"{WITH_MLFLOW} sh -c 'curl -s -o /dev/null -w %{{http_code}} "
        f'-u "admin:$MLFLOW_TRACKING_PASSWORD" "{address}"\'',
        "stranger": f"HOME=/ RAY_AUTH_MODE=disabled ~/patchtst-sweeps/.venv/bin/{health} > /dev/null 2>&1; echo -n $?",
        "member": f"~/patchtst-sweeps/launcher/run {health} > /dev/null 2>&1; echo -n $?",
        "modes": "stat -c %a ~/.ray/auth_token ~/.patchtst-sweeps ~/.patchtst-sweeps/admin-password | tr '\\n' ,",
    }
    done = on_the_head(machines, file, "; ".join(f"echo -n '{name}='; {text}; echo" for name, text in asked.items()))
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if line.partition("=")[0] in asked)
    assert said["anonymous"] == "401" and said["admin"] == "200", what_happened(machines, done)
    assert said["stranger"] != "0" and said["member"] == "0", what_happened(machines, done)
    assert said["modes"] == "600,700,600,"


def runs_a_sweep(machines: Machines, file: Path) -> None:
    """At once after `ray up`: the workers have not joined yet, and the sweep waits for them."""
    shared = machines.folder / "shared"
    options = f"--address auto --data-dir {shared}/data --storage-path {shared}/runs --json {shared}/result.json"
    done = on_the_head(machines, file, f"{WITH_MLFLOW} {SWEEP} {options}")
    assert done.returncode == 0, what_happened(machines, done)
    result = json.loads((shared / "result.json").read_text())
    (trial,) = result["trials"]
    assert trial["status"] == "done"
    store = f"sqlite:///{machines.home(HEAD)}/.patchtst-sweeps/mlflow.db"
    (recorded,) = read_sweep(store, PROJECT, result["sweep_id"]).trials
    assert recorded.metrics["final/test_mse"] == trial["metrics"]["final/test_mse"]
    assert list((machines.home(HEAD) / ".patchtst-sweeps" / "artifacts").rglob("report.html"))


def test_what_is_missing_skips_with_its_reason_and_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None if name == "sshd" else name)
    assert lacking() == ["no sshd (install openssh-server)"]
    monkeypatch.delenv("REQUIRE_SYSTEM", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no sshd"):
        need_system(*lacking())
    monkeypatch.setenv("REQUIRE_SYSTEM", "1")
    with pytest.raises(pytest.fail.Exception, match="no sshd .*; REQUIRE_SYSTEM=1 allows no skip"):
        need_system(*lacking())


@pytest.mark.timeout(1200)
def test_ray_up_then_a_sweep_on_its_workers_whose_results_are_in_its_mlflow_then_ray_down(machines: Machines) -> None:
    file = as_filled_in(machines)
    token = machines.run("make", "-o", ".venv/.runtime", "cluster-token", f"BIN={Path(sys.executable).parent}")
    assert token.returncode == 0, token.stderr
    lint = machines.run("python", "-m", "launcher.lint", str(file))
    assert (lint.returncode, lint.stdout) == (0, ""), lint.stderr

    up = machines.run("ray", "up", "--yes", str(file), timeout_s=500)
    assert up.returncode == 0, what_happened(machines, up)
    refuses_strangers(machines, file)
    runs_a_sweep(machines, file)

    assert all(ray_runs(machines, address) for address in WORKERS)

    down = machines.run("ray", "down", "--yes", str(file))
    assert down.returncode == 0, what_happened(machines, down)
    assert not ray_runs(machines, HEAD)
