"""Links into the MLflow UI. They name the view of model training: MLflow opens its GenAI pages for a new reader."""

from __future__ import annotations

from urllib.parse import urlencode

from tune.common.address import is_server, redacted
from tune.tracking.reader import ask_store, list_sweeps
from tune.tracking.store import PROJECT, TrackingError

LOCAL = "http://127.0.0.1:5000"  # where `ui` serves a store of this machine
TRAINING = {"workflowType": "machine_learning"}


def runs_path(experiment_id: str, **query: str) -> str:
    """The list of an experiment's runs, within the UI."""
    return f"#/experiments/{experiment_id}/runs?{urlencode(TRAINING | query)}"


def sweep_path(experiment_id: str, sweep_id: str, **query: str) -> str:
    """The saved view of one sweep (tune.tracking.ui_notes), within the UI."""
    return runs_path(experiment_id, viewStateShareKey=sweep_id, **query)


def ui_link(tracking_uri: str, sweep_id: str | None, local: str = LOCAL) -> str:
    """The address of a sweep's view, or of the list of all sweeps; of the UI alone if the store is away or has none.

    local: where the UI of a store that is no server is.
    """
    base = redacted(tracking_uri).rstrip("/") if is_server(tracking_uri) else local
    try:
        experiment = ask_store(tracking_uri, 5.0, lambda client: client.get_experiment_by_name(PROJECT))
    except TrackingError:
        experiment = None
    if experiment is None:
        return base
    found = experiment.experiment_id
    return f"{base}/{runs_path(found) if sweep_id is None else sweep_path(found, sweep_id)}"


def latest_sweep(tracking_uri: str) -> str | None:
    """The id of the sweep that began last; None if the store has none."""
    try:
        return next((sweep.sweep_id for sweep in list_sweeps(tracking_uri, PROJECT, limit=1)), None)
    except TrackingError:
        return None
