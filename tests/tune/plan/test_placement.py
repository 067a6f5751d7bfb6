"""The feed that a sweep takes where none is named: one for all arms, said in the plan, kept when the sweep goes on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from tune.common.errors import WrongInput
from tune.config.sweeps import SWEEPS, SweepConfig
from tune.machine.device import DeviceFacts
from tune.plan.placement import placement_of
from tune.plan.plan import Plan
from tune.plan.planner import Planner
from tune.plan.text import print_plan

PROTOCOL = {"rows": 100 * 2**20, "columns": 256}  # 100.8 GiB with the order of an epoch


def _gpu(**facts: Any) -> DeviceFacts:
    given: dict[str, Any] = {"memory_gib": 140.0, "memory_free_gib": 139.0, "host_free_gib": 1000.0, "gpus": 1} | facts
    return DeviceFacts(device_type="cuda", name="NVIDIA H200", capability=(9, 0), missing={}, **given)


def _planner(sweep: SweepConfig | None = None, protocol: dict[str, Any] | None = None, **fields: Any) -> Planner:
    overrides = {"data.dataset": "demo", **{name.replace("__", "."): value for name, value in fields.items()}}
    planner = Planner(sweep or SWEEPS["patch_size"](), overrides=overrides, repeats=1, seed=1)
    planner._protocol = PROTOCOL if protocol is None else protocol
    return planner


def _feeds(plan: Plan) -> set[str]:
    return {trial.config.data.feed for trial in plan.trials}


@pytest.mark.parametrize(
    ("device", "feed"),
    [
        (_gpu(), "device"),
        (_gpu(memory_free_gib=134.0), "pinned"),  # 100.5 GiB of it may hold data
        (_gpu(memory_free_gib=None, memory_gib=80.0), "pinned"),  # --gpu-model: free as far as its data sheet says
        (_gpu(memory_free_gib=80.0, gpus=8), "mapped"),  # 125 GiB of the host's for each GPU
        (_gpu(memory_free_gib=80.0, host_free_gib=None), "pinned"),
        (_gpu(memory_free_gib=80.0, host_free_gib=64.0), "mapped"),
        (DeviceFacts(device_type="cpu", name="some CPU", host_free_gib=1.0), "device"),
    ],
)
def test_all_arms_get_the_feed_that_there_is_room_for(device: DeviceFacts, feed: str) -> None:
    plan = _planner().plan(device)
    assert _feeds(plan) == {feed} and plan.placement is not None and plan.placement.feed == feed
    text = io.StringIO()
    print_plan(plan, text)
    assert ("the series takes 100.8 GiB" in text.getvalue()) == (feed != "device")
    assert f"feed {feed}" in text.getvalue()


@pytest.mark.parametrize("named", ["device", "pinned", "mapped", "arrow"])
def test_a_feed_that_the_user_names_is_taken_whatever_is_free(named: str) -> None:
    plan = _planner(data__feed=named).plan(_gpu(memory_free_gib=1.0, host_free_gib=1.0))
    assert _feeds(plan) == {named} and plan.placement is None


def test_auto_is_the_same_as_naming_none() -> None:
    small = _gpu(memory_free_gib=80.0)
    assert _feeds(_planner(data__feed="auto").plan(small)) == {"pinned"}


@pytest.mark.parametrize("name", [name for name, make in SWEEPS.items() if "data.feed" in make().swept])
def test_a_sweep_over_feeds_chooses_none(name: str) -> None:
    assert placement_of(SWEEPS[name](), {}, _gpu(memory_free_gib=1.0), PROTOCOL) is None


def test_the_plan_is_made_again_once_the_size_of_the_data_is_known() -> None:
    planner, small = _planner(), _gpu(memory_free_gib=80.0)
    planner._protocol = None
    first = planner.plan(small)
    assert _feeds(first) == {"device"} and first.placement is not None and "not known yet" in first.placement.reason
    planner._protocol = PROTOCOL
    assert _feeds(planner.plan(small)) == {"pinned"}


def test_other_free_memory_is_the_same_sweep_which_keeps_the_feed_that_it_began_with() -> None:
    def key(plan: Plan) -> str:
        return plan.key(data_sha256="x", tracking_uri="sqlite:///x.db")

    began = _planner().plan(_gpu(memory_free_gib=80.0))
    planner = _planner()
    later = planner.plan(_gpu())
    assert (_feeds(began), _feeds(later)) == ({"pinned"}, {"device"}) and key(began) == key(later)
    planner.keep_feed("pinned")
    kept = planner.plan(_gpu())
    assert _feeds(kept) == {"pinned"} and key(kept) == key(began)
    assert kept.placement is not None and "the sweep began with it; now, the series takes" in kept.placement.reason


def test_free_memory_alone_changes_no_plan_and_is_not_saved_with_a_sweep() -> None:
    planner = _planner()
    first, second = planner.plan(_gpu()), planner.plan(_gpu(memory_free_gib=138.0, host_free_gib=900.0))
    assert first.trials is second.trials
    assert not {"memory_free_gib", "host_free_gib"} & _gpu().as_dict().keys()


@pytest.mark.parametrize("feed", ["device", "pinned", "mapped"])
def test_workers_for_a_feed_without_any_are_refused(feed: str, tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match=f"the {feed} feed has no workers; use data.feed=arrow, or 0"):
        _planner(data__feed=feed, data__num_workers=2).plan(_gpu())
