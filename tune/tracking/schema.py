"""The tables of an MLflow database: made by this MLflow, by an older or a newer one, or by another program.

MLflow migrates an older database as soon as it opens it, and the MLflow that made it can then read it no more. So it is
looked at first, and never opened here unless its tables are this MLflow's own.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
import shlex
import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from tune.common.address import is_server, redacted, sqlite_file

_READ_WITHIN_S = 1.0  # a file that another process keeps locked is left to MLflow
_OURS = {"experiments", "runs"}  # tables of every MLflow
_BACKUPS = {"postgresql": "pg_dump", "mysql": "mysqldump"}


class Tables(NamedTuple):
    """The names of a database's tables, and the migration that was applied last; None before the first one."""

    names: frozenset[str]
    revision: str | None


def read_tables(tracking_uri: str) -> Tables | None:
    """The tables of a database, which is not changed. None where that cannot be told now, as of a locked file.

    Raises:
        sqlite3.DatabaseError: the file is no database, or damaged.
        Exception: a database's server does not let us in (SQLAlchemy's own words).
    """
    return _of_file(sqlite_file(tracking_uri)) if tracking_uri.startswith("sqlite") else _of_server(tracking_uri)


def is_empty(tracking_uri: str) -> bool:
    """True for a SQLite file that is missing or has no tables: the first sweep makes a store of it."""
    file = sqlite_file(tracking_uri)
    if not file.exists():
        return True
    tables = read_tables(tracking_uri)
    return tables is not None and not tables.names


def schema_problem(tracking_uri: str) -> str | None:
    """Why MLflow must not open this database, and what to do; None if it may, or if nobody can tell now.

    The words go behind "MLflow store ADDRESS ". A server looks after its own database.

    Raises:
        Exception: as read_tables, but for a SQLite file that is no database.
    """
    if is_server(tracking_uri) or (tracking_uri.startswith("sqlite") and not sqlite_file(tracking_uri).exists()):
        return None
    try:
        tables = read_tables(tracking_uri)
    except sqlite3.DatabaseError as error:
        return f"cannot be opened: {error}; name another file, or put a backup of it in its place"
    migrations = known_migrations()
    if tables is None or not tables.names or migrations.head is None or tables.revision == migrations.head:
        return None
    if tables.revision is None and not tables.names >= _OURS:
        some = ", ".join(sorted(tables.names)[:3])
        return f"is a database of another program (tables {some}): name a new file or an empty database"
    here = f"MLflow {_version()}"
    if tables.revision is not None and tables.revision not in migrations.all:
        return (
            f"was made by a newer MLflow: {here} does not know its schema {tables.revision}, and its `mlflow db "
            "upgrade` leads forward only. Use the newer MLflow, a backup from before the upgrade, or another store"
        )
    revision = tables.revision or "before the first migration"
    return (
        f"was made by an older MLflow (schema {revision}, {here} needs {migrations.head}) and was left as it is: the "
        f"older MLflow cannot read it once it is upgraded. Make a backup, then upgrade it: {_upgrade(tracking_uri)}; "
        "or name another store"
    )


def _upgrade(tracking_uri: str) -> str:
    command = f"mlflow db upgrade {shlex.quote(redacted(tracking_uri))}"
    if tracking_uri.startswith("sqlite"):
        file = sqlite_file(tracking_uri)
        return f"cp {shlex.quote(str(file))} {shlex.quote(f'{file}.backup')} && {command}"
    backup = _BACKUPS.get(tracking_uri.partition(":")[0].partition("+")[0], "the database's own tool")
    secret = " (with its user and password)" if redacted(tracking_uri) != tracking_uri else ""
    return f"{backup} for the backup, and {command}{secret}"


def _of_file(file: Path) -> Tables | None:
    address = f"file:{quote(str(file))}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_READ_WITHIN_S)) as database:
            names = frozenset(name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'"))
            revision = None
            if "alembic_version" in names:
                revision = next((row[0] for row in database.execute("SELECT version_num FROM alembic_version")), None)
    except sqlite3.OperationalError:  # locked, or unreadable: MLflow's own attempt says which
        return None
    return Tables(names - {"alembic_version"}, revision)


def _of_server(tracking_uri: str) -> Tables:
    import sqlalchemy
    from alembic.migration import MigrationContext

    engine = sqlalchemy.create_engine(tracking_uri)
    try:
        with engine.connect() as connection:
            names = frozenset(sqlalchemy.inspect(connection).get_table_names())
            revision = MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
    return Tables(names - {"alembic_version"}, revision)


class Migrations(NamedTuple):
    """The installed MLflow's migrations: all, and the last one; None if they cannot be told."""

    all: frozenset[str]
    head: str | None


@cache
def known_migrations() -> Migrations:
    """Read from MLflow's files, as importing mlflow takes seconds."""
    links = dict(_links())
    heads = links.keys() - {earlier for before in links.values() for earlier in before}
    return Migrations(frozenset(links), heads.pop() if len(heads) == 1 else None)


def _links() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(migration, those before it) of each file."""
    spec = importlib.util.find_spec("mlflow")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for file in Path(place, "store/db_migrations/versions").glob("*.py"):
            text = file.read_text(errors="replace")
            own = re.search(r"^revision\b[^=\n]*=\s*['\"](\w+)['\"]", text, re.MULTILINE)
            before: Any = re.search(r"^down_revision\b[^=\n]*=\s*(.+)$", text, re.MULTILINE)
            if own:
                yield own[1], tuple(re.findall(r"['\"](\w+)['\"]", before[1] if before else ""))


def _version() -> str:
    return importlib.metadata.version("mlflow")
