"""Access to an MLflow store before a sweep starts: what stops the sweep, and what does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from port_kit import free_port

from tune.config.sweeps import get_sweep
from tune.driver import run
from tune.driver.options import Options
from tune.driver.run import run_sweep
from tune.plan.planner import Planner
from tune.tracking.access import check_access
from tune.tracking.store import PROJECT, TrackingError


@dataclass
class Answering:
    """A server that answers /health, and every other call with `status`; None: never."""

    status: int | None = 200
    text: str = "{}"
    asked: list[str] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Answering:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked.append(self.path)
                if self.path != "/health" and fake.status is None:
                    fake.let_go.wait(60)
                self.send_response(200 if self.path == "/health" else fake.status or 200)
                self.send_header("Content-Length", str(len(fake.text)))
                self.end_headers()
                self.wfile.write(fake.text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.let_go.set()
        self.http.shutdown()
        self.http.server_close()


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


def test_a_server_that_grants_access_is_called_once_and_nothing_is_printed(server: Answering) -> None:
    server.text = '{"experiment": {"experiment_id": "1", "name": "patchtst-sweeps"}}'
    assert said(server.uri) == []
    assert len(server.asked) == 1 and "get-by-name" in server.asked[0]


def test_a_slow_or_failing_server_is_reported_and_the_sweep_may_start(server: Answering) -> None:
    server.status, server.text = 400, "a bad day"
    (line,) = said(server.uri)
    assert "cannot be read now" in line and "a bad day" in line
    server.status = None
    (line,) = said(server.uri, timeout_s=0.5)
    assert line.endswith("is slow: no answer within 0.5 s; until it answers, records wait")


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
