"""The replay of recorded sweeps: reads both kinds of records, and sees an ETA that is right, wrong or unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.eta import Tick, epochs_s, from_outbox, from_result, read, replay, summary

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def _outbox(gpus: int = 1, *, later_s: float = 1.0) -> list[dict[str, Any]]:
    """Two arms, three seeds of 4 epochs; `later_s`: an epoch of the last seed. A seed's trials run on one GPU."""
    records: list[dict[str, Any]] = [{"kind": "begin_sweep", "time_ms": 1000, "driver_began_ms": 0}]
    now_s = [4.0] * gpus
    for seed in (1, 2, 3):
        gpu = seed % gpus
        for arm in ("a", "b"):
            trial, began_s = f"{arm}-s{seed}", now_s[gpu]
            records.append({"kind": "plan", "time_ms": 1000, "trial_id": trial, "tags": {"seed": str(seed)}})
            now_s[gpu] += 3.0
            for _ in range(4):
                now_s[gpu] += later_s if seed == 3 else 1.0
                metrics = {"time/epoch_s": 1.0}
                records.append({"kind": "epoch", "time_ms": 1e3 * now_s[gpu], "trial_id": trial, "metrics": metrics})
            now_s[gpu] += 1.0
            tags = {"spans": json.dumps({"started_ms": 1e3 * began_s}), "gpu_uuid": f"GPU-{gpu}"}
            end = {"kind": "end", "time_ms": 1e3 * now_s[gpu], "trial_id": trial, "tags": tags, "metrics": {}}
            records.append(end)
            now_s[gpu] += 2.0
    return records


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_sweep_without_scatter_is_foretold_from_a_fifth_on(gpus: int) -> None:
    recorded = from_outbox("made-up", _outbox(gpus))
    assert recorded is not None and recorded.at_a_time == gpus and not recorded.rebuilt
    told = summary(replay(recorded))
    assert told["unknown"] == 0 and told["within"] is not None and told["within"] > 0.9


def test_a_sweep_that_becomes_three_times_slower_is_not_foretold_before_it_does() -> None:
    recorded = from_outbox("made-up", _outbox(later_s=5.0))
    assert recorded is not None
    told = summary(replay(recorded))
    assert told["within"] is not None and told["within"] < 0.9


def test_a_trial_that_never_ended_is_no_part_of_it_and_without_any_there_is_nothing_to_replay() -> None:
    records = [record for record in _outbox() if not (record["kind"] == "end" and record["trial_id"] == "b-s3")]
    recorded = from_outbox("made-up", records)
    assert recorded is not None and "b-s3" not in {event.trial for event in recorded.events}
    assert from_outbox("made-up", records[:2]) is None
    assert from_result("made-up", []) is None


def test_errors_count_from_a_fifth_of_the_sweep_until_little_is_left() -> None:
    ticks = [
        Tick(share=0.1, left_s=90, eta_s=9000),
        Tick(share=0.3, left_s=70, eta_s=None),
        Tick(share=0.5, left_s=50, eta_s=50),
        Tick(share=0.7, left_s=30, eta_s=45),
        Tick(share=0.97, left_s=3, eta_s=300),
    ]
    told = summary(ticks)
    assert told == {
        "within": 0.5, "median_error": 0.25, "worst_error": 0.5, "worst_at": 0.7, "unknown": pytest.approx(1 / 3),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["2026-11-27-attention-ETTm1-h100", "2026-11-27-patch_size-ETTm1-h100"])
def test_the_sweeps_of_the_readme_are_foretold_within_a_quarter_from_a_fifth_on(name: str) -> None:
    recorded = read(RESULTS / f"{name}.json")
    assert recorded is not None and recorded.rebuilt
    assert summary(replay(recorded))["within"] == 1.0


def test_arms_that_were_warmed_up_together_begin_after_that_and_compile_nothing() -> None:
    file = RESULTS / "2026-11-27-patch_size-ETTm1-h100.json"
    alone, together = read(file), read(file, together=True)
    assert alone is not None and together is not None
    assert together.events[0].at_s > 20 > alone.events[0].at_s  # the longest of five compiled for 26 s
    assert together.events[-1].at_s < alone.events[-1].at_s - 60
    assert max(event.compiled_s for event in together.events) < 1 < max(event.compiled_s for event in alone.events)


def test_epochs_that_are_known_from_an_earlier_sweep_make_arms_that_have_not_run_known() -> None:
    before = read(RESULTS / "2026-11-30-move-attention-before-h200.json", together=True)
    after = read(RESULTS / "2026-11-30-move-attention-after-h200.json", together=True)
    assert before is not None and after is not None
    without, told = summary(replay(after)), summary(replay(after, weights=epochs_s(before)))
    assert told["median_error"] is not None and without["median_error"] is not None
    assert told["median_error"] < without["median_error"]


def test_a_real_outbox_is_replayed_by_its_own_time_stamps() -> None:
    file = RESULTS.parents[1] / "tests/tune/storage/format_1/custom-20261130-072617-0690/outbox.jsonl"
    recorded = read(file)
    assert recorded is not None and not recorded.rebuilt
    assert (recorded.name, recorded.at_a_time, recorded.epochs) == ("custom-20261130-072617-0690", 1, 3)
    assert [sum(event.kind == kind for event in recorded.events) for kind in ("began", "epoch", "ended")] == [6, 18, 6]
    for trial in recorded.blocks[0]:
        kinds = [event.kind for event in recorded.events if event.trial == trial]
        assert kinds == ["began", "epoch", "epoch", "epoch", "ended"]
    ticks = replay(recorded)
    assert [tick.eta_s for tick in ticks if tick.share < 0.5] == [None] * 49  # its first epoch was late
    assert ticks[-1].eta_s is not None
