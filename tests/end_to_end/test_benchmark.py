"""The sweep benchmark as a person runs it: one cell with its file, one without, resumed by the same command."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sweep_kit import ROOT, Ran, run

from data_pipeline.datasets import ILLNESS_COLUMNS

pytestmark = pytest.mark.cluster

OFFLINE = """
import sys
from dataclasses import replace
sys.path.insert(0, {root!r})
from data_pipeline.datasets import DATASETS
from tune.commands.main import main
DATASETS["ETTh2"] = replace(DATASETS["ETTh2"], urls=())  # it is not looked for in the network
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
COMMAND = (  # noqa: SIM905
    "--sweep benchmark --only illness-24,ETTh2-96 --repeats 1 --epochs 1 --data-dir data --csv table.csv --json t.json"
).split()


@dataclass
class Benchmark:
    first: Ran
    again: Ran
    csv: Path


def _illness(file: Path) -> None:
    """966 weeks in the published file's form."""
    file.parent.mkdir()
    values = np.random.default_rng(1).normal(size=(966, len(ILLNESS_COLUMNS))).cumsum(axis=0)
    begin = datetime(2002, 1, 1)
    rows = [
        f"{begin + timedelta(weeks=at)},{','.join(f'{value:.4f}' for value in row)}" for at, row in enumerate(values)
    ]
    file.write_text("\n".join([",".join(("date", *ILLNESS_COLUMNS)), *rows]) + "\n")


@pytest.fixture(scope="module", name="swept")
def swept_fixture(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    folder = tmp_path_factory.mktemp("benchmark")
    _illness(folder / "data" / "national_illness.csv")
    (folder / "offline.py").write_text(OFFLINE.format(root=str(ROOT)))
    first = run(folder, *COMMAND, program=folder / "offline.py")
    again = run(folder, *COMMAND, program=folder / "offline.py")
    return Benchmark(first=first, again=again, csv=folder / "table.csv")


def test_a_cell_without_its_file_does_not_stop_the_others_and_is_listed(swept: Benchmark) -> None:
    ran = swept.first
    assert ran.code == 0, ran.err
    assert "1 of 2 cells done" in ran.out and "ETTh2-96: not run: file not at hand: put ETTh2.csv into" in ran.out
    assert "the same command again goes on from here" in ran.err
    trials = {trial.tags["arm"]: trial for trial in ran.record().trials}
    assert {arm: trial.status for arm, trial in trials.items()} == {"illness-24": "done", "ETTh2-96": "planned"}
    assert trials["illness-24"].tags["seed"] == "2021" and trials["illness-24"].metrics["final/test_mse"] > 0
    assert "baseline" not in ran.record().tags and "data.illness" in ran.record().tags


def test_the_csv_and_the_json_hold_every_cell(swept: Benchmark) -> None:
    rows = list(csv.DictReader(swept.csv.read_text().splitlines()))
    trial = next(trial for trial in swept.first.record().trials if trial.status == "done")
    assert [row["cell"] for row in rows] == ["ETTh2-96", "illness-24"]
    assert float(rows[1]["test_mse"]) == pytest.approx(trial.metrics["final/test_mse"], rel=1e-5)
    assert rows[1]["published_mse"] == "1.522" and rows[1]["preset"] == "illness" and rows[0]["test_mse"] == ""
    content = json.loads((swept.csv.parent / "t.json").read_text())
    assert content["table"]["data"].keys() == {"illness"} and content["test_set"] == "read"


def test_the_same_command_goes_on_with_the_same_table_and_trains_no_cell_again(swept: Benchmark) -> None:
    assert swept.again.code == 0, swept.again.err
    (sweep_id,) = swept.again.sweep_ids
    assert f"resuming {sweep_id}" in swept.again.err and "started" not in swept.again.err
