"""An MLflow store: whether it answers, and a client for it."""

from __future__ import annotations

import glob
import http.client
import logging
import os
import socket
import ssl
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tune.common.address import has_password, one_line, redacted, sqlite_file
from tune.common.process import alive

if TYPE_CHECKING:
    from mlflow import MlflowClient


PROJECT = "patchtst-sweeps"  # the MLflow experiment of all sweeps
STORE_ANSWERS_WITHIN_S = 10.0  # how long a command waits for a store to show that it is there
JOB_TAG = "job."  # with a Ray job's id behind it, a tag of the sweeps that this job ran
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingError(ValueError):
    """Wrong input about tracking, in one line: what was given, what is allowed, what to do."""


def check_store(tracking_uri: str, timeout_s: float = 5.0) -> None:
    """Check within about `timeout_s` s that the MLflow store answers, without importing mlflow or sending credentials.

    A server must answer at /health, the folder of a SQLite file must be writable, and a database host must accept
    connections. Name resolution takes extra time.

    Raises:
        TrackingError: the store does not answer, or MLflow no longer writes to this kind of store.
    """
    bare = redacted(tracking_uri)  # an error about the address must not show its password
    try:
        parts = urlsplit(bare)
        scheme, _ = parts.scheme, parts.port
    except ValueError as error:
        raise TrackingError(f"tracking URI {bare!r} is not an address: {error}") from error
    if scheme in ("http", "https"):
        _check_server(tracking_uri, bare, timeout_s)
    elif scheme.startswith("sqlite"):
        _check_folder(tracking_uri)
    elif port := _DATABASE_PORTS.get(scheme.split("+")[0]):
        _check_socket(bare, port, timeout_s)
    elif scheme in ("", "file"):
        raise TrackingError(
            f"tracking URI {bare!r} names a folder, which MLflow no longer writes to: use sqlite:///mlflow.db, "
            "or the http:// address of an MLflow server"
        )
    else:
        raise TrackingError(f"tracking URI {bare!r}: allowed are http, https, sqlite, {', '.join(_DATABASE_PORTS)}")


def _check_server(tracking_uri: str, bare: str, timeout_s: float) -> None:
    """Raises TrackingError unless an MLflow server answers at `bare`, the address without user, password and query."""
    if tracking_uri.partition("://")[2].find("@") > len(urlsplit(tracking_uri).netloc):
        raise TrackingError(
            f"MLflow server {bare}: there is an @ after one of / ? #: in a password write these as %2F %3F %23, or use "
            "MLFLOW_TRACKING_USERNAME and _PASSWORD; in a path write the @ as %40"
        )
    url = bare.rstrip("/") + "/health"
    # Nothing is sent here, so any certificate will do: MLflow itself may be set to accept this one.
    context = ssl._create_unverified_context()  # nosec B323
    try:
        with urllib.request.urlopen(url, timeout=timeout_s, context=context):  # nosec B310
            return
    except urllib.error.HTTPError as error:
        if error.code == 401:
            return
        problem = f"answers {error.code} at /health: is this the address of an MLflow server?"
    except (OSError, ValueError, http.client.HTTPException) as error:
        problem = f"does not answer ({getattr(error, 'reason', None) or error}): start it or correct the tracking URI"
    raise TrackingError(f"MLflow server {bare} {problem}")


def _check_folder(tracking_uri: str) -> None:
    file = sqlite_file(tracking_uri)
    target = file if file.exists() else file.parent
    if not file.parent.is_dir():
        raise TrackingError(f"tracking URI {tracking_uri!r}: the folder {file.parent} does not exist; create it")
    if not (os.access(target, os.W_OK) and os.access(file.parent, os.W_OK)):
        raise TrackingError(f"tracking URI {tracking_uri!r}: {target} is not writable; choose another file")


def _check_socket(bare: str, default_port: int, timeout_s: float) -> None:
    parts = urlsplit(bare)
    if parts.hostname is None:
        return
    try:
        socket.create_connection((parts.hostname, parts.port or default_port), timeout=timeout_s).close()
    except OSError as error:
        raise TrackingError(
            f"MLflow database {bare} does not answer ({error}): start it or correct the tracking URI"
        ) from error


def check_no_password(given: str | None) -> None:
    """Raises TrackingError for a --tracking-uri with a user or a query: every user of a machine sees command lines."""
    if given is not None and has_password(given):
        raise TrackingError(
            f"--tracking-uri {redacted(given)}: what was left out here would show in the process list; put the whole "
            "address into MLFLOW_TRACKING_URI, or user and password into MLFLOW_TRACKING_USERNAME and _PASSWORD"
        )


def open_client(tracking_uri: str) -> MlflowClient:
    """An MlflowClient for this store. Creates the tables of a new database; takes seconds, as it imports mlflow.

    Raises:
        TrackingError: the store cannot be opened (no driver for the database, a schema of another version, ...).
    """
    from mlflow import MlflowClient

    # MLflow logs two lines about a new SQLite file to stderr, which is for the progress display.
    logger = logging.getLogger("mlflow.store.db.utils")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        if tracking_uri.startswith("sqlite"):
            _make_database(sqlite_file(tracking_uri))
        return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    except Exception as error:
        raise TrackingError(f"MLflow store {redacted(tracking_uri)} cannot be opened: {one_line(error)}") from error
    finally:
        logger.setLevel(level)


def _make_database(file: Path) -> None:
    """Create a missing SQLite store so that the file appears with all of its tables at once.

    MLflow creates the tables in dozens of steps. A process that is killed in between would leave a store that nobody
    can open again.
    """
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    if file.exists():
        return
    for left in file.parent.glob(f".{glob.escape(file.name)}.*.tmp*"):  # of a process that was killed
        if (pid := left.name.removeprefix(f".{file.name}.").partition(".")[0]).isdecimal() and not alive(int(pid)):
            left.unlink(missing_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_native_id()}.tmp")
    engine = create_sqlalchemy_engine(f"sqlite:///{draft}")
    try:
        _initialize_tables(engine)
        engine.dispose()
        _publish(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def _publish(draft: Path, file: Path) -> None:
    """Give a draft its name, unless another process has created the file meanwhile."""
    try:
        os.link(draft, file)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not file.exists():
            os.replace(draft, file)
