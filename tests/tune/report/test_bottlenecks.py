"""What the report says of where an arm's time goes, and of GPUs that throttled."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tune.measure.bottleneck import diagnose_epochs
from tune.report.arms import arm_rows
from tune.report.bottlenecks import WARN_PCT, diagnoses, time_notes
from tune.report.charts import time_chart
from tune.report.marks import Bars
from tune.report.notes import notes
from tune.report.render.markdown import markdown
from tune.report.render.page import html_page
from tune.report.values import as_json
from tune.tracking.reader import SweepRecord, TrialRecord

PARTS_S = {"train": 10.0, "step": 9.5, "h2d": 0.0, "data_wait": 0.25, "launch": 0.25, "other": 0.0}
ON_GPU = {"gpu_uuid": "GPU-aaaa", "device": "NVIDIA H100 80GB HBM3"}


def _trial(
    arm: str, seed: int = 1, *, epochs: int = 3, status: str = "done", busy_ms: float | None = 4.0,
    throttled: tuple[float, ...] = (), reasons: float = 0.0, tags: dict[str, str] = ON_GPU, **values: float,
) -> TrialRecord:  # fmt: skip
    """Its epochs all alike: `values` are seconds of parts, or metrics by name."""
    per_epoch = {f"time/{name}_s": values.pop(name, value) for name, value in PARTS_S.items()}
    usual = {"time/median_step_ms": 4.0, "speed/peak_pct": 48.0, "speed/bandwidth_pct": 20.0, "model/heads": 4.0}
    per_epoch |= usual | values
    history = {name: [(epoch, value) for epoch in range(1, epochs + 1)] for name, value in per_epoch.items()}
    if throttled:
        history["gpu/throttled_pct"] = list(enumerate(throttled, start=1))
        history["gpu/throttle_reasons"] = [(epoch, reasons) for epoch in range(1, len(throttled) + 1)]
    return TrialRecord(
        trial_id=f"{arm}-s{seed}", run_id="r", name="n", status=status, reason="", params={},
        tags={"arm": arm, "seed": str(seed), "timing_valid": "true", **tags},
        metrics={} if busy_ms is None else {"final/step_busy_ms": busy_ms}, history=history,
    )  # fmt: skip


def _sweep(*trials: TrialRecord) -> SweepRecord:
    tags = {"sweep": "attention", "baseline": "eager", "question": "?", "device": "H100", "environment": "{}"}
    return SweepRecord(
        sweep_id="s-1", run_id="p", name="n", status="done", tags=tags, params={}, metrics={}, trials=trials
    )


def test_an_arm_is_diagnosed_over_all_its_done_trials() -> None:
    waiting = _trial("slow", 2, step=5.5, data_wait=4.25)
    arms = {"slow": [_trial("slow", 1, step=5.5, data_wait=4.25), waiting, _trial("slow", 3, status="stopped")]}
    assert diagnoses(arms) == {"slow": "data-bound: the GPU waits for data 42 % of the epoch"}
    mixed = {"slow": [_trial("slow", 1), waiting]}  # half of the time 2.5 %, half 42.5 %
    assert diagnoses(mixed) == {"slow": "data-bound: the GPU waits for data 22 % of the epoch"}


def test_the_busy_time_of_a_profiled_step_shows_idling_inside_of_steps() -> None:
    assert diagnoses({"a": [_trial("a", busy_ms=1.0)]}) == {"a": "launch-bound: GPU busy 24 %"}
    assert diagnoses({"a": [_trial("a", busy_ms=None)]}) == {"a": "compute-bound at 48 % of peak"}


def test_an_arms_stalled_epochs_are_named_and_left_out_of_its_diagnosis() -> None:
    steady = {f"time/{name}_s": value for name, value in PARTS_S.items()} | {"time/median_step_ms": 4.0}
    steady |= {"speed/peak_pct": 20.0, "speed/bandwidth_pct": 60.0, "model/heads": 4.0, "time/stalled_pct": 0.0}
    late = steady | {"time/train_s": 12.0, "time/stalled_pct": 17.0}
    epochs = [steady, steady, late, steady, steady]
    trial = _trial("a", epochs=0)
    history = {name: [(number, epoch[name]) for number, epoch in enumerate(epochs, 1)] for name in steady}
    line = diagnose_epochs(epochs, on_gpu=True, step_busy_ms=4.0)
    assert line == "memory-bound at 60 % of bandwidth; 1 of 4 epochs stalled, for up to 17 % of their time"
    assert diagnoses({"a": [replace(trial, history=history)]}) == {"a": line}
    pair = [replace(trial, history=history)] * 2
    assert diagnoses({"a": pair}) == {"a": line.replace("1 of 4", "2 of 8")}


def test_the_bars_of_an_epochs_time_count_epochs_after_the_last_head_left_only() -> None:
    steps_s = [90.0, 70.0, 50.0, 4.0, 2.0]
    history = {f"time/{name}_s": list(enumerate([0.0] * 5, 1)) for name in PARTS_S}
    history["time/step_s"] = list(enumerate(steps_s, 1))
    history["model/heads"] = list(enumerate([16.0, 16.0, 12.0, 8.0, 8.0], 1))
    chart = time_chart({"gradual": [replace(_trial("gradual", epochs=0), history=history)]})
    assert isinstance(chart.marks, Bars)
    bars = {part.name: part.values for part in chart.marks.items}
    assert bars["training steps"] == [3.0] and bars["other"] == [0.0]
    assert "epochs after the last head left" in chart.caption


def test_an_arm_whose_times_are_not_known_has_no_line() -> None:
    assert diagnoses({"a": [_trial("a", epochs=0)], "b": [_trial("b", status="oom")], "c": []}) == {}


def test_a_cpu_is_not_taken_for_a_gpu() -> None:
    for tags in ({}, {"gpu_uuid": "None"}):
        assert diagnoses({"a": [_trial("a", tags=tags, busy_ms=None)]})["a"].startswith("on a CPU: 95 %")


def test_notes_markdown_page_and_json_hold_the_diagnosis() -> None:
    tags = {"diagnosis": "compute-bound at 48 % of peak; 3,000 J an epoch"}
    record = _sweep(_trial("eager", tags=ON_GPU | tags, **{"gpu/energy_j": 3000.0}), _trial("fast"))
    line = "Time of eager: compute-bound at 48 % of peak; 3,000 J an epoch."
    assert line in notes(record, arm_rows(record))
    assert line in markdown(record)
    assert f"<li>{line}</li>" in html_page(record)
    content = json.loads(json.dumps(as_json(record)))
    assert content["diagnoses"] == {
        "eager": "compute-bound at 48 % of peak; 3,000 J an epoch", "fast": "compute-bound at 48 % of peak"
    }  # fmt: skip
    assert [trial["diagnosis"] for trial in content["trials"]] == [tags["diagnosis"], None]


def test_an_arm_with_throttled_epochs_says_how_many_and_why_and_that_they_count() -> None:
    arms = {"hot": [_trial("hot", 1, throttled=(0.0, 5.0, 0.0), reasons=0x20 | 1), _trial("hot", 2, throttled=(0.0,))]}
    *_, line = time_notes(arms)
    assert line == "hot: the GPU throttled in 1 of 4 epochs (software thermal slowdown); they count."


@pytest.mark.parametrize(("share", "warned"), [(WARN_PCT - 1, False), (WARN_PCT, True)])
def test_a_warning_names_a_trial_from_the_stated_share_of_its_samples_on(share: float, warned: bool) -> None:
    arms = {"hot": [_trial("hot", 1, throttled=(share, share), reasons=4.0), _trial("hot", 2, throttled=(0.0, 0.5))]}
    warnings = [line for line in time_notes(arms) if line.startswith("Warning")]
    assert bool(warnings) is warned
    assert all("hot-s1 (10 %)" in line and "hot-s2" not in line for line in warnings)


def test_without_throttled_samples_there_is_no_line_on_throttling() -> None:
    arms: dict[str, Any] = {"a": [_trial("a", throttled=(0.0, 0.0), reasons=1.0)], "b": [_trial("b")]}
    assert not [line for line in time_notes(arms) if "throttled" in line]
