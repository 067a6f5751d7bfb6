"""SIGKILL of a driver while MLflow makes the tables of a new SQLite store."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_kit import Faults, soaking

from tune.machine.code_identity import REPO_ROOT
from tune.tracking.store import open_client

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
KILLS = 2 if soaking() else 1
OPEN = "import sys; from tune.tracking.store import open_client; open_client(sys.argv[1])"


def _killed_while_it_opens(store: Path, moments: Faults) -> str:
    """Kill a process that opens a new store, at a random moment after it has begun to make it."""
    command = [sys.executable, "-W", "ignore", "-c", OPEN, f"sqlite:///{store}"]
    process = subprocess.Popen(command, cwd=REPO_ROOT, stderr=subprocess.DEVNULL)
    while not list(store.parent.glob("*.db*")) + list(store.parent.glob(".*.db*")):
        assert process.poll() is None
        time.sleep(0.005)
    delay_s = moments.moments.uniform(0.0, 1.0)
    time.sleep(delay_s)
    process.kill()
    process.wait()
    return f"{delay_s:.2f} s after the first file"


def test_a_store_whose_making_was_killed_opens_all_the_same_and_nothing_is_left(tmp_path: Path, faults: Faults) -> None:
    for number in range(KILLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        store = folder / "mlflow.db"
        when = _killed_while_it_opens(store, faults)
        client = open_client(f"sqlite:///{store}")
        experiment = client.create_experiment("after")
        left = [path.name for path in folder.iterdir() if path != store]
        lost = len(left) + (client.get_experiment(experiment).name != "after")
        faults.injected("SIGKILL of the driver while its MLflow store is made", lost=lost, detail=when)
        assert left == [] and lost == 0
