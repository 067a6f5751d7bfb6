"""Missing stores and unknown sweeps."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from port_kit import free_port
from tracking_kit import EXPERIMENT, MakeTracker, opened_fixture, settle, shared_store_fixture, sweep_id_fixture  # noqa: F401 (fixtures)

from tune.common.address import redacted_text
from tune.tracking.reader import list_sweeps, read_sweep
from tune.tracking.store import TrackingError, check_store

# SQLAlchemy 2.1 warns about MLflow 3.17's imports.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
REPO_ROOT = Path(__file__).resolve().parents[3]


def test_an_unknown_sweep_names_the_latest_ones(opened: MakeTracker, shared_store: str, sweep_id: str) -> None:
    settle(opened())
    for meant in ("last", sweep_id[:-1]):
        assert read_sweep(shared_store, EXPERIMENT, meant).sweep_id == sweep_id
    with pytest.raises(TrackingError, match=rf"no sweep 'nope' in experiment 'patchtst'; the latest are {sweep_id}"):
        read_sweep(shared_store, EXPERIMENT, "nope")
    with pytest.raises(TrackingError, match="there is no experiment 'other'.*'patchtst'"):
        read_sweep(shared_store, "other", sweep_id)
    assert list_sweeps(shared_store, EXPERIMENT, limit=1)[0].sweep_id == sweep_id


@pytest.mark.parametrize(
    "ask", [lambda uri: read_sweep(uri, EXPERIMENT, "s"), lambda uri: list_sweeps(uri, EXPERIMENT)]
)
def test_reading_a_missing_store_creates_nothing(tmp_path: Path, ask: Callable[[str], object]) -> None:
    with pytest.raises(TrackingError, match="there is no MLflow store at .*mlflow.db yet"):
        ask(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.1:{port}", "does not answer .*refused"),
        ("postgresql+psycopg2://u:secret@127.0.0.1:{port}/mlflow", "does not answer .*refused"),
        ("sqlite:///{tmp}/none/mlflow.db", "folder .*none does not exist"),
        ("./mlruns", "names a folder, which MLflow no longer writes to"),
        ("http://[not-a-host", "is not an address"),
        ("http://localhost:99999", "is not an address"),
        ("htp://localhost:5000", "allowed are http, https, sqlite, postgresql"),
    ],
)
def test_a_store_that_does_not_answer_is_reported_in_one_line(tmp_path: Path, uri: str, expected: str) -> None:
    with pytest.raises(TrackingError, match=expected) as caught:
        check_store(uri.format(port=free_port(), tmp=tmp_path), timeout_s=2)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(TrackingError, match="does not answer"):
        check_store(f"http://127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TrackingError, match="not writable"):
        check_store(f"sqlite:///{tmp_path}/mlflow.db")


def test_no_password_reaches_a_message_or_a_file(opened: MakeTracker, tmp_path: Path) -> None:
    tracker = opened(uri=f"http://user:secret@127.0.0.1:{free_port()}")
    while tracker.outage is None:
        time.sleep(0.01)
    assert "secret" not in tracker.outage + "".join(tracker.problems)
    tracker.close(0)
    assert not [file for file in tmp_path.iterdir() if file.is_file() and "secret" in file.read_text()]
    assert redacted_text("see http://a:b@host:1/x?token=c now") == "see http://host:1/x now"


def test_the_start_of_an_outage_is_announced_at_once_and_once(opened: MakeTracker) -> None:
    uri, said = f"http://127.0.0.1:{free_port()}", []
    tracker = opened(uri=uri, begin=False)
    tracker.announce_outages(said.append)
    tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={})
    while tracker.outage is None:
        time.sleep(0.01)
    tracker.flush(2.5)  # it retries every second meanwhile
    assert len(said) == 1 and said[0].startswith(f"MLflow store {uri} cannot be written: ")


def test_the_tracking_modules_import_no_mlflow() -> None:
    code = (
        "import sys, tune.tracking.tracker; sys.exit(bool({'mlflow', 'sqlalchemy', 'torch', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, check=False).returncode == 0
