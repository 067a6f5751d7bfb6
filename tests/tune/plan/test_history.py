"""What earlier sweeps took, read from their records, and what a plan is expected to take by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from model.flops import train_step_flops
from tune.config.repeats import AUTO, Repeats
from tune.config.step_shape import step_shape
from tune.config.sweeps import get_sweep
from tune.machine.code_identity import code_identity
from tune.machine.device import DeviceFacts
from tune.plan.data import DataFacts
from tune.plan.estimate import ASSUMED, UNKNOWN, estimate, fits, fits_line, history_of, outlook, time_line
from tune.plan.history import read_history
from tune.plan.plan import Plan, PlannedTrial, make_plan, plan_rows
from tune.storage import open_sweep
from tune.storage.sweep_dir import SweepDir

DEVICE = DeviceFacts(device_type="cpu", name="some CPU")
CHANNELS, DATA = 7, {"data.dataset": "ETTh1"}
GAP_S, HEAD_S, END_S, GATE_S = 2.0, 3.0, 1.0, 4.0
START_S, CLOSE_S = 10.0, 5.0


def _plan(repeats: Repeats = 3, **fields: Any) -> Plan:
    overrides = {**DATA, "train.epochs": 4} | {name.replace("__", "."): value for name, value in fields.items()}
    return make_plan(get_sweep("patch_size"), overrides=overrides, repeats=repeats, seed=1, device=DEVICE)


def _flops(trial: PlannedTrial) -> float:
    assert trial.train_windows is not None
    steps = trial.train_windows // trial.config.train.batch_size
    return float(steps * train_step_flops(step_shape(trial.config, channels=CHANNELS)))


def _ran(
    storage: Path,
    plan: Plan,
    trials: Sequence[PlannedTrial] | None = None,
    *,
    power: float = 1.0,
    warm_up_s: float = 0.0,
    code: str | None = None,
    device: DeviceFacts = DEVICE,
) -> SweepDir:
    """A sweep of one device whose epochs take (FLOPs / 1e12) to a power. With a warm-up no trial measures a gate."""
    sha256 = code or code_identity()["code_sha256"]
    content = {"key": "k", "created_s": 1.0, "code": {"code_sha256": sha256}, "trials": plan_rows(plan.trials),
               "environment": {"device": device.as_dict()}}  # fmt: skip
    folder = open_sweep.create(storage, "patch_size", content)
    records: list[dict[str, Any]] = [{"kind": "begin_sweep", "time_ms": 1000, "driver_began_ms": 0}]
    now_s, seen = START_S, set[str]()
    if warm_up_s:
        records.append(_span("warm_up", now_s, now_s + warm_up_s))
        now_s += warm_up_s
    for number, trial in enumerate(trials or plan.trials):
        now_s += GAP_S if number else 0.0
        gate_s = 0.0 if warm_up_s or trial.arm in seen else GATE_S
        seen.add(trial.arm)
        epoch_s, began_ms, flops = (_flops(trial) / 1e12) ** power, 1e3 * now_s, _flops(trial)
        now_s += HEAD_S + gate_s
        for epoch in range(1, 5):
            now_s += epoch_s
            metrics = {"time/epoch_s": epoch_s, "time/train_s": epoch_s, "speed/tflops": flops / epoch_s / 1e12}
            records.append({"kind": "epoch", "trial_id": trial.trial_id, "epoch": epoch, "metrics": metrics})
        now_s += END_S
        spans = {"started_ms": began_ms, "work_ended_ms": 1e3 * now_s, "earlier_ms": 0}
        tags = {"spans": json.dumps(spans), "hostname": "h"} | ({"gate_verdict": "measured"} if gate_s else {})
        end = {"kind": "end", "trial_id": trial.trial_id, "status": "done", "time_ms": 1e3 * now_s, "tags": tags}
        records.append(end | {"metrics": {"final/gate_s": gate_s}})
    records.append(_span("driver", 0.0, now_s + CLOSE_S))
    folder.outbox.write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def _span(part: str, began_s: float, ended_s: float) -> dict[str, Any]:
    times = {"began_ms": 1e3 * began_s, "ended_ms": 1e3 * ended_s, "time_ms": 1e3 * ended_s}
    return {"kind": "span", "part": part, "number": 1, **times}


def _epochs_s(plan: Plan, power: float = 1.0) -> float:
    return sum(4 * (_flops(trial) / 1e12) ** power for trial in plan.runnable)


def test_a_sweep_that_runs_again_is_expected_to_take_what_it_took_without_its_gates(tmp_path: Path) -> None:
    plan = _plan()
    _ran(tmp_path, plan)
    found = estimate(plan, tmp_path)
    assert found is not None and (found.known, found.trials, found.assumed.total()) == (15, 15, 0)
    assert found.around_s == START_S + CLOSE_S
    assert found.warm_up_s == 0.0  # this code has run all of them
    assert found.trials_s[1] == pytest.approx(_epochs_s(plan) + 15 * (GAP_S + HEAD_S + END_S), abs=GAP_S)


def test_other_code_must_pass_the_gate_again(tmp_path: Path) -> None:
    plan = _plan()
    _ran(tmp_path, plan, code="other")
    found = estimate(plan, tmp_path)
    assert found is not None and found.warm_up_s == 5 * GATE_S


def test_new_arms_warm_up_together_as_earlier_ones_did(tmp_path: Path) -> None:
    plan = _plan()
    _ran(tmp_path, plan, code="other", warm_up_s=50.0)
    found = estimate(plan, tmp_path)
    assert found is not None and found.warm_up_s == 50.0
    assert "warm-up 50 s" in time_line(plan, tmp_path)


@pytest.mark.parametrize(("power", "arms"), [(1.0, 3), (0.4, 3), (1.0, 1)])
def test_work_that_nobody_measured_is_scaled_from_the_nearest_by_the_power_that_the_others_show(
    tmp_path: Path, power: float, arms: int
) -> None:
    plan = _plan()
    names = {"patch-24", "patch-48", "patch-96"} if arms == 3 else {"patch-48"}
    _ran(tmp_path, plan, [trial for trial in plan.trials if trial.arm in names], power=power)
    found = estimate(plan, tmp_path)
    assert found is not None and found.known == 15
    assert found.assumed.total() == 15 - 3 * arms and set(found.assumed) <= names
    assert f"{15 - 3 * arms} trials {ASSUMED} from patch-" in time_line(plan, tmp_path)
    assert found.trials_s[1] == pytest.approx(_epochs_s(plan, power) + 15 * (GAP_S + HEAD_S + END_S), rel=0.05)


@pytest.mark.parametrize(
    "changed", [{"train__precision": "tf32"}, {"train__engine": "compile"}, {"model__d_model": 8192}], ids=str
)
def test_another_kind_of_work_and_work_of_another_size_are_not_known(tmp_path: Path, changed: dict[str, Any]) -> None:
    _ran(tmp_path, _plan())
    assert time_line(_plan(**changed), tmp_path) == UNKNOWN


def test_a_trial_that_had_a_neighbour_on_its_gpu_says_nothing(tmp_path: Path) -> None:
    folder = _ran(tmp_path, _plan())
    lines = [json.loads(line) for line in folder.outbox.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "end":
            line["tags"]["timing_valid"] = "false"
    folder.outbox.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert time_line(_plan(), tmp_path) == UNKNOWN


def test_another_device_says_nothing(tmp_path: Path) -> None:
    _ran(tmp_path, _plan(), device=DeviceFacts(device_type="cpu", name="another CPU"))
    assert time_line(_plan(), tmp_path) == UNKNOWN


def test_without_the_size_of_the_data_nothing_is_scaled(tmp_path: Path) -> None:
    _ran(tmp_path, _plan())
    file = tmp_path / "own.csv"
    file.write_text("date,a,b\n")
    plan = make_plan(
        get_sweep("patch_size"),
        overrides={"data.dataset": str(file)},
        repeats=3,
        seed=1,
        device=DEVICE,
        data=DataFacts(),
    )
    assert time_line(plan, tmp_path) == UNKNOWN


def test_as_many_blocks_fit_as_the_time_allows_and_with_nothing_known_nobody_knows(tmp_path: Path) -> None:
    plan = _plan()
    assert fits(plan, tmp_path, 60) is None
    assert fits_line(plan, tmp_path, 60) == "not known for 60 minutes"
    _ran(tmp_path, plan)
    found = estimate(plan, tmp_path)
    assert found is not None
    two_s = found.fixed_s + sum(found.blocks_s[:2])
    assert fits(plan, tmp_path, (two_s + 1) / 60) == (2, 3)
    assert fits(plan, tmp_path, (two_s - 1) / 60) == (1, 3)
    assert fits(plan, tmp_path, 0.1) == (0, 3)
    assert fits(plan, tmp_path, 1e4) == (3, 3)
    assert fits_line(plan, tmp_path, 0.1) == "0 of 3 blocks in 0.1 minutes"
    assert fits_line(plan, tmp_path, 90) == "all of it in 90 minutes"


def test_with_auto_the_time_is_a_range_from_the_first_look_to_the_last_block(tmp_path: Path) -> None:
    _ran(tmp_path, _plan())
    found = estimate(_plan(AUTO), tmp_path)
    assert found is not None
    assert found.trials_s == (pytest.approx(sum(found.blocks_s[:3])), pytest.approx(sum(found.blocks_s)))
    assert len(found.blocks_s) == 10
    line = time_line(_plan(AUTO), tmp_path)
    assert line.startswith("about ") and ": 3 to 10 blocks one after another 101 s to 6 min, " in line


def test_the_outlook_of_what_is_left_knows_each_arms_epoch_and_all_of_it(tmp_path: Path) -> None:
    plan = _plan()
    assert outlook(plan, history_of(plan, tmp_path), plan.runnable).seconds is None
    _ran(tmp_path, plan)
    left = [trial for trial in plan.runnable if trial.seed == 3]
    found = outlook(plan, history_of(plan, tmp_path), left)
    assert found.seconds == pytest.approx(
        sum(4 * _flops(trial) / 1e12 + GAP_S + HEAD_S + END_S for trial in left), abs=3
    )
    ratio = found.weights["patch_size-patch-12"] / found.weights["patch_size-patch-192"]
    flops = {trial.arm: _flops(trial) for trial in left}
    assert ratio == pytest.approx(flops["patch-12"] / flops["patch-192"])


def test_a_resumed_sweep_has_no_gap_of_a_day(tmp_path: Path) -> None:
    plan = _plan()
    folder = _ran(tmp_path, plan)
    lines = [json.loads(line) for line in folder.outbox.read_text().splitlines()]
    at = next(number for number, line in enumerate(lines) if line["kind"] == "end") + 1
    later_ms = 1e8
    for line in lines[at:]:
        for name in ("time_ms", "began_ms", "ended_ms"):
            if name in line:
                line[name] += later_ms
        if line["kind"] == "end":
            spans = json.loads(line["tags"]["spans"])
            line["tags"]["spans"] = json.dumps(
                {name: value + (later_ms if value else 0) for name, value in spans.items()}
            )
    lines.insert(at, {"kind": "begin_sweep", "time_ms": later_ms, "driver_began_ms": later_ms})
    folder.outbox.write_text("".join(json.dumps(line) + "\n" for line in lines))
    history = read_history(tmp_path, DEVICE.name, None)
    assert max(trial.between_s for trial in history.trials) == pytest.approx(GAP_S + HEAD_S + END_S)


def test_a_real_sweep_tells_what_its_trials_took_between_their_epochs(tmp_path: Path) -> None:
    recorded = Path(__file__).parents[1] / "storage" / "format_1" / "custom-20261130-072617-0690"
    shutil.copytree(recorded, tmp_path / recorded.name)
    history = read_history(tmp_path, "AMD EPYC", None)
    assert len(history.trials) == 6 and {trial.params["train.learning_rate"] for trial in history.trials} == {
        1e-3,
        2e-3,
    }
    assert all(0 < trial.epoch_s < 5 and 0 < trial.between_s < 30 for trial in history.trials)
    assert history.compiled == frozenset() and history.around_s is None  # by other code, and before spans were recorded
