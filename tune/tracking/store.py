"""An MLflow store: whether it answers, and a client for it."""

from __future__ import annotations

import glob
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tune.common.address import has_password, is_server, one_line, redacted, sqlite_file, sqlite_uri
from tune.common.files import without_new_folders
from tune.common.process import alive
from tune.tracking.address_form import DATABASE_PORTS, form_problem
from tune.tracking.noise import quiet_libraries
from tune.tracking.schema import schema_problem
from tune.tracking.server_check import Kind, ask_as_mlflow, ask_openly, has_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient


PROJECT = "patchtst-sweeps"  # the MLflow experiment of all sweeps
STORE_ANSWERS_WITHIN_S = 10.0  # how long a command waits for a store to show that it is there
REFUSED = "refused_records"  # the tag of a sweep's run with the number of its records that MLflow refused for good
ACCOUNTS = "sweep/"  # metrics of a sweep's run: its wall time and where that went
SPANS = "sweep_spans/"  # metrics of a sweep's run: the seconds of one piece of the driver's work, stored when it ended
STOPPED = "stopped"  # the tag of a sweep's run with what there is, if its last command had no time for the rest
JOB_TAG = "job."  # with a Ray job's id behind it, a tag of the sweeps that this job ran
_LOCKED = "database is locked"


class TrackingError(ValueError):
    """Wrong input about tracking, in one line: what was given, what is allowed, what to do."""


class NotNow(TrackingError):
    """A store that does not take anything at the moment, such as a locked file; it may later."""


def check_store(tracking_uri: str, timeout_s: float = 5.0) -> None:
    """Check within about `timeout_s` s that this is an MLflow store, without importing mlflow or sending credentials.

    A server's API must answer as MLflow's does, or ask for credentials. A SQLite file must be one that this MLflow may
    open, in a folder that can be written; it may be missing. A database host must accept connections. Name resolution
    takes extra time.

    Raises:
        TrackingError: this is no store, the store does not answer, or MLflow no longer writes to this kind of store.
    """
    bare = _checked_form(tracking_uri)
    if is_server(tracking_uri):
        verdict = ask_openly(bare, PROJECT, timeout_s)
        if verdict.kind is Kind.FOREIGN and not (verdict.answered and has_credentials(tracking_uri)):
            raise TrackingError(f"MLflow server {bare} {verdict.words}")
    elif tracking_uri.startswith("sqlite"):
        _check_file(tracking_uri)
        if problem := schema_problem(tracking_uri):
            raise TrackingError(f"MLflow store {bare} {problem}")
    else:
        _check_socket(bare, timeout_s)


def _checked_form(tracking_uri: str) -> str:
    """The address without user, password and query, for messages. Raises TrackingError if it cannot be a store's."""
    bare = redacted(tracking_uri)
    if problem := form_problem(tracking_uri):
        raise TrackingError(f"tracking URI {bare!r} {problem}")
    if is_server(tracking_uri) and tracking_uri.partition("://")[2].find("@") > len(urlsplit(tracking_uri).netloc):
        raise TrackingError(
            f"MLflow server {bare}: there is an @ after one of / ? #: in a password write these as %2F %3F %23, or use "
            "MLFLOW_TRACKING_USERNAME and _PASSWORD; in a path write the @ as %40"
        )
    return bare


def _check_file(tracking_uri: str) -> None:
    file = sqlite_file(tracking_uri)
    bare = redacted(tracking_uri)
    if file.is_dir():
        inside = sqlite_uri(file / "mlflow.db")
        raise TrackingError(f"tracking URI {bare!r}: {file} is a folder; name a file in it, such as {inside}")
    if file.parent.exists() and not file.parent.is_dir():
        raise TrackingError(f"tracking URI {bare!r}: {file.parent} is a file and no folder; choose another place")
    if not file.parent.is_dir():
        literal = Path(tracking_uri.partition(":///")[2].partition("?")[0]).parent
        hint = " (for a % in its name write %25)" if literal.is_dir() else ""
        raise TrackingError(f"tracking URI {bare!r}: the folder {file.parent} does not exist{hint}; create it")
    for path in (file, file.parent):  # SQLite writes a journal beside the file
        if path.exists() and not os.access(path, os.W_OK):
            who = f"uid {os.geteuid()}"
            raise TrackingError(f"tracking URI {bare!r}: {path} is not writable by {who}; choose another file")


def _check_socket(bare: str, timeout_s: float) -> None:
    parts = urlsplit(bare)
    if parts.hostname is None:
        return
    port = parts.port or DATABASE_PORTS[parts.scheme.split("+")[0]]
    try:
        socket.create_connection((parts.hostname, port), timeout=timeout_s).close()
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

    A server is asked once, with the credentials that MLflow sends.

    Raises:
        NotNow: the store answers with an error that may pass, or is locked.
        TrackingError: the store cannot be opened (no driver for the database, a schema of another version, ...), or
            what answers is not MLflow.
    """
    from mlflow import MlflowClient

    quiet_libraries()
    bare = redacted(tracking_uri)
    try:
        if is_server(tracking_uri):
            _check_answer(tracking_uri)
        elif problem := schema_problem(tracking_uri):
            raise TrackingError(f"MLflow store {bare} {problem}")
        if not tracking_uri.startswith("sqlite"):
            return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        _make_database(sqlite_file(tracking_uri))
        with _no_folder_of_the_raw_name(tracking_uri):
            return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    except TrackingError:
        raise
    except Exception as error:
        if _LOCKED in str(error):
            raise NotNow(f"MLflow store {bare} is locked by another process: wait for it, or end it") from error
        raise TrackingError(f"MLflow store {bare} cannot be opened: {one_line(error)}") from error


def _check_answer(tracking_uri: str) -> None:
    verdict = ask_as_mlflow(tracking_uri, PROJECT, STORE_ANSWERS_WITHIN_S)
    if verdict.kind is not Kind.MLFLOW:
        kind = NotNow if verdict.kind is Kind.FAILING else TrackingError
        raise kind(f"MLflow server {redacted(tracking_uri)} {verdict.words}")


@contextmanager
def _no_folder_of_the_raw_name(tracking_uri: str) -> Iterator[None]:
    """MLflow makes the folder of a SQLite file from the address as it is written, with its %25: remove that again."""
    with without_new_folders(Path(tracking_uri.partition(":///")[2].partition("?")[0]).absolute().parent):
        yield


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
    engine = create_sqlalchemy_engine(sqlite_uri(draft))
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
