"""Addresses that name no MLflow store, although people write them: what each is, and what to write instead."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from tune.common.address import redacted, sqlite_uri
from tune.common.errors import did_you_mean

DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SERVERS = ("http", "https")
_FOR_FILES = {"s3", "gs", "gcs", "wasb", "wasbs", "abfs", "abfss", "hdfs", "viewfs", "r2", "b2", "ftp", "sftp", "dbfs"}
_INSIDE = {"mlflow-artifacts", "runs", "models"}
_DATABASE_ENDINGS = (".db", ".sqlite", ".sqlite3", ".db3")
_ALLOWED = f"allowed are http, https, sqlite, {', '.join(DATABASE_PORTS)}"


def form_problem(tracking_uri: str) -> str | None:
    """What is wrong with the form of a store's address and what to write instead; None if nothing is.

    Nothing is opened. The words go behind "tracking URI '...' ".
    """
    if not tracking_uri.strip():
        return "is blank: give an address, or unset MLFLOW_TRACKING_URI"
    if tracking_uri != tracking_uri.strip() or not tracking_uri.isprintable():
        return "has a space or a line break at an end, or a control character in it: remove that"
    if tracking_uri[0] in "'\"" or tracking_uri[-1] in "'\"":
        return "has quotes around it, which belong to a shell and not to the address: remove them"
    bare = redacted(tracking_uri)
    if re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[\w.-]+):\d+(/.*)?", bare):
        return f"has no http:// before it: write http://{bare}, or https://{bare}"
    try:
        parts = urlsplit(bare)
        scheme, _ = parts.scheme, parts.port
    except ValueError as error:
        return f"is not an address: {error}"
    if not scheme:
        return _without_scheme(bare)
    if scheme in _SERVERS:
        return _server(tracking_uri, scheme)
    if scheme.startswith("sqlite"):
        return _sqlite(tracking_uri)
    return _other(bare, scheme)


def _without_scheme(bare: str) -> str:
    if found := re.match(r"(https?|)//", bare):
        rest = bare[len(found[0]) :]
        return f"has no http:// before it: write http://{rest}, or https://{rest}"
    if bare == "databricks" or bare.startswith("databricks-"):
        return _databricks()
    path = Path(bare).expanduser()
    if path.is_file() or (bare.lower().endswith(_DATABASE_ENDINGS) and not path.is_dir()):
        return f"names a file: as the address of a SQLite store write {sqlite_uri(path)}"
    if not path.exists() and re.fullmatch(r"[\w-]+(\.[\w-]+)+(/.*)?", bare):
        return f"has no http:// before it: write http://{bare}, or https://{bare}"
    return _folder()


def _folder() -> str:
    return (
        "names a folder, which MLflow no longer writes to: use sqlite:///mlflow.db, or the http:// address of an "
        "MLflow server"
    )


def _databricks() -> str:
    return (
        "is Databricks' own store, whose experiments are paths of a workspace; sweeps are not recorded there: "
        "use sqlite:///mlflow.db, or the http:// address of an MLflow server"
    )


def _server(tracking_uri: str, scheme: str) -> str | None:
    rest = tracking_uri.partition(":")[2]
    if not re.match(r"//[^/\\]", rest):
        return f"has no host behind two slashes: write {scheme}://{redacted(rest.lstrip('/')) or 'HOST:PORT'}"
    before, mark, _ = tracking_uri.partition("#")
    if mark and "@" not in tracking_uri.partition("#")[2]:  # else a part of a password, which has a message of its own
        return f"is a link into MLflow's UI: give the address before the #, {redacted(before).rstrip('/')}"
    return None


def _sqlite(tracking_uri: str) -> str | None:
    scheme, _, rest = tracking_uri.partition(":")
    name = rest.lstrip("/").partition("?")[0]
    if not re.fullmatch(r"sqlite(\+\w+)?", scheme.lower()):
        return f"has the scheme {scheme}: write sqlite:///{rest.removeprefix('///') or 'mlflow.db'}"
    if name in ("", ":memory:", "."):
        return "is a database in memory, which ends with the command: name a file, such as sqlite:///mlflow.db"
    if not rest.startswith("///"):
        absolute = rest.startswith("/") and not rest.startswith("//")
        return (
            f"has not the three slashes of a SQLite address: write sqlite:///{'/' if absolute else ''}{name} "
            "(sqlite:/// and a path; an absolute path brings a fourth slash)"
        )
    if name.startswith("~"):
        return f"holds a ~, which only a shell replaces: write {sqlite_uri(Path(name).expanduser())}"
    query = rest.partition("?")[2]
    if "?" in rest and not re.fullmatch(r"[^=&/]+=[^&]*(&[^=&/]+=[^&]*)*", query):
        return f"holds a ?, which begins a query: for a ? in a name write %3F, sqlite:{rest.replace('?', '%3F')}"
    if rest[3:].startswith("file:"):
        return f"holds file: inside a SQLite address: write sqlite:///{name.removeprefix('file:')}"
    return None


def _other(bare: str, scheme: str) -> str | None:
    if scheme.split("+")[0] in DATABASE_PORTS:
        full = bare.partition(":")[2].startswith("//")
        return None if full else f"has not the two slashes of a database's address: {scheme}://HOST/DATABASE"
    if scheme == "file":
        path = bare.partition(":")[2]
        is_database = path.lower().endswith(_DATABASE_ENDINGS)
        return f"names a file: write {sqlite_uri(Path('/' + path.lstrip('/')))}" if is_database else _folder()
    if scheme.startswith("databricks") or scheme == "uc":
        return _databricks()
    if scheme in _FOR_FILES:
        return (
            "is a place for files, not for records: start an MLflow server with --artifacts-destination "
            f"{bare}, and give that server's http:// address"
        )
    if scheme in _INSIDE:
        return "is an address of artifacts inside a store: give the store's own, such as a server's http:// address"
    if scheme.split("+")[0] == "postgres":
        return f"has the scheme {scheme}, which SQLAlchemy no longer takes: write postgresql://..."
    if scheme == "jdbc":
        return f"is a Java address: {_ALLOWED}"
    return f"has the scheme {scheme}: {_ALLOWED}.{did_you_mean(scheme, [*_SERVERS, 'sqlite', *DATABASE_PORTS])}"
