"""Checks that we may use an MLflow store before a sweep starts: the user must not learn it after the last trial."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tune.common.address import is_server, one_line, redacted, settled_uri, sqlite_file
from tune.tracking.store import NotNow, TrackingError, open_client


def check_access(tracking_uri: str, experiment: str, timeout_s: float, say: Callable[[str], None]) -> bool:
    """Open the store and look for an experiment in it; takes at most about `timeout_s` s, beside importing mlflow.

    A slow answer, a lock or an error of the server may pass: `say` gets a line, and the sweep may start, as records
    wait on disk. A missing SQLite file is not created. Returns whether the store has shown that it can be read.

    Raises:
        TrackingError: the store refuses us, is none, or cannot be opened (no driver, a wrong password, another schema),
            or the experiment was deleted.
    """
    uri = settled_uri(tracking_uri)
    if uri.startswith("sqlite") and not sqlite_file(uri).exists():
        return True
    import mlflow.tracking  # noqa: F401  before the clock starts: this takes seconds

    errors: list[Exception] = []

    def ask() -> None:
        try:
            _connect(uri)
            known = open_client(uri).get_experiment_by_name(experiment)
            if known is not None and known.lifecycle_stage == "deleted":
                raise TrackingError(deleted(experiment, known.experiment_id))
        except Exception as error:
            errors.append(error)

    # A call to a failing server stays in MLflow's own retries for minutes; this thread then ends with the process.
    asking = threading.Thread(target=ask, name="mlflow-access", daemon=True)
    asking.start()
    asking.join(timeout_s)
    if asking.is_alive():
        say(f"MLflow store {redacted(uri)} is slow: no answer within {timeout_s:g} s; until it answers, records wait")
    elif errors:
        _raise_or_say(uri, errors[0], say)
    return not (asking.is_alive() or errors)


def deleted(experiment: str, experiment_id: str) -> str:
    """The line about an experiment that somebody deleted: MLflow keeps it, and its name, until it is restored."""
    return (
        f"experiment {experiment!r} was deleted in MLflow: restore it (MLFLOW_TRACKING_URI=... mlflow experiments "
        f"restore --experiment-id {experiment_id}) or use another store"
    )


def _connect(uri: str) -> None:
    """Raises TrackingError if a database refuses the connection; MLflow itself would retry for two minutes."""
    if is_server(uri):
        return
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri)
        engine.connect().close()
        engine.dispose()
    except Exception as error:
        raise TrackingError(
            f"MLflow store {redacted(uri)} cannot be opened: {one_line(error)}; correct the address or its password, "
            "or install the driver that it names"
        ) from error


def _raise_or_say(uri: str, error: Exception, say: Callable[[str], None]) -> None:
    if isinstance(error, NotNow):
        say(f"{error}; until that has passed, records wait")
    elif isinstance(error, TrackingError):
        raise error
    else:
        say(f"MLflow store {redacted(uri)} cannot be read now: {one_line(error)}; until it answers, records wait")
