"""Addresses of stores as people write them by mistake: each is named as what it is, with what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune.commands.main import main
from tune.common.address import settled_uri, sqlite_file, sqlite_uri
from tune.common.errors import WRONG_INPUT
from tune.tracking.address_form import form_problem
from tune.tracking.reader import list_sweeps
from tune.tracking.store import TrackingError, check_store, open_client

ODD = [
    ("mlflow.db", "names a file: .* write sqlite:////.*/mlflow.db"),
    ("./mlruns", "names a folder, which MLflow no longer writes to"),
    ("file:///tmp/mlruns", "names a folder, which MLflow no longer writes to"),
    ("file:/tmp/mlflow.db", "names a file: write sqlite:////tmp/mlflow.db"),
    ("sqlite://mlflow.db", "three slashes .* write sqlite:///mlflow.db "),
    ("sqlite:mlflow.db", "three slashes .* write sqlite:///mlflow.db "),
    ("sqlite:/tmp/mlflow.db", "three slashes .* write sqlite:////tmp/mlflow.db "),
    ("sqlite3:///mlflow.db", "scheme sqlite3: write sqlite:///mlflow.db"),
    ("sqlite:///", "is a database in memory"),
    ("sqlite:///:memory:", "is a database in memory"),
    ("sqlite:///~/mlflow.db", "holds a ~, which only a shell replaces: write sqlite:////"),
    ("sqlite:///what?.db", "holds a .*, which begins a query: .*sqlite:///what%3F.db"),
    ("http:/host", "write http://host$"),
    ("https:host/mlflow", "write https://host/mlflow$"),
    ("https//host", "write http://host, or https://host$"),
    ("http://", "no host behind two slashes"),
    ("//host:5000", "write http://host:5000"),
    ("localhost:5000", "no http:// before it: write http://localhost:5000, or https://localhost:5000$"),
    ("127.0.0.1:5000/mlflow", "no http:// before it: write http://127.0.0.1:5000/mlflow"),
    ("[::1]:5000", r"write http://\[::1\]:5000"),
    ("mlflow.example.org", "no http:// before it: write http://mlflow.example.org"),
    ("https://host/#/experiments/1", "is a link into MLflow's UI: .* https://host$"),
    ("http://host:5000/mlflow/#/experiments/1/runs/2?x=y", "is a link into MLflow's UI: .*http://host:5000/mlflow$"),
    ("databricks", "is Databricks' own store"),
    ("databricks://profile", "is Databricks' own store"),
    ("databricks-uc", "is Databricks' own store"),
    ("s3://bucket/mlflow", "place for files, not for records: .*--artifacts-destination s3://bucket/mlflow"),
    ("gs://bucket", "place for files, not for records"),
    ("mlflow-artifacts:/1", "artifacts inside a store"),
    ("postgres://host/mlflow", "scheme postgres.* write postgresql://"),
    ("postgresql:/host/mlflow", "two slashes of a database's address"),
    ("jdbc:postgresql://host/mlflow", "is a Java address"),
    ("htp://host", "scheme htp: allowed are http, .* Did you mean 'http'"),
    (" sqlite:///mlflow.db", "space or a line break"),
    ("sqlite:///mlflow.db\n", "space or a line break"),
    ("http://host\t/x", "control character"),
    ('"sqlite:///mlflow.db"', "quotes around it"),
    ("'http://host:5000'", "quotes around it"),
    ("  ", "is blank"),
]  # fmt: skip


@pytest.mark.parametrize(("uri", "words"), ODD)
def test_an_odd_address_is_named_as_what_it_is(uri: str, words: str) -> None:
    with pytest.raises(TrackingError, match=words) as refused:
        check_store(uri)
    assert str(refused.value).startswith("tracking URI ")


@pytest.mark.parametrize(
    "uri",
    [
        "http://host", "HTTPS://host:443/some/prefix/", "http://user:pw@host", "https://[::1]:5000",
        "https://adb-1.azuredatabricks.net", "sqlite:///mlflow.db", "sqlite:////a b/mlflow.db", "sqlite+pysqlite:///m.db",
        "sqlite:///m.db?timeout=60", "sqlite:////100%/m.db", "postgresql+psycopg2://u:p%23@host/db", "mysql://host/db",
        "postgresql:///db?host=/run/postgresql", "mssql+pyodbc://dsn",
    ],
)  # fmt: skip
def test_an_address_that_a_store_can_have_is_let_through(uri: str) -> None:
    assert form_problem(uri) is None


@pytest.mark.parametrize("uri", ["postgres://user:canary@host/db", "http:/user:canary@host", "x://u:canary@h?k=canary"])
def test_no_message_about_an_address_shows_its_password(uri: str) -> None:
    assert "canary" not in str(form_problem(uri))


@pytest.mark.parametrize("command", [["list", "runs"], ["report", "x"]])
def test_commands_that_read_name_an_odd_address_in_one_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///~/mlflow.db")
    assert main(command) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: tracking URI 'sqlite:///~/mlflow.db' holds a ~")
    assert list(tmp_path.iterdir()) == []


ODD_NAMES = ["100%", "a%20b", "a%b", "what?", "a#b", "a b", "a@b:c", "grün", "a'b", "a+b&c=d"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_address_of_a_file_names_that_file_whatever_the_letters_of_its_folder(name: str, tmp_path: Path) -> None:
    from sqlalchemy import make_url

    file = tmp_path / name / "mlflow.db"
    uri = sqlite_uri(file)
    assert sqlite_file(uri) == file and settled_uri(uri) == uri
    assert make_url(uri).database == str(file)


def test_a_store_works_in_a_folder_with_an_odd_name_and_leaves_no_other_folder(tmp_path: Path) -> None:
    name = "100% of a%20b?"
    (tmp_path / name).mkdir()
    uri = sqlite_uri(tmp_path / name / "mlflow.db")
    check_store(uri)
    open_client(uri).create_experiment("patchtst-sweeps", (tmp_path / name / "files").as_uri())
    assert list_sweeps(uri, "patchtst-sweeps") == ()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in (tmp_path / name).iterdir()] == ["mlflow.db"]


def test_a_folder_whose_name_must_be_escaped_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "a%20b").mkdir()
    with pytest.raises(TrackingError, match="a b does not exist .*write %25"):
        check_store(f"sqlite:///{tmp_path}/a%20b/mlflow.db")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("folder", "is a folder; name a file in it, such as sqlite:////.*/folder/mlflow.db"),
        ("folder/", "is a folder; name a file in it"),
        ("file/mlflow.db", "is a file and no folder"),
        ("none/mlflow.db", "the folder .*/none does not exist; create it"),
    ],
)
def test_a_place_where_no_file_can_be_is_named(path: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(TrackingError, match=words):
        check_store(f"sqlite:///{tmp_path}/{path}")
