"""Finds the model that a user names: a folder, an MLflow run, the best trial of a sweep, or a trial.

Imports mlflow only when it reads the store.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.facts import FACTS
from tune.common.errors import WrongInput
from tune.common.ids import sweep_meant
from tune.common.published import stored_rules
from tune.tracking.artifact_place import artifact_roots
from tune.tracking.model_package import FILES_PATH, ModelIsGone, NotAModel, download_model
from tune.tracking.reader import ask_store, experiment_id, summaries
from tune.tracking.refusals import classify
from tune.tracking.runs import find_runs
from tune.tracking.store import PROJECT, STORE_ANSWERS_WITHIN_S

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


HAS_MODEL = ("done",)  # a trial that a scheduler stopped has no best model
RANKED_BY = "final/val_mse"


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """The folder of a saved model, and a description of it."""

    folder: Path
    words: str


def find_model(name: str, *, tracking_uri: str, storage: Path, scratch: Path) -> FoundModel:
    """The model that `name` means; a model in MLflow is downloaded into `scratch`, an existing folder.

    `name` is one of these; a folder that holds a model comes first:
    - a folder: a saved model, or an MLflow model or checkpoint with one inside;
    - the id of an MLflow run, or runs:/ID/model;
    - a sweep id: its done trial with the smallest validation MSE;
    - a trial id: of the newest sweep that has this trial.

    The files of a model in a SQLite store are looked for in `storage` too, which may have moved.

    Raises WrongInput, and TrackingError if the store does not answer.
    """
    path = Path(name).expanduser()
    for folder in (path, path / "model", path / FILES_PATH, path / "model" / FILES_PATH):
        if (folder / FACTS).is_file():
            return FoundModel(folder=folder, words=str(folder))
    if name.startswith("runs:"):
        uri = re.fullmatch(r"runs:/+([0-9a-f]{32})(/model)?/?", name)
        if uri is None:
            raise WrongInput(f"RUN {name}: write runs:/RUN_ID/model, with the 32 hexadecimal digits of an MLflow run")
        name = uri[1]
    elif "/" in name or path.is_dir():
        problem = f"it holds no {FACTS}" if path.is_dir() else "there is no such folder"
        raise WrongInput(f"RUN {name}: {problem}; give the folder of a saved model, an MLflow run id, or a sweep id")
    roots = artifact_roots(tracking_uri, storage)
    return ask_store(
        tracking_uri, STORE_ANSWERS_WITHIN_S, lambda client: _fetch(client, name, scratch / "model", roots)
    )


def _fetch(client: MlflowClient, name: str, target: Path, roots: Sequence[Path]) -> FoundModel:
    run, why = _find_run(client, name)
    tags = run.data.tags
    trial = f"trial {tags.get('trial_id', run.info.run_name)} of {tags.get('sweep_id', 'no sweep')}"
    status = tags.get("status")
    if not stored_rules(tags).keeps_model:
        raise WrongInput(f"RUN {name}: {trial} shows the replaced study and keeps no model; give another arm's trial")
    if status not in (None, *HAS_MODEL):
        reason = f" ({tags['reason']})" if tags.get("reason") else ""
        raise WrongInput(f"RUN {name}: {trial} is '{status}'{reason} and has no model; give a trial that is done")
    try:
        download_model(client, run.info.run_id, target, roots)
    except ModelIsGone as gone:
        raise WrongInput(
            f"RUN {name}: the model of {trial} is missing: {gone}. If the folder has moved, give its --storage-path; "
            "or give the folder of the saved model itself"
        ) from None
    except NotAModel:
        raise WrongInput(
            f"RUN {name}: MLflow has no model of {trial}. If records still wait, the sweep's command sends them; "
            "a sweep of an earlier version has to run again"
        ) from None
    return FoundModel(folder=target, words=f"{trial}{why} (MLflow run {run.info.run_id})")


def _find_run(client: MlflowClient, name: str) -> tuple[Run, str]:
    """The run that `name` means, and why this one of several."""
    if re.fullmatch(r"[0-9a-f]{32}", name):
        run = _run_or_none(client, name)
        if run is not None and run.data.tags.get("role") != "sweep":
            return run, ""
        name = run.data.tags["sweep_id"] if run is not None else name
    sweeps = [summary.sweep_id for summary in summaries(client, PROJECT)]
    if name in sweeps:
        return _winner(name, _trials(client, f"tags.sweep_id = '{name}'"))
    known = (
        _trials(client, f"tags.trial_id = '{name}'") if not set(name) & set("'\"`\\") else []
    )  # characters that a query treats as quotes
    by_sweep = {run.data.tags.get("sweep_id"): run for run in reversed(known)}  # of two runs of a trial, the older
    for sweep_id in sweeps:
        if sweep_id in by_sweep:
            return by_sweep[sweep_id], ", the newest sweep that has it" if len(by_sweep) > 1 else ""
    if meant := sweep_meant(name, sweeps):
        return _winner(meant, _trials(client, f"tags.sweep_id = '{meant}'"))
    raise WrongInput(_unknown(client, name, sweeps))


def _winner(sweep_id: str, trials: list[Run]) -> tuple[Run, str]:
    ranked = [
        (run.data.metrics[RANKED_BY], int(run.data.tags.get("trial_number", 0)), run)
        for run in reversed(trials)
        if run.data.tags.get("status") in HAS_MODEL
        and stored_rules(run.data.tags).keeps_model
        and math.isfinite(run.data.metrics.get(RANKED_BY, math.nan))
    ]
    if not ranked:
        raise WrongInput(f"RUN {sweep_id}: no trial of this sweep is done; `report {sweep_id}` shows how they are")
    mse, _, run = min(ranked, key=lambda entry: entry[:2])
    return run, f", the smallest validation MSE ({mse:.4g}) of {len(ranked)} done trials"


def _unknown(client: MlflowClient, name: str, sweeps: list[str]) -> str:
    latest = [run.data.tags["trial_id"] for run in _trials(client, f"tags.sweep_id = '{sweeps[0]}'")] if sweeps else []
    near = difflib.get_close_matches(name, [*sweeps, *latest], n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    shown = f"the latest sweeps are {', '.join(sweeps[:3])}" if sweeps else "MLflow holds no sweep yet"
    return f"RUN {name}: no folder, MLflow run, sweep or trial of this name; {shown}.{hint}"


def _trials(client: MlflowClient, query: str) -> list[Run]:
    """Runs of trials, latest first."""
    runs = find_runs(client, experiment_id(client, PROJECT), query)
    return [run for run in runs if run.data.tags.get("trial_id")]


def _run_or_none(client: MlflowClient, run_id: str) -> Run | None:
    try:
        return client.get_run(run_id)
    except Exception as error:
        if classify(error) != "missing":
            raise
        return None
