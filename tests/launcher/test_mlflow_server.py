"""`make mlflow-server`: real servers over SQLite and PostgreSQL, and what is refused before a server starts."""

from __future__ import annotations

import configparser
import json
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest
from model_kit import save_small
from secret_kit import plant_modules
from server_kit import ROOT, PrivateServer, postgres
from system_kit import skip_for_want_of
from werkzeug.security import generate_password_hash

from launcher.mlflow_server import command, prepare, read_settings
from tune.common.errors import WrongInput
from tune.tracking.access import check_access
from tune.tracking.model_package import download_model
from tune.tracking.reader import read_sweep
from tune.tracking.store import TrackingError, open_client
from tune.tracking.tracker import Tracker

STORES = ("sqlite", "postgresql")
EXPERIMENT = "patchtst"
QUESTION = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"


class Servers(dict[str, PrivateServer]):
    """A server for each store that this machine has; `uris` are the addresses of the stores themselves."""

    uris: dict[str, str]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder, servers = tmp_path_factory.mktemp("servers"), Servers()
    plant_modules(folder, folder / "executed", ("mlflow", "flask", "uvicorn", "sqlalchemy/__init__.py", "tune", "json"))
    servers.uris = {"sqlite": f"sqlite:///{folder / 'sqlite' / 'mlflow.db'}"}
    with ExitStack() as stack:
        try:
            servers.uris["postgresql"] = stack.enter_context(postgres())
        except pytest.skip.Exception as reason:
            servers.uris["why"] = str(reason)
        for name in STORES:
            if uri := servers.uris.get(name):
                servers[name] = PrivateServer(folder / name, BACKEND_STORE_URI=uri)
                stack.callback(servers[name].kill)
        for server in servers.values():  # they start at the same time
            server.wait()
        yield servers


