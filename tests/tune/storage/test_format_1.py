"""A sweep of the first stored format: read everywhere, and continued in its own format.

`format_1/` holds a finished sweep as the version before format 2 left it, without its HTML report and its saved models:
two learning rates, three seeds, two pruned heads, 3 epochs on the demo data.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune.cluster.share import Share
from tune.commands.main import main
from tune.common.errors import DONE
from tune.config.axes import lay_over
from tune.config.sweeps import get_sweep
from tune.config.trial_config import UNSAID
from tune.driver import run as driver
from tune.driver.finish import open_tracker
from tune.driver.options import Options
from tune.machine.device import DeviceFacts
from tune.plan.estimate import time_line
from tune.plan.plan import Plan, make_plan
from tune.storage import open_sweep, sweep_dir
from tune.storage.moved import Command
from tune.storage.sweep_dir import SweepDir
from tune.tracking.reader import read_sweep
from tune.tracking.store import PROJECT

SWEEP_ID = "custom-20261130-072617-0690"
FIRST = "custom-learning_rate=0.002-s1"  # the trial that ended first


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_store: str) -> SweepDir:
    """The sweep's folder, with a new MLflow store that has nothing of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "runs" / SWEEP_ID
    shutil.copytree(Path(__file__).with_name("format_1") / SWEEP_ID, path)
    folder = SweepDir(path)
    folder.update(tracking_uri=new_store)
    return folder


def _plan() -> Plan:
    """The plan of the command that started it."""
    sweep = lay_over(get_sweep("custom"), {"train.learning_rate": (0.001, 0.002)})
    overrides = {
        "data.dataset": "demo", "data.context_length": 48, "data.prediction_length": 24, "model.patch_length": 24,
        "model.d_model": 16, "model.num_heads": 4, "train.batch_size": 512, "train.epochs": 3,
        "pruning.score": "magnitude", "pruning.heads_per_layer": 2,
    }  # fmt: skip
    device = DeviceFacts(device_type="cpu", name="AMD EPYC", cpus=2, missing={})
    return make_plan(sweep, overrides=overrides, repeats=3, seed=1, device=device)


def _interrupt(folder: SweepDir) -> None:
    """Leave what a driver leaves that is killed after the first trial."""
    lines = folder.outbox.read_text().splitlines(keepends=True)
    last = next(at for at, line in enumerate(lines) if json.loads(line)["kind"] == "end")
    folder.outbox.write_text("".join(lines[: last + 1]))
    folder.update(state=sweep_dir.RUNNING)


def _as_json(*command: str) -> dict[str, Any]:
    assert main([*command, "--json", "result.json"]) == DONE
    return json.loads(Path("result.json").read_text())


def test_it_is_flushed_into_a_new_store_and_reported_with_its_values(
    folder: SweepDir, new_store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flush", SWEEP_ID]) == DONE
    assert "(32 were sent now)" in capsys.readouterr().out
    record = read_sweep(new_store, PROJECT, SWEEP_ID)
    assert (record.format, record.status, len(record.trials)) == (1, "done", 6)
    assert record.trials[0].params["model.pre_norm"] == "True"
    result = _as_json("report", SWEEP_ID, "--tracking-uri", new_store)
    planned = {trial.trial_id: trial.config.flat() for trial in _plan().trials}
    assert {trial["trial_id"]: trial["params"] for trial in result["trials"]} == planned
    assert {trial["status"] for trial in result["trials"]} == {"done"}
    assert result["comparisons"]["learning_rate=0.002"]["ratio"] == pytest.approx(
        0.7428607667874949
    )  # as the version before reported it
    for trial in result["trials"]:  # 4 steps of 512 of demo's 2,169 windows of 48 + 24
        metrics = trial["metrics"]
        assert (metrics["final/windows_per_epoch"], metrics["final/steps_per_epoch"]) == (2048, 4)
        assert metrics["final/epoch_all_windows_s"] == metrics["final/median_epoch_s"] * 2169 / 2048
        assert trial["refused"] is None
    assert "learning_rate=0.002" in capsys.readouterr().out


def test_it_is_listed_compared_and_used_for_estimates(
    folder: SweepDir, new_store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flush", SWEEP_ID]) == DONE
    assert main(["list", "runs", "--tracking-uri", new_store]) == DONE
    assert SWEEP_ID in capsys.readouterr().out
    assert main(["compare", SWEEP_ID, SWEEP_ID, "--tracking-uri", new_store]) == DONE
    assert "learning_rate=0.002" in capsys.readouterr().out
    assert ": 6 trials " in time_line(_plan(), folder.path.parent)


def test_what_its_trials_computed_is_found_again_by_the_plan_of_today(folder: SweepDir) -> None:
    recorded = {row["trial_id"]: row["params"] for row in folder.read()["trials"]}
    planned = {trial.trial_id: trial.config.flat() for trial in _plan().trials}
    assert {trial_id: {**UNSAID, **params} for trial_id, params in recorded.items()} == planned


def test_an_unfinished_one_is_found_and_continued_in_its_own_format(folder: SweepDir, new_store: str) -> None:
    _interrupt(folder)
    command = Command(key=folder.read()["key"])
    assert (
        open_sweep.choose_sweep(folder.path.parent, command=command, environment={}, fresh=False, resume=SWEEP_ID)[0]
        == folder
    )
    before = len(folder.outbox.read_text().splitlines())
    options = Options(storage_path=folder.path.parent, tracking_uri=new_store, data_dir=folder.path.parent)
    launcher = SimpleNamespace(share=Share(cpus=2, gpus=0, at_a_time=1))
    plan = _plan()
    retried = next(trial for trial in plan.trials if trial.trial_id != FIRST)
    with open_tracker(folder, new_store) as tracker:
        run = driver._Run(plan, folder, launcher, options)  # type: ignore[arg-type]
        run._begin(tracker)
        run._announce(tracker, plan.trials)
        assert list(tracker.ended) == [FIRST]
        tracker.plan_trial(
            trial_id=retried.trial_id, run_name="r", params=retried.config.flat(), tags={"status": "running"}
        )
        assert tracker.flush(60) == 0 and tracker.problems == []  # MLflow refuses a param with another text
    added = [json.loads(line) for line in folder.outbox.read_text().splitlines()[before:]]
    assert [record["kind"] for record in added] == ["begin_sweep", "plan"]
    assert all("format" not in record for record in added)
    assert added[1]["params"]["model.pre_norm"] == "True" and "train.patience" not in added[1]["params"]
    record = read_sweep(new_store, PROJECT, SWEEP_ID)
    assert (record.format, "format" in record.tags) == (1, False)


def test_one_that_was_killed_before_its_first_record_begins_in_its_own_format(folder: SweepDir, new_store: str) -> None:
    folder.outbox.unlink()
    folder.update(state=sweep_dir.RUNNING)
    options = Options(storage_path=folder.path.parent, tracking_uri=new_store, data_dir=folder.path.parent)
    launcher = SimpleNamespace(share=Share(cpus=2, gpus=0, at_a_time=1))
    with open_tracker(folder, new_store) as tracker:
        driver._Run(_plan(), folder, launcher, options)._begin(tracker)  # type: ignore[arg-type]
    (record,) = [json.loads(line) for line in folder.outbox.read_text().splitlines()]
    assert "format" not in record and record["params"]["repeats"] == "3"
