"""What answers where an MLflow server should be: MLflow, a login page, another service, or a proxy before MLflow."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from answering_kit import EXPERIMENT, Answering

from tune.commands.main import main
from tune.common.errors import WRONG_INPUT
from tune.tracking.store import NotNow, TrackingError, check_store, open_client

HTML = {"Content-Type": "text/html; charset=utf-8"}
JSON = {"Content-Type": "application/json"}
SIGN_IN = "<!doctype html><html><head><title>Sign in &amp; go</title></head><body>...</body></html>"
MISSING = '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Could not find experiment"}'
LOGIN = {"Location": "https://login.example.org/start?state=canary"}
API = "/api/2.0/mlflow/experiments/get-by-name"

FOREIGN = [
    (200, SIGN_IN, HTML, "answers 200 with a web page 'Sign in & go' at /api/.* login page before it, set"),
    (200, SIGN_IN, {}, "answers 200 with a web page 'Sign in & go'"),
    (200, "<html></html>", HTML, "answers 200 with a web page at /api"),
    (302, "", LOGIN, "answers 302, a redirect to https://login.example.org/start at /api.* login page"),
    (303, "", LOGIN, "answers 303, a redirect to https://login.example.org/start"),
    (307, "", LOGIN, "answers 307, a redirect to https://login.example.org/start"),
    (301, "", {"Location": f"https://other:8443{API}?experiment_name=x"}, "give https://other:8443 itself"),
    (200, '{"status": "ok"}', JSON, "answers 200 with JSON of another service: .*give the address of an MLflow server"),
    (200, "[]", JSON, "answers 200 with JSON of another service"),
    (200, "{}", JSON, "answers 200 with JSON of another service"),
    (200, "null", JSON, "answers 200 with 'null'"),
    (200, '{"experiment": "no"}', JSON, "JSON of another service"),
    (200, "", {}, "answers 200 with nothing"),
    (200, "pong", {}, "answers 200 with 'pong'"),
    (404, "<h1>Not Found</h1>", HTML, "answers 404 with a web page"),
    (404, '{"detail": "Not Found"}', JSON, "answers 404 with JSON of another service"),
    (404, '{"error_code": "ENDPOINT_NOT_FOUND", "message": "No API found"}', JSON, "answers 404 No API found at /api"),
    (405, "", {}, "answers 405 with nothing"),
    (400, "a bad request", {}, "answers 400 with 'a bad request'"),
    (502, SIGN_IN, HTML, "does not answer: a proxy before it answers 502 .*; start it"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.mlflow/credentials


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering() as answering:
        yield answering


@pytest.mark.parametrize(("status", "text", "headers", "words"), FOREIGN)
def test_what_is_not_mlflow_is_refused_with_what_was_seen(
    server: Answering, status: int, text: str, headers: dict[str, str], words: str
) -> None:
    server.status, server.text, server.headers = status, text, headers
    for look in (check_store, open_client):
        with pytest.raises(TrackingError, match=words) as refused:
            look(server.uri)
        assert str(refused.value).startswith(f"MLflow server {server.uri} ")
        assert "canary" not in str(refused.value) and "\n" not in str(refused.value)
        assert not isinstance(refused.value, NotNow)


def test_a_page_of_the_ui_as_address_is_told_from_a_foreign_server(server: Answering) -> None:
    server.status, server.text, server.headers = 404, SIGN_IN, HTML
    with pytest.raises(TrackingError, match="give the address up to where /api begins"):
        check_store(f"{server.uri}/experiments/1")


@pytest.mark.parametrize("text", [EXPERIMENT, MISSING])
@pytest.mark.parametrize("path", ["", "/", "/tools/mlflow", "/tools/mlflow/"])
def test_mlflow_is_let_through_behind_any_prefix_and_with_or_without_the_experiment(
    server: Answering, path: str, text: str
) -> None:
    server.status, server.text, server.headers = 404 if text is MISSING else 200, text, JSON
    check_store(server.uri + path)
    open_client(server.uri + path)
    assert {asked.partition("?")[0] for asked in server.asked} == {path.rstrip("/") + API}


@pytest.mark.parametrize(
    "stranger",
    [
        (401, "You are not authenticated", {}), (403, SIGN_IN, HTML), (302, "", LOGIN), (200, SIGN_IN, HTML),
        (404, "<h1>Not Found</h1>", HTML),
    ],
)  # fmt: skip
@pytest.mark.parametrize("variables", [{"TOKEN": "canary"}, {"USERNAME": "u", "PASSWORD": "canary"}])
def test_mlflow_behind_a_proxy_that_hides_it_from_strangers_is_reached_with_credentials(
    server: Answering, stranger: tuple[int, str, dict[str, str]], variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server.text, server.stranger = EXPERIMENT, stranger
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    check_store(server.uri)
    open_client(server.uri)


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (
            401,
            "You are not authenticated",
            "refuses access: 401 with 'You are not authenticated'; set",
        ),
        (
            403,
            '{"error_code": "PERMISSION_DENIED", "message": "not yours"}',
            "refuses access: 403 not yours; set",
        ),
        (403, "Invalid Host header - possible DNS rebinding", "refuses access: 403 .*in --allowed-hosts"),
    ],
)
def test_a_server_that_wants_other_credentials_is_told_in_its_own_words(
    server: Answering, status: int, text: str, words: str
) -> None:
    server.status, server.text = status, text
    check_store(server.uri)  # which sends none
    with pytest.raises(TrackingError, match=words):
        open_client(server.uri)


@pytest.mark.parametrize("status", [500, 429])
def test_an_error_that_may_pass_is_told_apart_from_a_refusal(server: Answering, status: int) -> None:
    server.status, server.text = status, "a bad day"
    check_store(server.uri)
    with pytest.raises(NotNow, match=f"answers {status} with 'a bad day'"):
        open_client(server.uri)


def test_a_redirect_that_keeps_a_call_as_it_is_is_followed_to_mlflow(server: Answering) -> None:
    with Answering(status=308, text="", headers={"Location": f"{server.uri}{API}?experiment_name=x"}) as moved:
        server.text = EXPERIMENT
        check_store(moved.uri)
        open_client(moved.uri)


def test_a_slow_server_is_let_through_and_a_mute_one_is_not(server: Answering) -> None:
    server.status = None
    check_store(server.uri, timeout_s=1)
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(TrackingError, match="does not answer"):
        check_store(f"http://127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.5)


@pytest.mark.parametrize("command", [["list", "runs"], ["report", "x"], ["--sweep", "pruning", "--dataset", "demo"]])
def test_commands_refuse_a_login_page_at_the_start_in_one_line(
    server: Answering, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.text, server.headers = SIGN_IN, HTML
    assert main(command) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: MLflow server {server.uri} answers 200 with a web page 'Sign in & go'")
