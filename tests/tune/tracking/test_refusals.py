"""What an error of a store means: whether a record waits, and which words name the cause."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
import requests

from tune.tracking.refusals import CannotStore, NotThere, cause_of, classify, drafting, drafts, storing
from tune.tracking.store import TrackingError

# SQLAlchemy 2.1 warns about MLflow 3.17's imports.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def _answer(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(str(status), response=response)


def _rest(code: str, message: str = "no") -> Exception:
    from mlflow.exceptions import RestException

    return RestException({"error_code": code, "message": message})


def _mlflow(message: str, code: str = "INTERNAL_ERROR") -> Exception:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    return MlflowException(message, error_code=ErrorCode.Value(code))


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("INVALID_PARAMETER_VALUE", "Invalid metric name: 'a (%)'", "reject"),
        ("BAD_REQUEST", "(psycopg2.errors.StringDataRightTruncation) value too long", "reject"),
        ("BAD_REQUEST", "(sqlite3.IntegrityError) NOT NULL constraint failed", "reject"),
        ("BAD_REQUEST", "(psycopg2.errors.InsufficientPrivilege) permission denied for table runs", "retry"),
        ("BAD_REQUEST", "(psycopg2.errors.ReadOnlySqlTransaction) cannot execute INSERT", "retry"),
        ("BAD_REQUEST", "(pymysql.err.ProgrammingError) (1146, 'no table')", "retry"),
        ("PERMISSION_DENIED", "no", "retry"),
        ("TEMPORARILY_UNAVAILABLE", "no", "retry"),
        ("RESOURCE_DOES_NOT_EXIST", "no", "missing"),
    ],
)
def test_mlflow_refuses_a_record_for_good_only_for_what_is_in_it(code: str, message: str, kind: str) -> None:
    assert classify(_rest(code, message)) == kind
    assert classify(_mlflow(message, code)) == kind


@pytest.mark.parametrize("code", ["BAD_REQUEST", "ALREADY_EXISTS", "ENDPOINT_NOT_FOUND"])
def test_an_answer_that_no_mlflow_server_gave_refuses_nothing_for_good(code: str) -> None:
    text = "API request to endpoint /api/2.0/mlflow/runs/log-batch failed with error code 400 != 200. Response body: x"
    assert classify(_mlflow(text, code)) == "retry"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TrackingError("away"), "retry"),
        (LookupError("no run"), "reject"),
        (NotThere("no model"), "reject"),
        (requests.ConnectionError(), "retry"),
        (_answer(503), "retry"),
        (_answer(403), "retry"),
        (_answer(400), "reject"),
        (PermissionError(errno.EACCES, "no", "/x"), "blocked"),
        (OSError(errno.ENOSPC, "full"), "blocked"),
        (ModuleNotFoundError("no", name="boto3"), "blocked"),
        (CannotStore("full", passes=False), "blocked"),
        (CannotStore("away", passes=True), "retry"),
        (TypeError("a bug"), "unknown"),
    ],
    ids=repr,
)
def test_access_path_space_packages_and_network_wait(error: Exception, kind: str) -> None:
    assert classify(error) == kind


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'boto3'", name="boto3"), "no package boto3 for PLACE: pip install boto3"),
        (ModuleNotFoundError("x", name="google.cloud"), "pip install google-cloud-storage"),
        (ModuleNotFoundError("x", name="azure.storage"), "pip install azure-storage-blob azure-identity"),
        (ModuleNotFoundError("x", name="pysftp"), "pip install pysftp"),
        (PermissionError(errno.EACCES, "no", "/proc/none/y"), f"/proc is not writable by uid {os.getuid()}"),
        (OSError(errno.EROFS, "no", "/none"), "/ is not writable (read-only file system), not even by uid "),
        (OSError(errno.ENOSPC, "full", "/from", None, "/to"), "/to is full"),
        (OSError(errno.ENOSPC, "full"), "PLACE is full"),
        (OSError(errno.EDQUOT, "quota", "/q"), "/q is full (quota)"),
        (OSError(errno.ENOSPC, "full", "/store/1/run/file"), "/store is full"),
        (OSError(errno.EFBIG, "large", "/q"), "/q takes no file this large"),
        (FileNotFoundError(errno.ENOENT, "none", "/gone"), "/gone is not there"),
        (_answer(403), "PLACE refuses the upload (403)"),
        (RuntimeError("http://u:secret@host/x\nfails"), "PLACE: RuntimeError: http://host/x fails"),
    ],
    ids=repr,
)
def test_a_cause_is_one_line_that_says_what_to_mend(error: Exception, words: str) -> None:
    cause = cause_of(error, "file:///store" if "/store" in words else "PLACE")
    assert words in cause
    assert "\n" not in cause and "secret" not in cause


def test_the_cause_is_found_below_what_libraries_make_of_it() -> None:
    try:
        try:
            raise ModuleNotFoundError("No module named 'boto3'", name="boto3")
        except ImportError as error:
            raise RuntimeError("upload failed") from error
    except RuntimeError as error:
        assert cause_of(error, "s3://bucket/x") == "no package boto3 for s3://bucket/x: pip install boto3"


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(CannotStore) as caught, storing(str(tmp_path)):
        (tmp_path / "root" / "run").mkdir()
    assert str(caught.value) == f"{tmp_path}/root is a file where a folder is needed"
    assert not caught.value.passes


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (requests.ConnectionError("refused"), True),
        (_answer(503), True),
        (_answer(429), True),
        (_answer(413), False),
        (_answer(403), False),
        (TimeoutError("slow"), True),
        (PermissionError(errno.EACCES, "no", "/x"), False),
        (TypeError("a bug"), False),
    ],
    ids=repr,
)
def test_only_what_may_pass_by_itself_is_waited_for(error: Exception, passes: bool) -> None:
    with pytest.raises(CannotStore) as caught, storing("there"):
        raise error
    assert caught.value.passes == passes


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("bundled", [False, True], ids=["plain", "shutil.Error"])
def test_a_full_folder_for_temporary_files_is_named_and_not_the_store(number: int, bundled: bool) -> None:
    import shutil

    error = OSError(number, os.strerror(number))
    with pytest.raises(CannotStore) as caught, drafting():
        raise shutil.Error([("a", "b", str(error))]) if bundled else error
    assert f"the folder for temporary files {tempfile.gettempdir()} " in str(caught.value)
    assert "TMPDIR" in str(caught.value)


def test_a_folder_for_temporary_files_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(CannotStore, match=f"temporary files {tmp_path}/gone cannot be written"), drafts("x-"):
        pass


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_that_takes_a_file_and_refuses_its_mode_is_told_from_one_that_is_shut(
    tmp_path: Path, number: int
) -> None:
    file = tmp_path / "model.bin"
    file.write_text("x")
    refused = OSError(number, os.strerror(number), str(file))
    assert cause_of(refused, tmp_path.as_uri()) == (
        f"{file} was written, but its file system refuses chmod: mount it so that chmod is ignored"
    )
