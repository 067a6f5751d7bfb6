"""One command makes its plan once and prepares its data once."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipeline.errors import DataError
from tune.cluster.share import Share
from tune.commands.main import main
from tune.common.errors import DONE, WrongInput
from tune.config.sweeps import get_sweep
from tune.driver import open as driver_open
from tune.driver import run as driver_run
from tune.driver.options import Outcome
from tune.machine.device import DeviceFacts, cpu_facts
from tune.plan import planner as planner_module
from tune.plan.plan import Plan
from tune.plan.planner import Planner

CPU = DeviceFacts(device_type="cpu", name="some CPU", missing={})
GPU = DeviceFacts(
    device_type="cuda", name="H100", capability=(9, 0), memory_gib=79.6, driver="580.1", gpus=8, cpus=64, missing={}
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each costly call, in order."""
    made: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(planner_module, name)

        def call(*given: Any, **named: Any) -> Any:
            made.append(name)
            return real(*given, **named)

        return call

    for name in ("plan_sweep", "prepare_data"):
        monkeypatch.setattr(planner_module, name, counted(name))
    return made


def _planner(sweep: str = "pruning", **overrides: Any) -> Planner:
    return Planner(get_sweep(sweep), overrides={"data.dataset": "demo", **overrides}, repeats=2, seed=1)


def _prepare(planner: Planner, plan: Plan, folder: Path) -> Any:
    return planner.prepare(plan, data_dir=folder, storage_path=folder, quiet=True)


def test_the_probe_of_an_assumed_device_gives_the_same_trials_without_planning_again(calls: list[str]) -> None:
    planner = _planner()
    assumed = planner.plan(replace(GPU, assumed=True))
    probed = replace(GPU, gpus=1, cpus=4)  # Ray shows a task one GPU
    plan = planner.plan(probed)
    assert plan.trials is assumed.trials and plan.device == probed
    assert calls == ["plan_sweep"]


@pytest.mark.parametrize(
    "other",
    [
        CPU,
        replace(GPU, name="H200"),
        replace(GPU, capability=(7, 0)),
        replace(GPU, missing={"flash_attention_2": "built for another torch"}),
        replace(GPU, missing=None),
    ],
    ids=["device type", "name", "capability", "missing package", "packages not known"],
)
def test_another_device_is_planned_for_anew(other: DeviceFacts, calls: list[str]) -> None:
    planner = _planner("attention")
    planner.plan(GPU)
    fresh = _planner("attention").plan(other)
    calls.clear()
    assert planner.plan(other) == fresh
    assert calls == ["plan_sweep"]


def test_a_search_is_planned_once_for_the_same_device(calls: list[str]) -> None:
    planner = Planner(get_sweep("full"), overrides={"data.dataset": "demo"}, repeats=2, seed=1, draws=3)
    first, second = planner.plan(replace(CPU, assumed=True)), planner.plan(CPU)
    assert calls == ["plan_sweep"]
    assert second == replace(first, device=CPU)


def test_data_are_prepared_once_and_a_named_data_set_is_not_planned_again_after_that(
    tmp_path: Path, calls: list[str]
) -> None:
    planner = _planner()
    before = planner.plan(CPU)
    assert _prepare(planner, before, tmp_path) is _prepare(planner, planner.plan(CPU), tmp_path)
    assert planner.plan(CPU).trials is before.trials
    assert calls == ["plan_sweep", "prepare_data"]


@pytest.fixture
def own_file(tmp_path: Path) -> str:
    """28 days, hourly: 470 training rows, so 411 training windows of 48 + 12."""
    rows = (f"2020-01-{day:02} {hour:02}:00:00,{hour},{day}" for day in range(1, 29) for hour in range(24))
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(["date,load,day", *rows]))
    return str(file)


LENGTHS = {"data.context_length": 48, "data.prediction_length": 12}


def test_the_channels_of_a_file_are_known_from_its_head_and_its_windows_once_it_is_read(
    own_file: str, tmp_path: Path, calls: list[str]
) -> None:
    planner = _planner(**{"data.dataset": own_file, **LENGTHS})
    plan = planner.plan(CPU)
    assert plan.data.channels == 2 and {trial.train_windows for trial in plan.trials} == {None}
    assert _prepare(planner, plan, tmp_path).channels == 2
    assert {trial.train_windows for trial in planner.plan(CPU).trials} == {411}
    assert planner.plan(CPU).trials is planner.plan(CPU).trials
    assert calls == ["plan_sweep", "prepare_data", "plan_sweep"]


