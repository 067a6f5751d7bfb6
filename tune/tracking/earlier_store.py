"""Files of trials that lie only in the store where their sweep was recorded before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tune.storage.outbox import Record
from tune.tracking.model_package import download_model
from tune.tracking.reader import ask_store, experiment_id
from tune.tracking.runs import find_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ANSWERS_WITHIN_S = 5.0


def fetch_from(
    tracking_uris: Iterable[str], experiment: str, unless: str
) -> Callable[[Record, str, Path], bool] | None:
    """A `fetch` for an Uploader that asks these stores, one after another; None without any.

    unless: the address of the store that is written.
    """
    stores = [uri for uri in tracking_uris if uri != unless]
    if not stores:
        return None

    def fetch(record: Record, part: str, target: Path) -> bool:
        return any(_fetch(uri, experiment, record, part, target) for uri in stores)

    return fetch


def _fetch(uri: str, experiment: str, record: Record, part: str, target: Path) -> bool:
    def ask(client: MlflowClient) -> None:
        import mlflow.artifacts

        query = f"tags.sweep_id = '{record['sweep_id']}' AND tags.trial_id = '{record['trial_id']}'"
        run_id = find_runs(client, experiment_id(client, experiment), query)[0].info.run_id
        if part == "model":
            download_model(client, run_id, target)
        else:
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"runs:/{run_id}/{part}", dst_path=str(target.parent), tracking_uri=uri
            )

    try:
        ask_store(uri, _ANSWERS_WITHIN_S, ask)
    except Exception:  # it cannot give the files, whatever the reason; the caller says which are missing
        return False
    return target.is_dir()
