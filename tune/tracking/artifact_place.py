"""Where the artifacts of a SQLite store lie. MLflow records absolute paths, which are wrong once a folder has moved.

The artifacts of our experiment lie in the folder `mlartifacts` beside the sweeps. If the storage moves or is copied,
the store's records have to follow: they name the old folder, which MLflow would make again, or the folder that was
copied from. Only paths of our experiment are changed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tune.common.address import redacted, settled_uri, sqlite_file
from tune.tracking.store import TrackingError

ARTIFACTS = "mlartifacts"  # the folder beside the sweeps
# Columns with the path of an artifact folder, of rows that name their experiment
_COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))
LOCKED_S = 30.0
Say = Callable[[str], None]


def settle_artifacts(tracking_uri: str, experiment: str, storage: Path, say: Say) -> None:
    """Before anything is written: let the experiment's artifacts lie in `storage` if they moved or were copied with it.

    `say` gets a line if the store's records are changed, or if the artifacts lie outside of `storage`. Does nothing for
    a store that is no SQLite file, and for one without MLflow's tables. Raises TrackingError if the store is locked.
    """
    uri, root = settled_uri(tracking_uri), (storage / ARTIFACTS).absolute()
    if not uri.startswith("sqlite") or not (file := sqlite_file(uri)).exists():
        return
    try:
        with closing(sqlite3.connect(file, timeout=LOCKED_S)) as database, database:
            _settle(database, file, experiment, root, say)
    except sqlite3.Error as error:
        if "locked" in str(error):
            problem = f"another process has locked it for {LOCKED_S:g} s; end that process, or try again"
            raise TrackingError(f"MLflow store {redacted(uri)}: {problem}") from error


def _settle(database: sqlite3.Connection, store: Path, experiment: str, root: Path, say: Say) -> None:
    query = "SELECT experiment_id, artifact_location FROM experiments WHERE name = ?"
    row = database.execute(query, (experiment,)).fetchone()
    if row is None or (before := local_path(row[1])) is None or _same(before, root):
        return
    if before.parent.exists() and not _copied_along(store, before.parent, root.parent):
        say(f"MLflow keeps the artifacts of all sweeps of this store in {before}, outside of --storage-path")
    elif any(_held(database, row[0], before, root)):
        _rename(database, row[0], before, root)
        say(f"MLflow's artifacts came along: its records named {before}, and name {root} from now on")
    else:
        change = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
        database.execute(change, (root.as_uri(), row[0]))
        say(f"MLflow's artifacts so far are not here: its records name {before}; new ones go to {root}")


def _copied_along(store: Path, before: Path, storage: Path) -> bool:
    """Whether the store was copied together with its storage, from `before`: another store lies there as this one here.

    Otherwise it may be the only one, whose records belong to the folder that it names.
    """
    other = Path(os.path.normpath(before / os.path.relpath(store, storage)))
    return other.exists() and not other.samefile(store)


def _held(database: sqlite3.Connection, experiment_id: int, before: Path, root: Path) -> Iterator[bool]:
    """Of each run and model whose artifacts are recorded below `before`: whether they lie below `root`.

    Their folders have the ids of runs and models, so a folder of another store is not taken for them.
    """
    for table, column in _COLUMNS[1:]:
        query = f"SELECT {column} FROM {table} WHERE experiment_id = ?"  # constants above  # nosec B608
        for (uri,) in database.execute(query, (experiment_id,)):
            path = local_path(uri)
            if path is not None and path.is_relative_to(before):
                yield (root / path.relative_to(before)).is_dir()


def _rename(database: sqlite3.Connection, experiment_id: int, before: Path, root: Path) -> None:
    for table, column in _COLUMNS:
        query = f"SELECT rowid, {column} FROM {table} WHERE experiment_id = ?"  # nosec B608
        for rowid, uri in database.execute(query, (experiment_id,)).fetchall():
            path = local_path(uri)
            if path is not None and path.is_relative_to(before):
                now = (root / path.relative_to(before)).as_uri()
                database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (now, rowid))  # nosec B608


def found_artifacts(location: str, roots: Sequence[Path]) -> Path | None:
    """The folder that a store records as `location`: below the first of `roots` that has it, else where it says.

    None if `location` is not in the file system, or is in none of these places.
    """
    recorded = local_path(location)
    if recorded is None:
        return None
    tail = recorded.parts[recorded.parts.index(ARTIFACTS) + 1 :] if ARTIFACTS in recorded.parts else None
    places = [] if tail is None else [root.joinpath(*tail) for root in roots]
    return next((place for place in (*places, recorded) if place.is_dir()), None)


def artifact_roots(tracking_uri: str, storage: Path) -> list[Path]:
    """Where the artifacts of a SQLite store may lie if it was moved: in `storage`, or in the usual one beside it."""
    uri = settled_uri(tracking_uri)
    if not uri.startswith("sqlite"):
        return []
    return list(dict.fromkeys([(storage / ARTIFACTS).absolute(), sqlite_file(uri).parent / "runs" / ARTIFACTS]))


def local_path(location: str | None) -> Path | None:
    """The path of a `file:` URI or of a bare absolute path; None for anything else."""
    if location is None or location.startswith("/"):
        return None if location is None else Path(location)
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" and parts.netloc in ("", "localhost") else None


def _same(one: Path, other: Path) -> bool:
    return one == other or (one.exists() and other.exists() and one.samefile(other))
