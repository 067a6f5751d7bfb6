"""Access to an MLflow store before a sweep starts: what stops the sweep, and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from answering_kit import EXPERIMENT, Answering
from port_kit import free_port

from tune.config.sweeps import get_sweep
from tune.driver import run
from tune.driver.options import Options
from tune.driver.run import run_sweep
from tune.plan.planner import Planner
from tune.tracking.access import check_access
from tune.tracking.store import PROJECT, TrackingError, open_client


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering() as answering:
        yield answering


def said(uri: str, timeout_s: float = 20.0) -> list[str]:
    lines: list[str] = []
    check_access(uri, PROJECT, timeout_s, lines.append)
    return lines


@pytest.mark.parametrize(("status", "text"), [(401, "You are not authenticated."), (403, "Permission denied")])
def test_a_server_that_refuses_access_is_reported_in_its_own_words(server: Answering, status: int, text: str) -> None:
    server.status, server.text = status, text
    with pytest.raises(TrackingError, match=f"refuses access: .*{text}.*set MLFLOW_TRACKING_USERNAME"):
        said(server.uri)


def test_a_wrong_password_is_reported_before_ray_starts(
    server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.status, server.text = 401, "no"

    def start(address: str | None) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(run.connect, "connected", start)
    options = Options(storage_path=tmp_path / "runs", tracking_uri=server.uri, data_dir=tmp_path)
    with pytest.raises(TrackingError, match="refuses access"):
        run_sweep(
            Planner(get_sweep("custom"), overrides={}, repeats=1, seed=1),
            options=options,
            show_plan=lambda plan: None,
        )
    assert not list(tmp_path.iterdir())


def test_a_server_that_grants_access_is_asked_for_the_experiment_only_and_nothing_is_printed(server: Answering) -> None:
    server.text = EXPERIMENT
    assert said(server.uri) == []
    assert all("experiments/get-by-name" in path for path in server.asked) and len(server.asked) == 2


def test_a_slow_or_failing_server_is_reported_and_the_sweep_may_start(server: Answering) -> None:
    server.status, server.text = 500, "a bad day"
    (line,) = said(server.uri)
    assert "answers 500 with 'a bad day'; until that has passed, records wait" in line
    server.status = None
    (line,) = said(server.uri, timeout_s=0.5)
    assert line.endswith("is slow: no answer within 0.5 s; until it answers, records wait")


def test_a_deleted_experiment_stops_the_sweep_with_the_command_that_restores_it(new_store: str) -> None:
    client = open_client(new_store)
    number = client.create_experiment(PROJECT)
    client.delete_experiment(number)
    with pytest.raises(TrackingError, match=f"was deleted in MLflow: .* restore --experiment-id {number}"):
        said(new_store)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("mysql://u:canary/x@127.0.0.1:{port}/d", "No module named 'MySQLdb'"),
        ("postgresql+psycopg2://u:canary@127.0.0.1:{port}/d", "[Cc]onnection refused"),
    ],
)
def test_a_database_without_its_driver_or_access_is_reported_at_once(uri: str, reason: str) -> None:
    with pytest.raises(TrackingError, match=f"cannot be opened: .*{reason}") as refused:
        said(uri.format(port=free_port()))
    assert "canary" not in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_no_store_is_reported_and_a_missing_one_is_not_created(tmp_path: Path, new_store: str) -> None:
    assert said(new_store) == []
    assert said(f"sqlite:///{tmp_path}/none.db") == [] and not (tmp_path / "none.db").exists()
    (tmp_path / "other.db").write_text("not a database at all, whatever its name says" * 10)
    with pytest.raises(TrackingError, match="cannot be opened: .*file is not a database"):
        said(f"sqlite:///{tmp_path}/other.db")
