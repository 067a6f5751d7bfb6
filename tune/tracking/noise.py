"""Libraries below MLflow that write whole tracebacks to stderr about errors which we report in one line."""

from __future__ import annotations

import logging

# Logger -> the least level that is still shown. All of their errors reach us as exceptions.
_LEAST = {
    "mlflow.store": logging.CRITICAL,  # logs each error of SQLAlchemy with its traceback, then raises it
    "mlflow.tracking": logging.CRITICAL,
    "mlflow.utils": logging.CRITICAL,
    "alembic": logging.WARNING,  # two lines about a new SQLite file
    "sqlalchemy": logging.CRITICAL,
    "urllib3": logging.ERROR,  # a warning for each attempt to reach a server
    "botocore": logging.CRITICAL,
    "google": logging.CRITICAL,
    "azure": logging.CRITICAL,
}


def quiet_libraries() -> None:
    """Let MLflow and what it uses report by exceptions alone. Call it after mlflow's import, which sets levels."""
    for name, level in _LEAST.items():
        logging.getLogger(name).setLevel(level)
