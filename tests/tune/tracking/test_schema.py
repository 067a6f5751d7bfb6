"""Databases that another MLflow or another program made: they are refused in one line and left as they are."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from server_kit import postgres

from tune.commands.main import main
from tune.common.errors import WRONG_INPUT
from tune.tracking.access import check_access
from tune.tracking.reader import list_sweeps
from tune.tracking.schema import known_migrations, read_tables, schema_problem
from tune.tracking.store import PROJECT, NotNow, TrackingError, check_store, open_client

OLDER = "acf3f17fdcc7"  # MLflow 2.9.2's
SWEEP = ["--sweep", "pruning", "--dataset", "demo"]


def stamp(file: Path, revision: str) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def older(file: Path) -> None:
    stamp(file, OLDER)


def newer(file: Path) -> None:
    stamp(file, "ffffffffffff")


def half_made(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("DROP TABLE alembic_version")


def another_program(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE songs (name TEXT)")


def no_database(file: Path) -> None:
    file.write_text("no database at all, whatever its name says\n" * 100)


def damaged(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100:4096] = bytes(3996)
    file.write_bytes(content)


KINDS = [
    (older, r"was made by an older MLflow \(schema acf3f17fdcc7, .* cp (\S+) \1.backup && mlflow db upgrade sqlite:///\1"),
    (half_made, "was made by an older MLflow .schema before the first migration, .*mlflow db upgrade sqlite:///"),
    (newer, "was made by a newer MLflow: .* does not know its schema ffffffffffff"),
    (another_program, "is a database of another program .tables songs.: name a new file"),
    (no_database, "cannot be opened: file is not a database; name another file"),
    (damaged, "cannot be opened: database disk image is malformed; name another file"),
]  # fmt: skip


@pytest.fixture
def file(empty_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


@pytest.mark.parametrize(("change", "words"), KINDS)
def test_a_database_that_is_not_this_mlflows_is_refused_by_whatever_opens_it_and_not_changed(
    change: Callable[[Path], None], words: str, file: Path, tmp_path: Path
) -> None:
    change(file)
    before, uri = file.read_bytes(), f"sqlite:///{file}"
    ways: list[Callable[[], object]] = [
        lambda: check_store(uri),
        lambda: open_client(uri),
        lambda: list_sweeps(uri, PROJECT),
        lambda: check_access(uri, PROJECT, 20, pytest.fail),
    ]
    for way in ways:
        with pytest.raises(TrackingError, match=f"^MLflow store {uri} {words}") as refused:
            way()
        assert "\n" not in str(refused.value)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("command", [["list", "runs"], ["report", "x"], SWEEP])
def test_commands_refuse_an_older_database_in_one_line_and_leave_it_as_it_is(
    command: list[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    older(file)
    before = file.read_bytes()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(command) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: MLflow store sqlite:///") and "was made by an older MLflow" in line
    assert file.read_bytes() == before


def test_an_empty_file_is_no_store_yet_for_readers_and_becomes_one_for_writers(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(TrackingError, match="there is no MLflow store at .* yet"):
        list_sweeps(uri, PROJECT)
    assert (tmp_path / "mlflow.db").stat().st_size == 0
    check_store(uri)
    assert open_client(uri).get_experiment_by_name(PROJECT) is None


def test_the_migrations_are_those_that_mlflow_itself_knows() -> None:
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config, _get_latest_schema_revision

    known, script = known_migrations(), ScriptDirectory.from_config(_get_alembic_config(""))
    assert known.head == _get_latest_schema_revision()
    assert known.all == {revision.revision for revision in script.walk_revisions()}
    assert OLDER in known.all


def test_a_store_that_mlflow_made_is_no_problem(file: Path) -> None:
    assert schema_problem(f"sqlite:///{file}") is None
    tables = read_tables(f"sqlite:///{file}")
    assert tables is not None and tables.revision == known_migrations().head


@pytest.fixture
def locked(file: Path) -> Iterator[str]:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield f"sqlite:///{file}?timeout=1"


def test_a_locked_store_may_be_free_later(locked: str) -> None:
    check_store(locked)
    with pytest.raises(NotNow, match="is locked by another process: wait for it, or end it"):
        open_client(locked)
    said: list[str] = []
    assert not check_access(locked, PROJECT, 30, said.append)
    assert len(said) == 1 and said[0].endswith("until that has passed, records wait")


@pytest.mark.cluster
def test_an_older_or_newer_database_of_a_server_is_refused_and_not_changed() -> None:
    import sqlalchemy

    with postgres() as uri:
        check_access(uri, PROJECT, 60, pytest.fail)  # makes the tables
        engine = sqlalchemy.create_engine(uri)
        for revision, words in ((OLDER, "older MLflow.* pg_dump for the backup"), ("ffffffffffff", "newer MLflow")):
            with engine.begin() as connection:
                connection.execute(sqlalchemy.text(f"UPDATE alembic_version SET version_num = '{revision}'"))
            with pytest.raises(TrackingError, match=words) as refused:
                check_access(uri, PROJECT, 60, pytest.fail)
            assert uri.partition("sweeps:")[2].partition("@")[0] not in str(refused.value)
            tables = read_tables(uri)
            assert tables is not None and tables.revision == revision
        engine.dispose()