@pytest.fixture(params=STORES)
def server(request: pytest.FixtureRequest, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> PrivateServer:
    if request.param not in servers:
        skip_for_want_of(servers.uris["why"])
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", servers[request.param].password)
    return servers[request.param]


def ask(server: PrivateServer, **headers: str) -> int:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(server.uri + QUESTION, headers=headers), timeout=30
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def test_only_a_client_with_the_password_is_answered(server: PrivateServer) -> None:
    assert ask(server) == 401
    assert ask(server, Authorization=basic("admin", "not the password")) == 401
    assert ask(server, Authorization=basic("admin", server.password)) == 200


def test_a_sweep_with_a_wrong_password_is_refused_before_it_starts(
    server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_access(server.uri, EXPERIMENT, 60, pytest.fail)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary of a password")
    with pytest.raises(TrackingError, match="refuses access: .*You are not authenticated") as refused:
        check_access(server.uri, EXPERIMENT, 60, pytest.fail)
    assert "canary" not in str(refused.value)


def test_the_server_imports_nothing_from_the_folder_that_it_is_started_in(server: PrivateServer) -> None:
    beside = server.folder.parent
    assert (beside / "mlflow.py").exists()
    assert not (beside / "executed").exists(), (beside / "executed").read_text()


def test_the_server_leaves_no_core_dump_with_its_secrets(server: PrivateServer) -> None:
    assert psutil.Process(server.process.pid).rlimit(resource.RLIMIT_CORE)[0] in (0, 1)


def test_another_host_header_is_refused_even_with_the_right_password(server: PrivateServer) -> None:
    authorized = basic("admin", server.password)
    assert ask(server, Authorization=authorized, Host="mlflow.example.org") == 403
    assert ask(server, Authorization=authorized, Host=f"localhost:{server.port}") == 200


def test_a_trials_points_and_model_arrive_through_the_proxy_and_the_database_holds_the_points(
    server: PrivateServer, servers: Servers, tmp_path: Path
) -> None:
    save_small(tmp_path / "best")
    tracker = Tracker(
        outbox_path=tmp_path / "outbox.jsonl", tracking_uri=server.uri, experiment=EXPERIMENT, artifact_root=None
    )
    with tracker:
        tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={"plan.json": "{}"})
        tracker.plan_trial(trial_id="a", run_name="a", params={"seed": 1}, tags={})
        for epoch in (1, 2, 3):
            tracker.log_epoch(trial_id="a", epoch=epoch, metrics={"loss/val_mse": 1 / epoch}, timestamp_ms=epoch)
        tracker.end_trial(trial_id="a", status="done", reason="", metrics={}, tags={}, model_dir=tmp_path / "best")
        assert tracker.flush(60) == 0, (tracker.outage, tracker.problems)
        assert tracker.problems == []

    (trial,) = read_sweep(server.uri, EXPERIMENT, "s").trials
    assert trial.history["loss/val_mse"] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
    client = open_client(server.uri)
    assert client.get_run(trial.run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
    download_model(client, trial.run_id, tmp_path / "fetched")
    fetched, saved = (tmp_path / name / "model.safetensors" for name in ("fetched", "best"))
    assert fetched.read_bytes() == saved.read_bytes()
    assert fetched.name in {file.name for file in (server.folder / "artifacts").rglob("*")}
    assert stored_points(servers.uris[server.folder.name], trial.run_id) == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]


def test_another_account_records_its_sweeps_in_the_same_experiment(
    server: PrivateServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, password = "ann", "a long enough one"
    body = json.dumps({"username": name, "password": password}).encode()
    headers = {"Authorization": basic("admin", server.password), "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.uri}/api/2.0/mlflow/users/create", data=body, headers=headers)
    urllib.request.urlopen(request, timeout=30).close()
    open_client(server.uri).create_experiment("shared")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    outbox = tmp_path / "outbox.jsonl"
    with Tracker(outbox_path=outbox, tracking_uri=server.uri, experiment="shared", artifact_root=None) as tracker:
        tracker.begin_sweep(sweep_id="anns", name="anns", tags={}, params={}, files={"plan.json": "{}"})
        assert tracker.flush(60) == 0, (tracker.outage, tracker.problems)
    assert read_sweep(server.uri, "shared", "anns").status == "running"


def stored_points(uri: str, run_id: str) -> list[tuple[int, float]]:
    """(step, value) of loss/val_mse, read from the database itself."""
    question = f"select step, value from metrics where run_uuid = '{run_id}' and key = 'loss/val_mse' order by step"
    if uri.startswith("sqlite"):
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
            return database.execute(question).fetchall()
    import psycopg2

    with closing(psycopg2.connect(uri.replace("+psycopg2", ""))) as database, database.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchall()


def test_no_password_is_in_a_process_list_or_in_the_log(server: PrivateServer, servers: Servers) -> None:
    secret = [server.password, (server.folder / "session-key").read_text().strip()]
    uri = servers.uris[server.folder.name]
    if "@" in uri:
        secret.append(uri.split("@")[0].rsplit(":", 1)[1])
    first = psutil.Process(server.process.pid)
    shown = " ".join(word for process in (first, *first.children(recursive=True)) for word in process.cmdline())
    assert "mlflow" in shown and "uvicorn" in shown
    for word in secret:
        assert len(word) > 8 and word not in shown and word not in server.log.read_text()


def test_only_the_owner_can_read_what_the_server_keeps(server: PrivateServer) -> None:
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    files = [path for path in server.folder.iterdir() if path.is_file()]
    assert {"admin-password", "session-key", "basic-auth.ini", "accounts.db"} <= {file.name for file in files}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_right_password_is_not_hashed_again_for_the_lifetime_of_the_cache(server: PrivateServer) -> None:
    """The database of accounts holds another hash meanwhile, so the answer cannot come from it."""
    authorized = basic("admin", server.password)
    assert ask(server, Authorization=authorized) == 200
    with closing(sqlite3.connect(server.folder / "accounts.db")) as accounts:
        (before,) = accounts.execute("select password_hash from users where username = 'admin'").fetchone()
        _set_hash(accounts, generate_password_hash("another", method="pbkdf2:sha256:1"))
        try:
            assert ask(server, Authorization=authorized) == 200
            assert ask(server, Authorization=basic("admin", "not the password")) == 401
        finally:
            _set_hash(accounts, before)


def _set_hash(accounts: sqlite3.Connection, value: str) -> None:
    accounts.execute("update users set password_hash = ? where username = 'admin'", (value,))
    accounts.commit()


def test_a_second_start_keeps_the_password_also_in_a_folder_with_a_percent_sign(tmp_path: Path) -> None:
    settings = read_settings({"SERVER_DIR": str(tmp_path / "100%")})
    first, second = prepare(settings), prepare(settings)
    assert first == second
    read = configparser.ConfigParser()
    read.read(first["MLFLOW_AUTH_CONFIG_PATH"])
    assert read["mlflow"]["admin_password"] == settings.password_file.read_text().strip()
    assert read["mlflow"]["database_uri"] == f"sqlite:///{tmp_path}/100%/accounts.db"


def test_without_variables_the_server_uses_sqlite_and_serves_only_this_machine(tmp_path: Path) -> None:
    settings = read_settings({"SERVER_DIR": str(tmp_path), "HOST": "", "PORT": ""})
    assert (settings.host, settings.port) == ("127.0.0.1", 5000)
    assert settings.allowed_hosts == "127.0.0.1:5000,localhost:5000"
    assert settings.backend_store_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert "--host 127.0.0.1" in " ".join(command(settings))


@pytest.mark.parametrize(("given", "absolute"), [("s3://b/a", False), ("mine", True), ("/mine", True), ("", True)])
def test_a_folder_for_artifacts_is_absolute_and_another_store_is_left_as_it_is(
    tmp_path: Path, given: str, absolute: bool
) -> None:
    settings = read_settings({"SERVER_DIR": str(tmp_path), "ARTIFACTS_DESTINATION": given})
    assert Path(settings.artifacts_destination).is_absolute() is absolute
    assert settings.artifacts_destination.endswith(given)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PORT": "70000"}, "PORT=70000: give a whole number from 1 to 65535"),
        ({"PORT": "http"}, "PORT=http: give"),
        ({"WORKERS": "0"}, "WORKERS=0: give a whole number from 1 to 64"),
        ({"HOST": "0.0.0.0"}, "HOST=0.0.0.0 lets other machines in.*give it as MLFLOW_SERVER_ALLOWED_HOSTS"),
        ({"BACKEND_STORE_URI": "postgresql://u:p@h/d"}, r"=postgresql://h/d: give .*postgresql\+psycopg2"),
        ({"BACKEND_STORE_URI": "./mlruns"}, "=./mlruns: give sqlite"),
    ],
)
def test_wrong_settings_are_refused_with_what_to_give(variables: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match=message):
        read_settings({"SERVER_DIR": str(tmp_path), **variables})


def test_a_folder_that_others_can_write_to_is_refused_before_it_holds_a_password(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(WrongInput, match="can be written by others.*chmod 700"):
        prepare(read_settings({"SERVER_DIR": str(folder)}))
    assert list(folder.iterdir()) == []


def test_a_silent_database_is_one_line_without_its_password(tmp_path: Path) -> None:
    given = {"SERVER_DIR": str(tmp_path / "s"), "BACKEND_STORE_URI": "postgresql+psycopg2://u:hidden@127.0.0.1:9/d"}
    done = subprocess.run(
        [sys.executable, "-m", "launcher.mlflow_server"], cwd=ROOT, env={**os.environ, **given}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "127.0.0.1:9/d does not answer" in line and "hidden" not in line
