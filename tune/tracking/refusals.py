"""What to do about an error of an MLflow call, and its cause in words that say what to mend.

A refusal for access, path, space, a missing package or the network waits: what was refused is sent once the cause is
gone. Only a refusal for content, a value that MLflow cannot take, is for good.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tune.common.address import one_line, redacted_text
from tune.tracking.store import TrackingError

ErrorKind = Literal["retry", "blocked", "reject", "missing", "unknown"]
_REJECTED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "ALREADY_EXISTS", "RESOURCE_ALREADY_EXISTS"}
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
_SHUT = {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}
_RETRIED_STATUS = {401, 403, 408, 429}
_PASSING_STATUS = {408, 429}
_NO_MLFLOW = "API request to endpoint"  # how MLflow's client begins about an answer that no MLflow server gave
# SQLAlchemy's "(psycopg2.errors.InsufficientPrivilege) permission denied ..."; MLflow calls all of them BAD_REQUEST
_DATABASE_FAULT = re.compile(r"\((?:\w+\.)+(\w+)\) ")
_FAULTS_OF_CONTENT = {
    "DataError", "IntegrityError", "StringDataRightTruncation", "NumericValueOutOfRange", "UntranslatableCharacter",
    "CharacterNotInRepertoire", "InvalidTextRepresentation", "UniqueViolation", "NotNullViolation", "CheckViolation",
    "ForeignKeyViolation",
}  # fmt: skip
_FULL = {errno.ENOSPC: "is full", errno.EDQUOT: "is full (quota)", errno.EFBIG: "takes no file this large (ulimit -f)"}
_SHUT_FILE = {errno.EACCES: "by uid", errno.EPERM: "by uid", errno.EROFS: "(read-only file system), not even by uid"}
# module -> the package to install, where the names differ
_PACKAGES = {
    "google": "google-cloud-storage", "azure": "azure-storage-blob azure-identity", "botocore": "boto3",
    "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient",
}  # fmt: skip


class CannotStore(Exception):
    """A file cannot be stored for now; the message is the cause, in one line.

    passes: whether the cause may pass by itself, as an outage does; otherwise somebody has to mend it.
    """

    def __init__(self, cause: str, *, passes: bool) -> None:
        super().__init__(cause)
        self.passes = passes


class NotThere(ValueError):
    """What a record names is not there, or not what it should be; the message is one line."""


def classify(error: Exception) -> ErrorKind:
    """What to do about an error of an MLflow call.

    `retry` later; `blocked`: later too, but somebody must mend the cause; `reject` the content; look a `missing` run
    up. Wrong credentials and a store that cannot be opened count as `retry`: rejecting every record because of an
    expired token would lose the sweep. An error that is none of these is `unknown`.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    if isinstance(error, TrackingError):
        return "retry"
    if isinstance(error, CannotStore):
        return "retry" if error.passes else "blocked"
    if isinstance(error, LookupError | NotThere):
        return "reject"
    if isinstance(error, MlflowException):
        if error.error_code in _MISSING:
            return "missing"
        return "reject" if _for_content(error.error_code, str(error)) else "retry"
    if isinstance(error, RequestException):
        status = error.response.status_code if error.response is not None else 500
        return "retry" if status >= 500 or status in _RETRIED_STATUS else "reject"
    return "blocked" if isinstance(error, OSError | ImportError) else "unknown"


def _for_content(error_code: str, text: str) -> bool:
    if error_code not in _REJECTED or text.startswith(_NO_MLFLOW):
        return False
    fault = _DATABASE_FAULT.search(text) if error_code == "BAD_REQUEST" else None
    return fault is None or fault[1] in _FAULTS_OF_CONTENT


@contextmanager
def storing(place: str) -> Iterator[None]:
    """Turns any error of a transfer to the artifact store `place` into CannotStore: no transfer refuses content."""
    try:
        yield
    except Exception as error:
        raise CannotStore(cause_of(error, place), passes=_passes(error)) from error


@contextmanager
def drafts(prefix: str) -> Iterator[Path]:
    """A temporary folder. CannotStore, which names the folder for temporary files, if none can be made."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_drafts(error) from error
    with folder as path:
        yield Path(path)


@contextmanager
def drafting() -> Iterator[None]:
    """Turns an error while a draft is written into CannotStore; a full disk is the one of the temporary files."""
    try:
        yield
    except OSError as error:  # shutil.Error too, which has no number
        full = error.errno in _FULL or any(os.strerror(number) in str(error) for number in _FULL)
        raise _no_drafts(error) if full else CannotStore(cause_of(error, ""), passes=False) from error


def _no_drafts(error: OSError) -> CannotStore:
    text = str(error)
    number = next((number for number in _FULL if error.errno == number or os.strerror(number) in text), None)
    try:
        place = tempfile.gettempdir()
    except OSError:  # no folder is usable: Python tried them all
        place = os.environ.get("TMPDIR") or "/tmp"  # nosec B108
    why = _FULL[number] if number is not None else f"cannot be written ({error.strerror or one_line(error)})"
    return CannotStore(f"the folder for temporary files {place} {why}: mend it, or set TMPDIR to another", passes=False)


def cause_of(error: BaseException, place: str) -> str:
    """The real cause of an error of a file operation or a transfer to `place`, in one line without secrets."""
    for link in _chain(error):
        if isinstance(link, ImportError):
            module = link.name or str(link)
            package = _PACKAGES.get(module.partition(".")[0], module)
            return redacted_text(f"no package {package} for {place}: pip install {package}")
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno is not None and (words := _file_cause(link, place)):
            return redacted_text(words)
    status = _status(error)
    if status in (401, 403):
        return redacted_text(f"{place} refuses the upload ({status}): {one_line(error)}")
    return redacted_text(f"{place or 'a file'}: {one_line(error)}")


def _file_cause(error: OSError, place: str) -> str | None:
    address = urlsplit(place)
    root = address.path if address.scheme in ("", "file") else place
    path = str(error.filename2 or error.filename or root)
    below_root = root.startswith("/") and Path(path).is_relative_to(root)
    # One cause has one text, whichever run's folder it shows in.
    if error.errno in _FULL:
        return f"{root if below_root else path} {_FULL[error.errno]}"
    if error.errno in (errno.EPERM, errno.ENOTSUP) and os.access(path, os.W_OK):  # written, and then not copied whole
        return f"{path} was written, but its file system refuses chmod: mount it so that chmod is ignored"
    if error.errno in _SHUT_FILE:
        there = _nearest(Path(path))
        source = str(there) == path and not os.access(path, os.R_OK)
        return f"{there} is not {'readable' if source else 'writable'} {_SHUT_FILE[error.errno]} {os.getuid()}"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{_nearest(Path(path))} is a file where a folder is needed"
    return f"{path} is not there" if error.errno == errno.ENOENT and error.filename else None


def _nearest(path: Path) -> Path:
    """The deepest part of a path that exists; a file in the way of a folder is one."""
    return next((part for part in (path, *path.parents) if os.path.lexists(part)), path)


def _passes(error: BaseException) -> bool:
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    if isinstance(error, RequestException):
        return (status := _status(error)) is None or status >= 500 or status in _PASSING_STATUS
    if isinstance(error, MlflowException):
        return not any(isinstance(link, ImportError) for link in _chain(error)) and error.error_code not in _SHUT
    return isinstance(error, ConnectionError | TimeoutError)


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
