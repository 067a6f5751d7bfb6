"""A search is expected to take what earlier searches of such trials took, stage by stage, or nothing is known."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tune.config.repeats import Repeats
from tune.config.sweeps import get_sweep
from tune.machine.device import DeviceFacts
from tune.plan.estimate import NO_SEARCH, fits_line, time_line
from tune.plan.plan import Plan
from tune.plan.search_estimate import SearchTimes, search_times
from tune.plan.space import plan_sweep
from tune.storage import open_sweep
from tune.storage.sweep_dir import SweepDir

DEVICE = DeviceFacts(device_type="cpu", name="some CPU")


@functools.cache
def _plan(repeats: Repeats = 3) -> Plan:
    given: dict[str, Any] = {"repeats": repeats, "seed": 1, "device": DEVICE}
    return plan_sweep(get_sweep("full"), draws=4, overrides={"data.dataset": "demo"}, **given)


def _params() -> Mapping[str, Any]:
    return _plan().trials[0].config.flat()


def _ran(storage: Path, *, finals: int = 2) -> SweepDir:
    """A search of two trials in 30 s, a probe of 8 s, a polish of 12 s, and 20 s for each block of the final."""
    params = dict(_params())
    content = {"key": "k", "created_s": 1.0, "code": {}, "trials": [], "environment": {"device": DEVICE.as_dict()}}
    folder = open_sweep.create(storage, "full", content)
    trials = [("search", "1", 40.0), ("search", "1", 60.0), ("probe", "1", 68.0), ("polish", "1", 80.0)]
    trials += [("final", str(2 + block), 100.0 + 20 * block) for block in range(finals)]
    records: list[dict[str, Any]] = [{"kind": "begin_sweep", "time_ms": 30_000}]
    for number, (stage, seed, ended_s) in enumerate(trials):
        tags = {"stage": "search" if stage == "polish" else stage, "seed": seed}
        tags |= {"polish": "true"} if stage == "polish" else {}
        plan = {"kind": "plan", "time_ms": 30_000, "trial_id": f"t{number}", "tags": tags, "params": params}
        end = {"kind": "end", "time_ms": 1e3 * ended_s, "trial_id": f"t{number}", "status": "done", "metrics": {}}
        records += [plan, end]
    folder.outbox.write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_each_stage_of_a_search_takes_what_it_took_before(tmp_path: Path) -> None:
    assert time_line(_plan(), tmp_path) == NO_SEARCH
    _ran(tmp_path)
    assert search_times(tmp_path, DEVICE.name, _params()) == SearchTimes(trial_s=15, probes_s=20, block_s=20)
    assert time_line(_plan(), tmp_path) == (
        "about 2 min: search 60 s, probes and polish 20 s, final 60 s, as earlier searches took"
    )


def test_with_auto_the_final_is_a_range(tmp_path: Path) -> None:
    _ran(tmp_path)
    line = time_line(_plan("auto"), tmp_path)
    assert line.startswith("about 2 min to 5 min: search 60 s, ") and ", final 60 s to 3 min, " in line


def test_what_fits_of_a_search_leaves_time_for_probes_and_the_final(tmp_path: Path) -> None:
    plan = _plan()
    assert fits_line(plan, tmp_path, 2) == "not known for 2 minutes"
    _ran(tmp_path)
    rest = "of the 4 trials of the search, probes and the final in"
    assert fits_line(plan, tmp_path, 2) == f"2 {rest} 2 minutes"  # 40 of 120 s are left
    assert fits_line(plan, tmp_path, 60) == f"4 {rest} 60 minutes"
    assert fits_line(plan, tmp_path, 1) == f"0 {rest} 1 minutes"


@pytest.mark.parametrize("changed", [{"data.dataset": "ETTh1"}, {"train.epochs": 77}, {"model.d_model": 32}], ids=str)
def test_a_search_of_other_data_epochs_or_size_says_nothing(tmp_path: Path, changed: dict[str, Any]) -> None:
    _ran(tmp_path)
    assert search_times(tmp_path, DEVICE.name, {**_params(), **changed}) is None


def test_a_search_that_never_came_to_its_final_says_nothing(tmp_path: Path) -> None:
    _ran(tmp_path, finals=0)
    assert time_line(_plan(), tmp_path) == NO_SEARCH


def test_the_time_between_two_runs_of_the_command_is_in_no_stage(tmp_path: Path) -> None:
    folder = _ran(tmp_path)
    lines = [json.loads(line) for line in folder.outbox.read_text().splitlines()]
    for line in lines[3:]:
        line["time_ms"] += 1e8
    lines.insert(3, {"kind": "begin_sweep", "time_ms": 1e8 + 40_000})
    folder.outbox.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert search_times(tmp_path, DEVICE.name, _params()) == SearchTimes(trial_s=15, probes_s=20, block_s=20)