def test_a_default_batch_fits_the_windows_as_soon_as_they_are_known_and_a_named_one_stays(
    own_file: str, tmp_path: Path
) -> None:
    for given, batches in (({}, [128, 32]), ({"train.batch_size": 512}, [512, 512])):
        planner = _planner(**{"data.dataset": own_file, **LENGTHS, **given})
        before = planner.plan(CPU)
        _prepare(planner, before, tmp_path)
        after = planner.plan(CPU)
        for plan, batch in zip((before, after), batches, strict=True):
            assert {trial.config.train.batch_size for trial in plan.trials} == {batch}
        assert bool(after.runnable) == (not given)


def test_a_dry_run_says_that_the_windows_are_not_known_until_the_file_has_been_converted(
    own_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.utime(own_file, (1e9, 1e9))
    monkeypatch.setattr("data_pipeline.series.store.SETTLED_S", -1.0)
    command = ["--sweep", "custom", "--plan", "--dataset", own_file, "--gpus-per-trial", "0"]
    command += [part for name, value in LENGTHS.items() for part in ("--set", f"{name}={value}")]
    assert main(command) == DONE
    unread = capsys.readouterr().out
    assert "not read yet: the number of windows" in unread and "batch 128 (default)" in unread
    assert "batch: less if the data turn out to hold fewer than 1,024 training windows" in unread
    planner = _planner(**{"data.dataset": own_file, **LENGTHS})
    planner.prepare(planner.plan(CPU), data_dir=tmp_path, storage_path=tmp_path / "runs", quiet=True)
    assert main(command) == DONE
    known = capsys.readouterr().out
    assert "411 training windows" in known and "batch 32 (default)" in known and "not read yet" not in known
    assert "batch 32, as nobody named one: the largest power of two, at most 128, that gives at least 8 steps" in known


def test_a_file_that_is_not_there_and_a_value_of_another_type_are_wrong_input() -> None:
    with pytest.raises(DataError, match="no file /nowhere/a.csv: give the path"):
        _planner(**{"data.dataset": "/nowhere/a.csv"}).plan(CPU)
    with pytest.raises(WrongInput, match="dataset"):
        _planner(**{"data.dataset": 5}).plan(CPU)


def _without_ray(monkeypatch: pytest.MonkeyPatch, facts: DeviceFacts) -> None:
    """Stands for Ray, with a probe that finds `facts`, up to the moment at which trials would start."""

    @contextmanager
    def connected(address: str | None) -> Any:
        yield SimpleNamespace()

    @contextmanager
    def tracker(*_: Any) -> Any:
        yield SimpleNamespace()

    outcome = Outcome(sweep_id="s", statuses={}, failures=(), interrupted=False, pending=0, unsent=0)
    monkeypatch.setattr(driver_run.connect, "connected", connected)
    monkeypatch.setattr(driver_open.cluster_share, "choose_share", lambda *_, **__: Share(cpus=2, gpus=0, at_a_time=1))
    monkeypatch.setattr(driver_open.probe, "probe", lambda *_: (facts, {"versions": {}}))
    monkeypatch.setattr(driver_open, "NodeForkServers", lambda *_: None)
    monkeypatch.setattr(driver_open, "check_nodes", lambda *_, **__: None)
    monkeypatch.setattr(driver_open, "open_tracker", tracker)
    monkeypatch.setattr(driver_run._Run, "run", lambda *_: outcome)
    monkeypatch.setattr("tune.commands.sweep.show_report", lambda *_, **__: None)


@pytest.mark.parametrize("address", [[], ["--address", "auto"]], ids=["on this machine", "on a cluster"])
def test_a_command_plans_once_prepares_its_data_once_and_shows_the_plan_that_it_runs(
    address: list[str],
    calls: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _without_ray(monkeypatch, cpu_facts())
    assert main(["--sweep", "custom", "--dataset", "demo", "--gpus-per-trial", "0", *address]) == DONE
    assert calls == ["plan_sweep", "prepare_data"]
    said = capsys.readouterr().err
    assert said.count("1 trial, 1 can run") == 1 and "assumed" not in said


def test_a_command_plans_again_where_the_probe_finds_another_device_than_was_assumed(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _without_ray(monkeypatch, replace(cpu_facts(), name="a CPU that only Ray sees"))
    assert main(["--sweep", "custom", "--dataset", "demo", "--gpus-per-trial", "0"]) == DONE
    assert calls == ["plan_sweep", "prepare_data", "plan_sweep"]
    assert "device a CPU that only Ray sees" in capsys.readouterr().err
