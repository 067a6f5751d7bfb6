"""A trial's model in a real MLflow store: loaded without our packages, and one per run, however often it is sent."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from model_kit import COLUMNS, H, L, save_small, small_facts
from tracking_kit import (  # noqa: F401 (fixtures)
    MakeTracker,
    end,
    mlflow_runs,
    opened_fixture,
    plan,
    settle,
    shared_store_fixture,
    sweep_id_fixture,
)

from model.forecaster import Forecaster
from tune.storage.outbox import beside
from tune.tracking.find_model import find_model
from tune.tracking.model_package import FILES_PATH, NotAModel, download_model, pack, requirements
from tune.tracking.store import open_client

# SQLAlchemy 2.1 warns about MLflow 3.17's imports.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

LOAD = """
import json, sys
import mlflow, numpy, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
signature = model.metadata.signature
assert signature.inputs.input_names() == signature.outputs.input_names() == ["load", "OT"], signature
assert {str(kind) for kind in signature.inputs.input_types()} == {"DataType.double"}, signature
values = numpy.load(sys.argv[3])
frame = pandas.DataFrame(values[:, ::-1], columns=["OT", "load"]).assign(date="2020-01-01")
forecast = model.predict(frame)
assert list(forecast.columns) == ["load", "OT"], forecast
import model as package  # the copy that came with the model
assert "/code/model/" in package.__file__, package.__file__
assert not {name for name in sys.modules if name.split(".")[0] in ("tune", "data_pipeline")}
numpy.save(sys.argv[4], forecast.to_numpy())
"""


def _trial_run(uri: str, sweep_id: str, trial_id: str = "a") -> str:
    (run_id,) = [run.info.run_id for run in mlflow_runs(uri, sweep_id) if run.data.tags.get("trial_id") == trial_id]
    return str(run_id)


def _logged_models(uri: str, run_id: str) -> list:
    client = open_client(uri)
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_logged_models([experiment], f"source_run_id = '{run_id}'"))


@pytest.mark.parametrize("pruned", [False, True], ids=["whole", "pruned"])
def test_mlflow_loads_the_model_of_a_run_with_nothing_of_ours_at_hand_and_forecasts_the_same(
    opened: MakeTracker, shared_store: str, sweep_id: str, tmp_path: Path, pruned: bool
) -> None:
    tracker = opened()
    plan(tracker, "a")
    folder = save_small(tmp_path / "best", pruned=pruned)
    end(tracker, "a", model_dir=folder)
    settle(tracker)
    assert tracker.problems == []
    values = np.random.default_rng(0).normal(size=(L + 3, len(COLUMNS)))
    np.save(tmp_path / "values.npy", values)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    model_uri = f"runs:/{_trial_run(shared_store, sweep_id)}/model"
    command = [sys.executable, "-I", "-c", LOAD, shared_store, model_uri]
    command += [str(tmp_path / "values.npy"), str(tmp_path / "out.npy")]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    forecast = np.load(tmp_path / "out.npy")
    assert forecast.shape == (H, len(COLUMNS))
    np.testing.assert_array_equal(forecast, Forecaster(folder).forecast(values))
    for name, uri in {"of_model": model_uri, "of_run": model_uri.removesuffix("/model")}.items():
        scratch = tmp_path / name
        scratch.mkdir()
        model = find_model(uri, tracking_uri=shared_store, storage=tmp_path, scratch=scratch)
        assert model.words.startswith("trial a of ")
        np.testing.assert_array_equal(Forecaster(model.folder).forecast(values), forecast)


def test_a_run_has_one_model_however_often_its_end_is_sent(
    opened: MakeTracker, shared_store: str, sweep_id: str, tmp_path: Path
) -> None:
    tracker = opened()
    plan(tracker, "a")
    metrics = {"final/val_mse": 0.25, "final/startup_s": 3.0}
    end(tracker, "a", model_dir=save_small(tmp_path / "best"), metrics=metrics)
    settle(tracker)
    tracker.close()
    beside(tmp_path / "outbox.jsonl", "position").unlink()  # as after a crash before the position was saved
    tracker = opened(begin=False)
    settle(tracker)
    assert tracker.problems == []
    run_id = _trial_run(shared_store, sweep_id)
    (model,) = _logged_models(shared_store, run_id)
    assert (model.name, model.status, model.model_type) == ("model", "READY", "forecaster")
    assert model.tags["trial_id"] == "t"  # from the folder's facts
    assert {metric.key: metric.value for metric in model.metrics} == {"final/val_mse": 0.25}
    client = open_client(shared_store)
    assert [output.model_id for output in client.get_run(run_id).outputs.model_outputs] == [model.model_id]
    assert len(client.get_metric_history(run_id, "final/val_mse")) == 1


def test_an_upload_that_broke_off_is_finished_and_a_second_model_of_a_lost_answer_is_deleted(
    opened: MakeTracker, shared_store: str, sweep_id: str, tmp_path: Path
) -> None:
    tracker = opened()
    plan(tracker, "a")
    settle(tracker)
    run_id = _trial_run(shared_store, sweep_id)
    client = open_client(shared_store)
    experiment = client.get_run(run_id).info.experiment_id
    first, _ = [client.create_logged_model(experiment, name="model", source_run_id=run_id) for _ in range(2)]
    with pytest.raises(NotAModel, match="has no model"):  # begun, but incomplete
        download_model(client, run_id, tmp_path / "early")
    client.create_logged_model(experiment, name="model", source_run_id=run_id)
    end(tracker, "a", model_dir=save_small(tmp_path / "best"))
    settle(tracker)
    (model,) = _logged_models(shared_store, run_id)
    assert (model.model_id, model.status) == (first.model_id, "READY")
    download_model(client, run_id, tmp_path / "stored")
    assert sorted(file.name for file in (tmp_path / "stored").iterdir()) == [
        "config.json",
        "forecasting.json",
        "model.safetensors",
    ]


def test_a_missing_folder_or_one_without_a_model_is_a_problem_and_the_rest_of_the_end_is_stored(
    opened: MakeTracker, shared_store: str, sweep_id: str, tmp_path: Path
) -> None:
    tracker = opened()
    plan(tracker, "a", "b")
    (tmp_path / "half").mkdir()
    end(tracker, "a", model_dir=tmp_path / "gone", metrics={"final/val_mse": 0.5})
    end(tracker, "b", model_dir=tmp_path / "half", metrics={"final/val_mse": 0.5})
    settle(tracker)
    assert len(tracker.problems) == 2
    assert "gone with the model is not there" in tracker.problems[0]
    assert "holds no forecasting.json" in tracker.problems[1]
    for trial_id in ("a", "b"):
        run_id = _trial_run(shared_store, sweep_id, trial_id)
        assert open_client(shared_store).get_run(run_id).data.metrics == {"final/val_mse": 0.5}
        assert _logged_models(shared_store, run_id) == []


def test_what_is_packed_is_the_saved_folder_our_source_and_no_pickle(tmp_path: Path) -> None:
    folder, target = save_small(tmp_path / "best"), tmp_path / "packed"
    pack(folder, target)
    files = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    assert {"MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml"} <= files
    assert "code/model/forecaster.py" in files
    assert {Path(name).suffix for name in files} == {"", ".txt", ".yaml", ".json", ".safetensors", ".py"}
    assert not [name for name in files if name.startswith("code/") and not name.startswith("code/model/")]
    for file in folder.iterdir():
        assert (target / FILES_PATH / file.name).read_bytes() == file.read_bytes()


def test_requirements_are_pinned_to_what_trained_the_model_and_can_be_installed_from_an_index() -> None:
    versions = dict(line.split("==") for line in requirements(small_facts()))
    assert versions["torch"] == "2.11.0"  # of 2.11.0+cu130
    assert versions["pandas"] == metadata.version("pandas")


def test_packing_imports_neither_torch_nor_the_packed_code_nor_mlflows_pyfunc(tmp_path: Path) -> None:
    folder = save_small(tmp_path / "best")
    code = (
        "import sys; from pathlib import Path; from tune.tracking.model_package import pack\n"
        f"pack(Path({str(folder)!r}), Path({str(tmp_path / 'packed')!r}))\n"
        "heavy = {'torch', 'transformers', 'model.forecaster', 'mlflow.pyfunc.model'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
