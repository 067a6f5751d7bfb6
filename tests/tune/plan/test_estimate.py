"""The expected time of a plan comes from earlier trials with the same work, or is unknown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tune.commands import sweep as commands
from tune.config.sweeps import get_sweep
from tune.machine.device import DeviceFacts
from tune.plan.estimate import UNKNOWN, time_line
from tune.plan.plan import Plan, make_plan, plan_rows
from tune.storage import open_sweep, sweep_dir

CPU = DeviceFacts(device_type="cpu", name="some CPU")


def _plan(device: DeviceFacts = CPU, **fields: Any) -> Plan:
    overrides = {"data.dataset": "demo"} | {name.replace("__", "."): value for name, value in fields.items()}
    return make_plan(get_sweep("patch_size"), overrides=overrides, repeats=1, seed=1, device=device)


def _ran(storage: Path, plan: Plan, epoch_s: float, status: str = "done") -> sweep_dir.SweepDir:
    content = {"key": "k", "created_s": 1.0, "code": {}, "trials": plan_rows(plan.trials),
               "environment": {"device": plan.device.as_dict()}}  # fmt: skip
    folder = open_sweep.create(storage, "patch_size", content)
    records: list[dict[str, Any]] = [{"kind": "begin_sweep"}]
    for trial in plan.trials:
        records += [
            {"kind": "epoch", "trial_id": trial.trial_id, "metrics": {"time/epoch_s": factor * epoch_s}}
            for factor in (1, 1, 50)
        ]
        ends = {"final/startup_s": 1.0, "final/gate_s": 1.0, "final/compile_s": 0.75, "final/prune_s": 0.25}
        records.append({"kind": "end", "trial_id": trial.trial_id, "status": status, "metrics": ends})
    search = [{"kind": kind, "trial_id": "drawn", "status": "done", "metrics": {}} for kind in ("epoch", "end")]
    search[0]["metrics"] = {"time/epoch_s": 1.0}
    records[1:1] = search  # a trial that a search has drawn is not in the plan
    folder.outbox.write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_without_earlier_trials_nothing_is_known_and_nothing_is_made(tmp_path: Path) -> None:
    assert time_line(_plan(), tmp_path / "runs") == UNKNOWN
    assert list(tmp_path.iterdir()) == []


def test_the_time_is_start_and_compiling_and_the_planned_number_of_median_epochs(tmp_path: Path) -> None:
    _ran(tmp_path, _plan(train__epochs=3), epoch_s=2.0)
    expected = "about 85 s: 5 trials one after another 85 s, warm-up not known, as earlier ones took"
    assert 85 == 5 * (3 + 2 * 7)
    assert time_line(_plan(train__epochs=7, train__learning_rate=1e-3), tmp_path) == expected


@pytest.mark.parametrize(
    "changed", [{"model__d_model": 32}, {"train__batch_size": 64}, {"data__context_length": 256},
                {"device": DeviceFacts(device_type="cpu", name="another CPU")}], ids=str,
)  # fmt: skip
def test_other_work_and_another_device_say_nothing(tmp_path: Path, changed: dict[str, Any]) -> None:
    _ran(tmp_path, _plan(), epoch_s=2.0)
    assert time_line(_plan(**changed), tmp_path) == UNKNOWN


def test_failed_trials_say_nothing(tmp_path: Path) -> None:
    _ran(tmp_path, _plan(), epoch_s=2.0, status="failed")
    assert time_line(_plan(), tmp_path) == UNKNOWN


def test_trials_of_which_nothing_is_known_are_counted(tmp_path: Path) -> None:
    _ran(tmp_path, _plan(), epoch_s=2.0)
    sweep = get_sweep("attention")
    plan = make_plan(sweep, overrides={"data.dataset": "demo"}, repeats=1, seed=1, device=CPU)
    assert len(plan.runnable) > 1 and f": 1 of {len(plan.runnable)} trials " in time_line(plan, tmp_path)


@pytest.mark.parametrize("tail", ['{"kind": "ep', "[]\n", '{"kind": "epoch"}\n', "\n"])
def test_a_damaged_outbox_gives_what_it_holds(tmp_path: Path, tail: str) -> None:
    folder = _ran(tmp_path, _plan(), epoch_s=2.0)
    with folder.outbox.open("a") as file:
        file.write(tail)
    assert ": 5 trials" in time_line(_plan(), tmp_path)
    folder.update(trials=5, environment=[])
    assert time_line(_plan(), tmp_path) == UNKNOWN


@pytest.mark.parametrize(("repeats", "at_a_time", "gpu_s", "how"), [
    (3, 2, 2 * 85, "2 GPUs, those of one seed on one"),  # three blocks of 5 trials: one GPU has two
    (3, 8, 85, "8 GPUs, those of one seed on one"),
    (1, 2, 3 * 17, "2 GPUs"),  # five trials that make no pairs: one GPU has three
])  # fmt: skip
def test_on_several_gpus_the_time_is_that_of_the_one_with_most_blocks(
    tmp_path: Path, repeats: int, at_a_time: int, gpu_s: int, how: str
) -> None:
    _ran(tmp_path, _plan(train__epochs=3), epoch_s=2.0)
    given = {"data.dataset": "demo", "train.epochs": 7}
    plan = make_plan(get_sweep("patch_size"), overrides=given, repeats=repeats, seed=1, device=CPU)
    line = time_line(plan, tmp_path, at_a_time=at_a_time)
    said = {170: "3 min", 85: "85 s", 51: "51 s"}[gpu_s]
    assert line == (f"about {said}: {5 * repeats} trials on {how} {said}, warm-up not known, as earlier ones took")


@pytest.mark.parametrize(
    ("facts", "asked", "at_a_time"),
    [
        ({"device_type": "cuda", "gpus": 8}, None, 8),
        ({"device_type": "cuda", "gpus": 8}, 3, 3),
        ({"device_type": "cuda", "gpus": 1}, 3, 1),
        ({"device_type": "cuda", "gpus": 0}, 4, 4),  # a model that was only named
        ({"device_type": "cuda", "gpus": 0}, None, 1),
        ({"device_type": "cpu", "gpus": 0}, None, 1),
    ],
)
def test_a_plan_counts_the_gpus_it_knows_of(facts: dict[str, Any], asked: int | None, at_a_time: int) -> None:
    plan = replace(_plan(), device=DeviceFacts(name="some", **facts))
    assert commands._at_a_time(plan, asked) == at_a_time
