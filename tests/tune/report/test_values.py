"""A sweep for programs: what the JSON holds, and where it may be written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report_kit import GPU_A
from report_kit import sweep as _sweep
from report_kit import trial as _trial
from sweep_kit import ROOT

from tune.commands import report
from tune.commands.compare import read_side
from tune.commands.listing import registries
from tune.common.address import sqlite_file
from tune.common.errors import WrongInput
from tune.console import output
from tune.report.values import as_json
from tune.storage import open_sweep


def test_the_json_holds_each_trial_with_params_of_their_own_type() -> None:
    trial = _trial(params={"model.d_model": "64", "model.pre_norm": "True", "train.learning_rate": "1e-05"})
    (stored,) = as_json(_sweep(trial))["trials"]
    assert (stored["trial_id"], stored["status"], stored["reason"]) == ("pruning-none-s1", "done", None)
    assert (stored["params"]["model.d_model"], stored["params"]["model.pre_norm"]) == (64, True)
    assert (stored["params"]["train.learning_rate"], stored["params"]["train.patience"]) == (1e-5, None)
    assert stored["metrics"]["final/test_mse"] == 0.4
    assert as_json(_sweep())["environment"] == {"gpus": 1}
    assert (stored["arm"], stored["seed"], stored["timing_valid"], stored["gpu_uuid"]) == ("none", "1", "true", GPU_A)
    assert stored["stage"] is None


def test_the_json_holds_each_comparison_with_its_verdict() -> None:
    record = _sweep(*(_trial(arm, seed) for arm in ("none", "fast") for seed in (1, 2, 3)))
    stored = as_json(record)["comparisons"]["fast"]
    assert (stored["ratio"], stored["interval"], stored["verdict"]) == (1.0, (1.0, 1.0), "undecided")
    assert stored["accuracy"]["verdict"] == "not_worse"
    assert json.loads(json.dumps(stored))["count"] == 3


def test_the_json_has_no_verdict_where_pairs_are_too_few() -> None:
    record = _sweep(*(_trial(arm, seed) for arm in ("none", "fast") for seed in (1, 2)))
    stored = as_json(record)["comparisons"]["fast"]
    assert (stored["count"], stored["verdict"], stored["accuracy"]["verdict"]) == (2, None, None)


def test_compare_reads_what_the_json_holds(tmp_path: Path) -> None:
    record = _sweep(*(_trial(arm, seed) for arm in ("none", "fast") for seed in (1, 2, 3)))
    output.write_json(str(tmp_path / "x.json"), as_json(record))
    side = read_side(str(tmp_path / "x.json"), "sqlite:///none.db")
    assert (side.device, list(side.arms), side.tells_alone) == ("NVIDIA H100", ["none", "fast"], True)
    assert [(result.seed, result.time_s, result.mse) for result in side.arms["fast"]] == [
        (seed, 2.0, 0.3) for seed in "123"
    ]


def test_an_environment_that_was_shortened_stays_a_text() -> None:
    assert as_json(_sweep(environment='{"gpus": [shortened]'))["environment"] == '{"gpus": [shortened]'


def test_the_json_file_is_strict_with_null_for_numbers_json_has_not(tmp_path: Path) -> None:
    record = _sweep(_trial(metrics={"loss/train_mse": math.nan, "loss/val_mse": math.inf}))
    output.write_json(str(tmp_path / "x.json"), as_json(record))

    def refuse(name: str) -> None:
        raise AssertionError(name)

    result = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    metrics = result["trials"][0]["metrics"]
    assert (metrics["loss/train_mse"], metrics["loss/val_mse"]) == (None, None)
    assert metrics["final/test_mse"] == 0.4


@pytest.mark.parametrize(
    ("target", "problem"),
    [("", "not a file"), (".", "not a file"), ("new/", "not a file"), ("none/x.json", "there is no folder none")],
)
def test_a_json_target_that_cannot_be_written_is_wrong_input_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongInput, match=problem):
        output.check_json_target(target)
    with pytest.raises(WrongInput, match=problem):  # before the store is even looked for
        report.run(SimpleNamespace(json=target, sweep_id="s"))  # type: ignore[arg-type]


def test_a_json_target_in_a_folder_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.os, "access", lambda *_: False)
    with pytest.raises(WrongInput, match="not writable"):
        output.check_json_target(str(tmp_path / "x.json"))


@pytest.mark.parametrize("target", ["-", "x.json", "there.json"])
def test_a_json_target_may_be_stdout_a_new_file_or_one_to_overwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.json").touch()
    output.check_json_target(target)


@pytest.mark.parametrize("content", [{"jobs": []}, {"sweep": "a", "trials": []}, {"sweeps": []}, registries()])
def test_an_earlier_result_is_replaced(tmp_path: Path, content: dict[str, Any]) -> None:
    target = str(tmp_path / "x.json")
    output.write_json(target, content)
    output.check_json_target(target)
    output.write_json(target, {"jobs": []})
    assert json.loads(Path(target).read_text()) == {"format": output.FORMAT, "jobs": []}


OURS = sorted((ROOT / "docs" / "results").glob("*-h[12]00*.json"))


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.name)
def test_a_result_of_any_earlier_version_is_known(file: Path) -> None:
    output.check_json_target(str(file))


def test_a_file_that_is_no_result_is_left_alone(tmp_path: Path, new_store: str) -> None:
    content = {"sweep": "pruning", "trials": [], "key": "k", "created_s": 1.0}
    folder = open_sweep.create(tmp_path, "pruning", content)
    files = [folder.path / "sweep.json", sqlite_file(new_store)]
    others = {"data.csv": "date,OT\n1,2\n", "list.json": "[]", "mine.json": '{"x": 1}', "cut.json": "{"}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
        files.append(tmp_path / name)
    for file in files:
        before = file.read_bytes()
        with pytest.raises(WrongInput, match="it exists and --json did not write it; name another file"):
            output.check_json_target(str(file))
        with pytest.raises(WrongInput, match="did not write it"):  # it came there while the command ran
            output.write_json(str(file), {"jobs": []})
        assert file.read_bytes() == before
