"""A trial's saved model as an MLflow model: MLmodel with signature and requirements, our loader's source, the weights.

`mlflow.pyfunc.load_model("runs:/RUN_ID/model")` loads it where nothing of this project is installed: the package
`model` travels inside. Nothing is pickled, and packing does not execute the packed code.

MLmodel, requirements.txt, conda.yaml, python_env.yaml    MLflow's own
data/model/     config.json, model.safetensors, forecasting.json: a copy of the saved folder
code/model/     the source of the package that loads it
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.facts import CONFIG, FACTS, WEIGHTS, Facts, read_facts
from tune.tracking.artifact_place import found_artifacts, local_path
from tune.tracking.refusals import NotThere, drafting, drafts, storing

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run


NAME = "model"
FILES_PATH = "data/model"  # of the saved folder, inside the MLflow model
LOADER = "model.forecaster"
CODE = Path(__file__).resolve().parents[2] / "model"
# What loading it imports; torch and transformers in the versions that trained it.
REQUIREMENTS = ("mlflow", "torch", "transformers", "safetensors", "numpy", "pandas")
LINKED_METRICS = ("final/val_mse", "final/test_mse", "final/test_mae", "final/parameters", "final/epoch_all_windows_s")


class NotAModel(NotThere):
    """The folder holds no model that can forecast; the message is one line."""


class ModelIsGone(ValueError):
    """The files of a model are neither where the store says nor in the other places; the message is one line."""

    def __init__(self, recorded: str, places: Sequence[str]) -> None:
        looked = f", and nothing of it lies below {' or '.join(places)}" if places else ""
        super().__init__(f"its files are not in {recorded}, where MLflow's records have them{looked}")


def publish(client: MlflowClient, run_id: str, folder: Path, metrics: dict[str, float], timestamp_ms: int) -> str:
    """Store the saved model of `folder` as the run's logged model and return its id. Repeating it makes no second one.

    Raises NotAModel, CannotStore for its files, and the errors of MLflow's calls.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

    try:
        facts = read_facts(folder)
    except ValueError as error:
        raise NotAModel(str(error)) from error
    run = client.get_run(run_id)
    place = str(client.get_experiment(run.info.experiment_id).artifact_location)
    logged = find_logged_model(client, run) or _create(client, run, facts)
    outputs = run.outputs.model_outputs if run.outputs else []
    if logged.model_id not in [output.model_id for output in outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    with drafts("mlflow-model-") as temporary:
        target = temporary / NAME
        with drafting():
            pack(folder, target, run_id=run_id, model_id=logged.model_id)
        with storing(place):
            client.log_model_artifacts(logged.model_id, str(target))
    linked = [
        Metric(key, metrics[key], timestamp_ms, 0, model_id=logged.model_id, run_id=run_id)
        for key in LINKED_METRICS
        if key in metrics
    ]
    if linked:
        client.log_batch(run_id, metrics=linked, synchronous=True)
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def find_logged_model(client: MlflowClient, run: Run) -> LoggedModel | None:
    """The run's logged model, complete or not; None if it has none.

    Only a lost answer can leave several: the oldest is kept, the others are deleted.
    """
    query = f"source_run_id = '{run.info.run_id}' AND name = '{NAME}'"
    models = list(client.search_logged_models([run.info.experiment_id], query))
    models.sort(key=lambda model: (model.creation_timestamp, model.model_id))
    for other in models[1:]:
        client.delete_logged_model(other.model_id)
    return models[0] if models else None


def download_model(client: MlflowClient, run_id: str, target: Path, roots: Sequence[Path] = ()) -> None:
    """Download config, weights and facts of the run's model into the new folder `target`.

    Nothing else of it is downloaded or executed, our own source included. If the store names a folder, `roots` are
    searched first: a folder that was moved or copied may hold the artifacts now. Raises NotAModel if the run has no
    model, ModelIsGone if its files are not found, and the errors of MLflow's calls.
    """
    import mlflow.artifacts

    logged = find_logged_model(client, client.get_run(run_id))
    if logged is None or str(logged.status) != "READY":
        raise NotAModel(f"run {run_id} has no model in the MLflow store")
    target.mkdir(parents=True)
    if local_path(logged.artifact_location) is not None:
        _copy_model(logged.artifact_location, target, roots)
        return
    for name in (CONFIG, WEIGHTS, FACTS):
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"{logged.artifact_location}/{FILES_PATH}/{name}",
            dst_path=str(target),
            tracking_uri=client.tracking_uri,
        )


def _copy_model(location: str, target: Path, roots: Sequence[Path]) -> None:
    folder = found_artifacts(location, roots)
    try:
        if folder is None:
            raise FileNotFoundError
        for name in (CONFIG, WEIGHTS, FACTS):
            shutil.copyfile(folder / FILES_PATH / name, target / name)
    except FileNotFoundError:
        raise ModelIsGone(str(local_path(location)), [str(root) for root in roots]) from None


def _create(client: MlflowClient, run: Run, facts: Facts) -> LoggedModel:
    tags = {name: str(facts.trial.get(name)) for name in ("sweep_id", "trial_id") if facts.trial.get(name)}
    return client.create_logged_model(
        run.info.experiment_id,
        name=NAME,
        source_run_id=run.info.run_id,
        tags=tags,
        params={"dataset": str(facts.dataset.get("name")), "context_length": str(facts.context_length)},
        model_type="forecaster",
    )


def pack(folder: Path, target: Path, *, run_id: str | None = None, model_id: str | None = None) -> None:
    """Make the MLflow model `target`, a new folder, from the saved model in `folder`. ValueError if there is none.

    mlflow.pyfunc.save_model is not used: it copies everything twice, and importing it warns on stderr.
    """
    from mlflow.models import Model

    facts = read_facts(folder)
    needed, python = requirements(facts), platform.python_version()
    target.mkdir(parents=True)
    shutil.copytree(folder, target / FILES_PATH)
    shutil.copytree(CODE, target / "code" / CODE.name, ignore=shutil.ignore_patterns("__pycache__"))
    model = Model(run_id=run_id, model_id=model_id, model_uuid=model_id, signature=signature(facts))
    model.add_flavor(
        "python_function",
        loader_module=LOADER,
        python_version=python,
        code="code",
        data=FILES_PATH,
        env={"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        streamable=False,
    )
    model.model_size_bytes = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    model.save(str(target / "MLmodel"))
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": needed}],
    }
    virtualenv = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    (target / "requirements.txt").write_text("\n".join(needed) + "\n")
    (target / "conda.yaml").write_text(json.dumps(conda, indent=1) + "\n")  # JSON is YAML
    (target / "python_env.yaml").write_text(json.dumps(virtualenv, indent=1) + "\n")


def signature(facts: Facts) -> Any:
    """In: context_length rows or more of the model's columns; out: prediction_length rows of them; source units."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    schema = Schema([ColSpec("double", name) for name in facts.columns])
    return ModelSignature(inputs=schema, outputs=schema)


def requirements(facts: Facts) -> list[str]:
    """Pinned; without the local part of a version (torch 2.11.0+cu130), which an index does not have."""
    from importlib import metadata

    return [
        f"{package}=={(facts.versions.get(package) or metadata.version(package)).split('+')[0]}"
        for package in REQUIREMENTS
    ]
