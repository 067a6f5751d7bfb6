"""The commands that check a search's answer are sweeps of it and its neighbours, one for each field."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from benchmarks.neighbours import answer_of, commands
from tune.commands.sweep import parser
from tune.common.errors import WrongInput
from tune.config.request import build_request
from tune.config.sweeps import get_sweep
from tune.machine.device import DeviceFacts
from tune.plan.plan import make_plan
from tune.plan.planner import Planner
from tune.stats.verdicts import FASTER, NOT_WORSE, UNDECIDED, WORSE

H100 = DeviceFacts(device_type="cuda", name="NVIDIA H100", capability=(9, 0), memory_gib=79.6, missing={})
ANSWER = {
    "data.dataset": "demo", "model.attention": "patch", "model.patch_length": 48, "train.batch_size": 256,
    "pruning.score": "taylor", "pruning.heads_per_layer": 5, "pruning.schedule": "gradual", "train.epochs": 3,
}  # fmt: skip


def _result() -> dict[str, Any]:
    (trial,) = make_plan(get_sweep("custom"), overrides=ANSWER, repeats=1, seed=2, device=H100).trials
    params = trial.config.flat()
    accurate = {"verdict": NOT_WORSE}
    return {
        "baseline": "baseline",
        "comparisons": {
            "answer": {"ratio": 2.0, "verdict": FASTER, "accuracy": accurate},
            "worse": {"ratio": 3.0, "verdict": FASTER, "accuracy": {"verdict": WORSE}},
            "slower": {"ratio": 4.0, "verdict": UNDECIDED, "accuracy": accurate},
        },
        "trials": [{"arm": "answer", "stage": "final", "params": params}],
    }


def test_the_answer_is_the_fastest_arm_that_is_faster_and_not_worse_else_the_baseline() -> None:
    assert answer_of(_result()) == "answer"
    assert answer_of(_result() | {"comparisons": {}}) == "baseline"


def test_the_answer_of_a_search_that_ran_is_the_one_that_its_report_names() -> None:
    stored = Path(__file__).parents[2] / "docs/results/2026-11-30-full-ETTh1-h200.json"
    assert answer_of(json.loads(stored.read_text())) == "patch-patch-192-batch-128-device-0-none"


def test_each_command_is_a_sweep_of_the_answer_and_its_neighbours_in_one_field() -> None:
    swept = {}
    for command in commands(_result(), "answer", 5):
        _, _, *words = shlex.split(command)
        request = build_request(parser().parse_args(words))
        plan = Planner.of(request).plan(H100)
        baseline = next(trial for trial in plan.trials if trial.arm == plan.sweep.baseline)
        assert {name: baseline.config.flat()[name] for name in ANSWER} == ANSWER
        ((axis, values),) = request.axes.items()
        swept[axis] = values
    assert swept["model.patch_length"] == (48, 24, 96) and swept["train.batch_size"] == (256, 128, 512)
    assert swept["pruning.heads_per_layer"] == (5, 2, 8) and set(swept["pruning.schedule"]) == {"gradual", "one_shot"}
    assert swept["data.feed"] == ("device", "arrow") and swept["train.engine"][0] == "graph"
    assert {"eager", "sdpa_efficient"} < set(swept["model.attention"]) and swept["model.attention"][0] == "patch"


def test_an_arm_that_the_final_lacks_is_named_in_one_line() -> None:
    with pytest.raises(WrongInput, match="unknown arm of the final 'answr'.*answer"):
        commands(_result(), "answr", 5)
