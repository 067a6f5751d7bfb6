"""What to do about an error of an MLflow call."""

from __future__ import annotations

from typing import Literal

from tune.tracking.store import TrackingError

ErrorKind = Literal["retry", "reject", "missing", "unknown"]
_REJECTED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "ALREADY_EXISTS", "RESOURCE_ALREADY_EXISTS"}
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
_RETRIED_STATUS = {401, 403, 408, 429}


def classify(error: Exception) -> ErrorKind:
    """What to do about an error of an MLflow call: `retry` later, `reject` the record, look a `missing` run up.

    Wrong credentials and a store that cannot be opened count as `retry`: rejecting every record because of an expired
    token would lose the sweep. An error that is not MLflow's is `unknown`, such as an artifact store's PermissionError.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    if isinstance(error, TrackingError):
        return "retry"
    if isinstance(error, LookupError):
        return "reject"
    if isinstance(error, MlflowException):
        if error.error_code in _MISSING:
            return "missing"
        return "reject" if error.error_code in _REJECTED else "retry"
    if isinstance(error, RequestException):
        status = error.response.status_code if error.response is not None else 500
        return "retry" if status >= 500 or status in _RETRIED_STATUS else "reject"
    return "unknown"
