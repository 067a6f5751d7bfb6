"""A small file is stored, read back and removed before the first trial: models go to the same place after the last."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tune.common.address import is_server, one_line, redacted, settled_uri
from tune.common.files import without_new_folders
from tune.tracking.artifact_place import ARTIFACTS
from tune.tracking.refusals import CannotStore, drafting, drafts, storing
from tune.tracking.schema import is_empty
from tune.tracking.store import TrackingError, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORED_WITHIN_S = 60.0
_SIZE = 256 * 1024  # bytes: more than what a full disk still takes by chance, and a moment on a slow line
_FILE = "sweep-probe.bin"
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
Say = Callable[[str], None]


def artifact_root(storage_path: Path, tracking_uri: str) -> str | None:
    """Where a new experiment of a SQLite store keeps its artifacts: beside the sweeps. Others choose by themselves."""
    return (storage_path / ARTIFACTS).absolute().as_uri() if tracking_uri.startswith("sqlite") else None


def check_artifacts(
    tracking_uri: str, experiment: str, root: str | None, say: Say, *, timeout_s: float = STORED_WITHIN_S
) -> None:
    """Store, read and remove a small file where the experiment's artifacts go; nothing of it stays in the UI.

    root: where they go if the experiment is yet to be made; None where the store chooses. A place that forbids removing
    is accepted: `say` gets a line. Takes at most about `timeout_s` s, and about 0.1 s on a disk, beside importing
    mlflow.

    Raises:
        TrackingError: the file cannot be stored or read. The line names the place, the cause and what to do.
    """
    import mlflow.tracking  # noqa: F401  before the clock starts: this takes seconds

    uri = settled_uri(tracking_uri)
    places, notes, errors = list[str](), list[str](), list[Exception]()

    def probe() -> None:
        try:
            with _place(uri, experiment, root) as place:
                places.append(place)
                notes.extend(_try(place, uri))
        except Exception as error:
            errors.append(error)

    # Clients of object stores retry for minutes; this thread then ends with the process.
    probing = threading.Thread(target=probe, name="artifact-probe", daemon=True)
    with _few_retries():
        probing.start()
        probing.join(timeout_s)
    where = _shown(places[0]) if places else f"the artifact store of {redacted(uri)}"
    if probing.is_alive():
        raise TrackingError(
            f"a file of {_SIZE // 1024} KiB could not be stored at {where} within {timeout_s:g} s, and models are "
            "larger: mend that place, or use another MLflow store"
        )
    if errors:
        _raise(errors[0], where)
    for note in notes:
        say(note)


def _raise(error: Exception, where: str) -> None:
    if isinstance(error, TrackingError):
        raise error
    cause = str(error) if isinstance(error, CannotStore) else one_line(error)
    raise TrackingError(
        f"models and reports could not be stored at {where}: {cause}; mend that, or use another MLflow store"
    ) from error


def _shown(place: str) -> str:
    return unquote(urlsplit(place).path) if place.startswith("file:") else redacted(place)


@contextmanager
def _place(uri: str, experiment: str, root: str | None) -> Iterator[str]:
    """The artifact location of the experiment. A store that is to choose one for it chooses one for a passing one."""
    if uri.startswith("sqlite") and root is not None and is_empty(uri):
        yield root
        return
    client = open_client(uri)
    known = client.get_experiment_by_name(experiment)
    if known is not None:
        yield str(known.artifact_location)
    elif root is not None and not is_server(uri):
        yield root
    else:
        passing = client.create_experiment(f"{experiment}-probe-{uuid.uuid4().hex}")
        try:
            yield _location(client, passing)
        finally:
            client.delete_experiment(passing)  # the UI shows no deleted ones


def _location(client: MlflowClient, experiment_id: str) -> str:
    return str(client.get_experiment(experiment_id).artifact_location)


def _try(place: str, uri: str) -> Iterator[str]:
    """Store, read and remove; gives a line where removing is forbidden. Raises CannotStore."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if place.startswith("dbfs:"):
        yield f"{_shown(place)} stores the files of runs only: whether it takes them shows at the first trial's end"
        return
    folder, content = f"sweep-probe-{uuid.uuid4().hex}", os.urandom(_SIZE)
    with drafts("mlflow-probe-") as temporary:
        with drafting():
            (temporary / _FILE).write_bytes(content)
            (temporary / "back").mkdir()
        with storing(place):
            repository = get_artifact_repository(place, tracking_uri=uri)
        with without_new_folders(Path(getattr(repository, "artifact_dir", "/"))):
            try:
                with storing(place):
                    repository.log_artifact(str(temporary / _FILE), folder)
                    back = repository.download_artifacts(f"{folder}/{_FILE}", dst_path=str(temporary / "back"))
                if Path(back).read_bytes() != content:
                    raise CannotStore(f"{place} gave back another file than it was given", passes=False)
            except CannotStore:
                with suppress(Exception):
                    repository.delete_artifacts(folder)
                raise
            try:
                repository.delete_artifacts(folder)
            except Exception as error:
                yield (
                    f"{_shown(place)} stores files and lets nobody remove them ({one_line(error)}): the probe "
                    f"{folder}/{_FILE} stays there"
                )


@contextmanager
def _few_retries() -> Iterator[None]:
    """MLflow's client repeats a refused call 7 times, for minutes. Here its first answers say enough."""
    if _RETRIES in os.environ:
        yield
        return
    os.environ[_RETRIES] = "1"
    try:
        yield
    finally:
        os.environ.pop(_RETRIES, None)
