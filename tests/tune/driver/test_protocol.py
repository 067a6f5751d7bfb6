"""The protocol of the data goes from the prepared data into the sweep's folder, its run in MLflow and its plan."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune.config.sweeps import get_sweep
from tune.driver import open
from tune.driver import run as runner
from tune.driver.options import Options
from tune.machine.device import DeviceFacts
from tune.plan.planner import Planner
from tune.plan.text import print_plan
from tune.storage.moved import Command

CPU = DeviceFacts(device_type="cpu", name="some CPU")


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    rows = [f"2020-01-{1 + hour // 24:02}T{hour % 24:02}:00:00,{min(hour, 3)}" for hour in range(400)]
    (tmp_path / "x.csv").write_text("\n".join(["date,load", *rows]))
    fields = {"data.dataset": str(tmp_path / "x.csv"), "data.context_length": 48, "data.prediction_length": 12}
    return Planner(get_sweep("engine"), overrides=fields, repeats=1, seed=1)


def _begun(planner: Planner, options: Options, protocol: dict[str, Any] | None) -> dict[str, Any]:
    plan = planner.plan(CPU)
    folder = open.open_folder(plan, Command(key="k", asked="a"), {"versions": {}}, options, protocol)
    begun: dict[str, Any] = {}
    tracker = SimpleNamespace(begin_sweep=lambda **fields: begun.update(fields))
    runner._Run(plan, folder, SimpleNamespace(share=SimpleNamespace(gpus=0)), options)._begin(tracker)  # type: ignore[arg-type]
    return begun


def test_the_sweeps_run_gets_split_scaling_and_notes(planner: Planner, tmp_path: Path) -> None:
    options = Options(storage_path=tmp_path / "runs", tracking_uri="sqlite:///m.db", data_dir=tmp_path, quiet=True)
    plan = planner.plan(CPU)
    data = planner.prepare(plan, data_dir=tmp_path, storage_path=options.storage_path, quiet=True)
    begun = _begun(planner, options, data.protocol)
    assert begun["params"]["data.split.train"] == "280 rows, 2020-01-01 00:00:00 to 2020-01-12 15:00:00"
    assert begun["params"]["data.split.rule"] == "0.7/0.1/0.2 of all rows"
    tag = json.loads(begun["tags"]["data"])
    assert tag == json.loads(begun["files"]["data.json"]) == data.protocol
    assert tag["windows"] == [
        {"context_length": 48, "prediction_length": 12, "train": 221, "validation": 29, "test": 69}
    ]  # fmt: skip


def test_a_sweep_that_an_earlier_version_began_goes_on_without(planner: Planner, tmp_path: Path) -> None:
    options = Options(storage_path=tmp_path / "runs", tracking_uri="sqlite:///m.db", data_dir=tmp_path, quiet=True)
    begun = _begun(planner, options, None)
    assert "data" not in begun["tags"] and set(begun["params"]) == {"sweep", "repeats", "trials"}


def test_the_plan_shows_the_data_once_they_were_read(planner: Planner, tmp_path: Path) -> None:
    folders = {"data_dir": tmp_path, "storage_path": tmp_path / "runs"}
    plan = planner.plan(CPU)
    assert planner.protocol(plan, **folders) is None
    planner.prepare(plan, quiet=True, **folders)
    text = io.StringIO()
    print_plan(plan, text, planner.protocol(plan, **folders))
    for said in ("400 rows x 1 columns, one row per 60 min", "train: 280 rows", "221 windows of 48 + 12",
                 "split 0.7/0.1/0.2 of all rows", "scaled: each column"):  # fmt: skip
        assert said in text.getvalue()
