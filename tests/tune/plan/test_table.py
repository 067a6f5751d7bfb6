"""The plan of a table: each cell with its own data and recipe, and no cell waits for another's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.datasets import DATASETS
from data_pipeline.errors import MissingFile
from tune.commands.sweep import parser as sweep_parser
from tune.common.errors import WrongInput
from tune.config.request import build_request
from tune.machine.device import DeviceFacts
from tune.machine.gpu_models import gpu_facts
from tune.plan import table_planner
from tune.plan.table import TablePlan
from tune.plan.table_planner import TablePlanner, planner_of
from tune.plan.text import plan_lines

CPU = DeviceFacts(device_type="cpu", name="some CPU")


def _planner(*arguments: str) -> TablePlanner:
    planner = planner_of(build_request(sweep_parser().parse_args(["--sweep", "benchmark", *arguments])))
    assert isinstance(planner, TablePlanner)
    return planner


def _key(plan: TablePlan) -> str:
    return plan.key(data_sha256="d", tracking_uri="sqlite:///m.db")


def test_every_cell_has_its_own_data_horizon_and_preset_and_no_pairs() -> None:
    plan = _planner().plan(gpu_facts("H200"))
    assert len(plan.trials) == 18 * 3 + 2 * 5 and not plan.in_blocks
    seen = {trial.arm: trial.config for trial in plan.trials}
    weather, hourly = seen["weather-720"], seen["ETTh1-96"]
    assert (weather.model.preset, weather.data.prediction_length, weather.model.d_model) == ("weather", 720, 128)
    assert (hourly.model.preset, hourly.train.schedule, hourly.model.d_model) == ("etth", "type3", 16)
    assert [trial.seed for trial in plan.trials[:6]] == [2021, 2022, 2023, 2024, 2025, 2021]
    channels = {trial.config.data.dataset: plan.data_of(trial).channels for trial in plan.trials}
    assert (channels["weather"], channels["ETTm2"]) == (21, 7)


def test_a_file_that_is_not_at_hand_is_told_with_its_place_and_changes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "ETTh1", replace(DATASETS["ETTh1"], urls=()))
    planner = _planner("--only", "ETTh1-96,ETTh2-96,ETTm2-96,traffic-96")
    every = planner.plan(CPU)
    (tmp_path / "ETTh2.csv").write_text("")
    (tmp_path / "ETTm2.csv.xz").write_text("")
    planner.look_up(every, data_dir=tmp_path, storage_path=tmp_path)
    plan = planner.plan(CPU)
    assert {trial.arm for trial in plan.trials} - {trial.arm for trial in plan.runnable} == {"ETTh1-96"}
    assert len(plan.trials) == len(every.trials)
    assert _key(plan) == _key(every)  # so the same command goes on once the files are there
    text = "\n".join(plan_lines(plan))
    assert "4 cells, 3 can run, 9 trials:" in text
    assert f"ETTh1-96    not run: file not at hand: put ETTh1.csv into {tmp_path}" in text
    place = f"put traffic.csv into {tmp_path}, from https://huggingface.co/"
    assert f"traffic is downloaded first; without a network, {place}" in text


def test_a_recipe_or_a_cell_that_differs_is_another_table() -> None:
    usual, other = (_planner("--only", name) for name in ("ETTh1-96", "ETTh1-192"))
    keys = {_key(planner.plan(CPU)) for planner in (usual, other, _planner("--only", "ETTh1-96", "--no-test"))}
    assert len(keys) == 3


def test_a_table_without_any_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingFile("no network")

    monkeypatch.setattr(table_planner, "prepare_data", missing)
    planner = _planner("--only", "ETTh2-96")
    with pytest.raises(WrongInput, match="no cell can run: put ETTh2.csv into"):
        planner.prepare(planner.plan(CPU), data_dir=tmp_path, storage_path=tmp_path, quiet=True)


def test_layers_of_one_cell_do_not_depend_on_another_cell() -> None:
    device = gpu_facts("H200")
    alone = _planner("--only", "ETTm1-96").plan(device).trials[0].config
    among = {trial.arm: trial.config for trial in _planner().plan(device).trials}
    assert among["ETTm1-96"].model == alone.model
