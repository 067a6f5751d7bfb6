"""A sweep that goes on keeps the feed that it began with, though other memory is free now, and says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tune.config.sweeps import SWEEPS
from tune.driver.open import _as_begun
from tune.machine.device import DeviceFacts
from tune.plan.planner import Planner


def _planner(**fields: Any) -> Planner:
    planner = Planner(SWEEPS["patch_size"](), overrides={"data.dataset": "demo", **fields}, repeats=1, seed=1)
    planner._protocol = {"rows": 1 << 20, "columns": 256}
    return planner


@pytest.mark.parametrize(
    ("fields", "begun", "feed", "said"),
    [
        ({}, "pinned", "pinned", "feed pinned: the sweep began with it; now, the series takes"),
        ({}, "device", "device", ""),
        ({}, None, "device", ""),  # a sweep whose parameters are not on record
        ({"data.feed": "mapped"}, "pinned", "mapped", ""),  # a named feed makes another sweep
    ],
)
def test_the_feed_of_a_sweep_that_goes_on(
    fields: dict[str, Any], begun: str | None, feed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    planner = _planner(**fields)
    plan = planner.plan(DeviceFacts(device_type="cuda", name="a GPU", capability=(9, 0), memory_gib=80.0, missing={}))
    folder: Any = SimpleNamespace(read=lambda: {"trials": [{"params": {"data.feed": begun}}]})
    kept = _as_begun(planner, plan, folder)
    assert {trial.config.data.feed for trial in kept.trials} == {feed}
    error = capsys.readouterr().err
    assert error.startswith(said) and bool(error) == bool(said)
