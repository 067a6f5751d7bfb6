"""The benchmark of many trials, at five of them: the real command, and what it counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scale import SEEDS, sweep_of

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, str(ROOT / "benchmarks" / "scale.py")]


def test_trivial_trials_go_all_the_way_and_no_call_to_the_store_is_made_for_each_of_their_metrics(
    tmp_path: Path,
) -> None:
    command = [*PROGRAM, "--trials", str(SEEDS), "--epochs", "2", "--json", str(tmp_path / "cost.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    cost = json.loads((tmp_path / "cost.json").read_text()) if (tmp_path / "cost.json").exists() else done.stderr
    assert cost["done"] == cost["trials"] == SEEDS, done.stderr
    assert cost["calls"]["create_run"] == SEEDS + 1
    assert cost["calls"]["create_logged_model"] == SEEDS and cost["refused"] == 0
    assert cost["calls"]["get_metric_history"] <= 2  # of the sweep's own metrics, however many trials it has
    assert cost["cpu_s_per_trial"] > 0 and cost["peak_memory_gib"] > 0
    assert f"{SEEDS} trials of 2 epochs; MLflow has all numbers of {SEEDS}, refused 0" in done.stdout


@pytest.mark.parametrize("trials", [5, 1000])
def test_the_arms_are_as_many_as_the_trials_need_and_all_differ(trials: int) -> None:
    sweep = sweep_of(trials)
    assert len({json.dumps(dict(arm.changes)) for arm in sweep.arms}) * SEEDS == trials
