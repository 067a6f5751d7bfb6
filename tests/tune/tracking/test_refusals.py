"""How errors of a store are classified."""

import pytest

from tune.tracking.refusals import classify

# SQLAlchemy 2.1 warns about MLflow 3.17's imports.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def test_an_error_is_retried_unless_mlflow_refuses_the_record() -> None:
    from mlflow.exceptions import MlflowException, RestException

    assert classify(MlflowException("API request failed with exception")) == "retry"
    assert classify(RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "no"})) == "reject"
    assert classify(RestException({"error_code": "PERMISSION_DENIED", "message": "no"})) == "retry"
    assert classify(RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"})) == "missing"
    assert classify(PermissionError("artifacts")) == "unknown"
