"""Checks of the MLflow store, as a sweep opens it."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import ssl
import time
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from tune.common.address import is_server, redacted, settled_uri, sqlite_file
from tune.doctor.finding import Finding, Place
from tune.doctor.storage import clocks
from tune.tracking.access import check_access
from tune.tracking.artifact_probe import artifact_root, check_artifacts
from tune.tracking.store import PROJECT, STORE_ANSWERS_WITHIN_S, TrackingError, check_store

LOCKED_S = 2.0  # a writer of MLflow holds the lock for a fraction of this


@functools.cache
def _asked(uri: str) -> tuple[str | None, bool, tuple[str, ...]]:
    """What is wrong with a store, as a sweep asks it; whether it could be read; and what a sweep would only mention."""
    notes = list[str]()
    try:
        check_store(uri, STORE_ANSWERS_WITHIN_S)
        readable = check_access(uri, PROJECT, STORE_ANSWERS_WITHIN_S, notes.append)
    except TrackingError as error:
        return str(error), False, ()
    return None, readable, tuple(notes)


def answers(place: Place) -> Iterator[Finding]:
    """Whether a sweep may start with this store. A missing file is not created."""
    uri = settled_uri(place.tracking_uri)
    problem, _, notes = _asked(uri)
    if problem is not None:
        yield Finding(kind="MLflow store", name=redacted(uri), works=False, found=problem, needed=True)
        return
    there = not uri.startswith("sqlite") or sqlite_file(uri).exists()
    found = "; ".join(notes) or ("answers" if there else "not there yet, made by the first sweep")
    yield Finding(kind="MLflow store", name=redacted(uri), works=not notes, found=found, needed=not notes)


def artifacts(place: Place) -> Iterator[Finding]:
    """Whether models and reports can be stored. Nothing of the file that is tried stays."""
    uri, notes = settled_uri(place.tracking_uri), list[str]()
    if not _asked(uri)[1]:
        found = "not tried, as the store cannot be read"
        yield Finding(kind="artifacts", name=redacted(uri), works=None, found=found)
        return
    root = artifact_root(place.storage, uri)
    try:
        check_artifacts(uri, PROJECT, root, notes.append)
    except TrackingError as error:
        yield Finding(kind="artifacts", name=redacted(root or uri), works=False, found=str(error), needed=True)
        return
    found = "; ".join(notes) or "a file was stored, read and removed"
    yield Finding(kind="artifacts", name=redacted(root or uri), works=True, found=found, needed=True)


def unlocked(place: Place) -> Iterator[Finding]:
    """Whether a SQLite file can be written now. Records wait while it cannot, so a sweep does not need it."""
    uri = settled_uri(place.tracking_uri)
    if not uri.startswith("sqlite") or not sqlite_file(uri).exists():
        return
    file = sqlite_file(uri)
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=LOCKED_S, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        found = f"{error}: end the process that holds {file} (lsof, fuser); until then a sweep's records wait"
        yield Finding(kind="MLflow store", name="lock", works=False, found=found)
    except sqlite3.DatabaseError:
        return  # no database: the check before this one says so
    else:
        yield Finding(kind="MLflow store", name="lock", works=True, found="nobody holds it")


def clock(place: Place) -> Iterator[Finding]:
    """A server's clock, which it names in each answer."""
    if not is_server(place.tracking_uri):
        return
    context = ssl._create_unverified_context()  # nothing is sent  # nosec B323
    url = redacted(place.tracking_uri).rstrip("/") + "/health"
    try:
        with urllib.request.urlopen(url, timeout=STORE_ANSWERS_WITHIN_S, context=context) as answer:  # nosec B310
            said = answer.headers.get("Date")
        ahead_s = parsedate_to_datetime(said or "").timestamp() - time.time()
    except (OSError, ValueError):
        return  # it does not answer, which the first check says, or not with a time
    yield clocks("MLflow server", ahead_s)
