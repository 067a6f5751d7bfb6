"""The parts of a sweep's wall time sum to all of it, on one GPU or several, over interruptions too."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_kit import GPU_A, sweep, trial

from tune.report.accounts import PARTS, Accounts, accounts, accounts_json, accounts_line, accounts_metrics, rounded_pct
from tune.report.render.markdown import markdown
from tune.report.render.page import html_page
from tune.report.values import as_json, parent_metrics
from tune.tracking.reader import SweepRecord, TrialRecord

GPU_B = "GPU-bbbb"


def _ran(
    arm: str,
    seed: int,
    began_s: float,
    first_s: float | None,
    ended_s: float,
    *,
    train: list[float] | None = None,
    gpu: str = GPU_A,
    stage: str | None = None,
    earlier_s: float = 0.0,
    **metrics: float,
) -> TrialRecord:
    """A trial by its seconds; two epochs of 10 s and 1 s of validation each, if it says nothing else."""
    spans: dict[str, Any] = {"started_ms": 1e3 * began_s, "work_ended_ms": 1e3 * ended_s, "earlier_ms": 1e3 * earlier_s}
    spans["first_epoch_ms"] = None if first_s is None else 1e3 * first_s
    train = train or ([10.0, 10.0] if first_s is not None else [])
    tags = {"spans": json.dumps(spans), "gpu_uuid": gpu} | ({} if stage is None else {"stage": stage})
    history = {"time/train_s": train, "time/validation_s": [1.0] * len(train)}
    given = {f"final/{name}": value for name, value in metrics.items()}
    return trial(arm, seed, tags=tags, history=history, metrics=given)


def _during(record: SweepRecord, *runs: tuple[float, float], **parts: list[tuple[float, float]]) -> SweepRecord:
    def in_ms(spans: Any) -> tuple[tuple[int, int], ...]:
        return tuple((round(1e3 * begin), round(1e3 * end)) for begin, end in spans)

    return replace(record, spans={"driver": in_ms(runs)} | {name: in_ms(spans) for name, spans in parts.items()})


def _parts(record: SweepRecord) -> dict[str, float]:
    found = accounts(record)
    assert found is not None
    assert sum(found.parts_s.values()) == pytest.approx(found.wall_s * found.devices)
    return {name: pytest.approx(seconds) for name, seconds in found.parts_s.items() if seconds > 1e-9}


TWO = (_ran("none", 1, 50, 55, 80), _ran("fast", 1, 82, 90, 115, gate_s=0.5))


def test_a_sweep_on_one_gpu_is_training_validation_warm_up_gaps_and_rest() -> None:
    record = _during(sweep(*TWO), (0, 120), warm_up=[(10, 50)])
    # from 50 to 115 the GPU has trials: of these 65 s, 44 s are epochs and 0.5 s is the gate
    assert _parts(record) == {"training": 40, "validation": 4, "warm-up": 40.5, "gaps": 20.5, "rest": 15}
    assert accounts_line(accounts(record)) == (
        "Wall time 2 min 0 s: training 33 %, validation 3 %, warm-up 34 %, gaps 17 %, rest 13 %."
    )


def test_compiling_counts_as_warm_up_and_loading_compiled_code_as_a_gap() -> None:
    (loaded,) = (_ran("none", 1, 0, 10, 35, compile_s=4.0),)
    compiled = replace(loaded, tags=loaded.tags | {"compiled_afresh": "true"})
    assert _parts(_during(sweep(loaded), (0, 35))) == {"training": 20, "validation": 2, "gaps": 13}
    assert _parts(_during(sweep(compiled), (0, 35))) == {"training": 20, "validation": 2, "warm-up": 4, "gaps": 9}


def test_a_process_that_compiled_and_handed_over_is_warm_up_before_the_trials_start() -> None:
    record = _during(sweep(_ran("none", 1, 40, 45, 70, rehearsal_s=30.0)), (0, 70))
    assert _parts(record) == {"training": 20, "validation": 2, "warm-up": 30, "gaps": 8, "rest": 10}


def test_several_gpus_have_as_many_seconds_and_one_without_a_trial_left_is_rest() -> None:
    record = _during(sweep(TWO[0], _ran("fast", 1, 50, 55, 110, gpu=GPU_B)), (0, 110), warm_up=[(10, 50)])
    found = accounts(record)
    assert found is not None and (found.wall_s, found.devices) == (110, 2)
    # A: 30 s with its trial, then 30 s without one; B: 60 s; both: 10 s before the warm-up
    expected = {"training": 40, "validation": 4, "warm-up": 80, "gaps": 90 - 44, "rest": 30 + 20}
    assert _parts(record) == expected
    assert accounts_line(found).startswith("Wall time 1 min 50 s on 2 GPUs: training 18 %, ")
    assert accounts_line(found).endswith("; shares of 3 min 40 s of GPU time.")


def test_on_a_cpu_all_machines_count_as_one_device() -> None:
    record = _during(sweep(TWO[0], _ran("fast", 1, 82, 90, 115, gpu=GPU_B), gpus_per_trial="0"), (0, 120))
    found = accounts(record)
    assert found is not None and found.devices == 1


def test_the_time_between_two_runs_of_the_command_counts_nowhere() -> None:
    # the first run was interrupted 20 s after the start of a trial, the second goes on with it a day later
    later = 100_000.0
    resumed = _ran("fast", 1, later + 5, later + 8, later + 20, earlier_s=20.0)
    record = _during(sweep(TWO[0], resumed), (45, 102), (later, later + 25))
    assert _parts(record) == {"training": 40, "validation": 4, "gaps": (30 + 22 + 15) - 44, "rest": 82 - 67}
    assert "; 2 runs of the command, without the time between them" in accounts_line(accounts(record))


def test_a_process_that_was_lost_and_followed_by_another_in_the_same_run_had_the_gpu() -> None:
    record = _during(sweep(_ran("none", 1, 60, 65, 90, earlier_s=15.0)), (40, 95))
    assert _parts(record) == {"training": 20, "validation": 2, "gaps": 45 - 22, "rest": 55 - 45}


def test_the_epochs_of_a_trial_that_never_ended_are_training() -> None:
    unfinished = replace(_ran("fast", 1, 82, 90, 115), status="planned")
    del unfinished.tags["spans"]
    assert _parts(_during(sweep(TWO[0], unfinished), (50, 110))) == {
        "training": 40, "validation": 4, "gaps": 30 - 22, "rest": 60 - 52,
    }  # fmt: skip


def test_several_trials_at_once_on_a_gpu_share_its_time() -> None:
    both = [_ran(arm, 1, 0, 5, 25, train=[9.0, 9.0]) for arm in ("none", "fast")]  # 40 s of epochs in 20 s
    assert _parts(_during(sweep(*both), (0, 30))) == {"training": 18, "validation": 2, "gaps": 5, "rest": 5}


def test_probes_are_a_part_of_their_own_only_where_there_are_any() -> None:
    record = _during(sweep(TWO[0], _ran("none", 2, 30, None, 42, stage="probe")), (20, 90))
    assert _parts(record)["probes"] == 12
    assert ", probes 17 %, " in accounts_line(accounts(record))
    assert "probes" not in accounts_line(accounts(_during(sweep(*TWO), (0, 120))))


def test_a_trial_that_never_trained_was_warming_up() -> None:
    record = _during(sweep(_ran("none", 1, 10, None, 40)), (0, 50))
    assert _parts(record) == {"warm-up": 30, "rest": 20}


def test_a_sweep_that_recorded_no_run_of_the_command_is_counted_from_its_first_trial() -> None:
    found = accounts(sweep(*TWO))
    assert found is not None and not found.whole
    assert found.wall_s == 65
    assert accounts_line(found).endswith("; counted from the first trial to the last, as more is not on record.")


@pytest.mark.parametrize("tag", ["{broken", "[]", '{"started_ms": 1}'])
def test_what_is_not_on_record_is_not_known(tag: str) -> None:
    record = sweep(trial(tags={"spans": tag}))
    assert accounts(record) is None and accounts_json(None) is None and accounts_metrics(None) == {}
    assert accounts_line(None) == "Wall time: not on record."


@given(parts=st.lists(st.floats(0, 1e6), min_size=1, max_size=9).filter(lambda parts: sum(parts) > 1e-3))
def test_percents_are_whole_and_sum_to_100_and_each_is_within_1_of_its_own(parts: list[float]) -> None:
    exact = {str(number): 100 * part / sum(parts) for number, part in enumerate(parts)}
    shown = rounded_pct({str(number): part for number, part in enumerate(parts)})
    assert sum(shown.values()) == 100
    assert all(abs(shown[name] - exact[name]) < 1 + 1e-6 for name in shown)


@given(
    began=st.lists(st.floats(0, 1000), min_size=1, max_size=6),
    length=st.floats(0.1, 400),
    run=st.tuples(st.floats(0, 500), st.floats(600, 2000)),
    warm_up=st.tuples(st.floats(0, 500), st.floats(500, 1000)),
)
def test_whatever_overlaps_no_part_is_negative_and_all_sum_to_the_whole(
    began: list[float], length: float, run: tuple[float, float], warm_up: tuple[float, float]
) -> None:
    trials = [_ran("none", seed, begin, begin + 1, begin + 1 + length) for seed, begin in enumerate(began)]
    found = accounts(_during(sweep(*trials), run, warm_up=[warm_up]))
    assert found is not None
    assert min(found.parts_s.values()) >= 0
    assert sum(found.parts_s.values()) == pytest.approx(found.wall_s * found.devices)


def test_the_same_accounts_stand_in_json_in_markdown_on_the_page_and_on_the_sweeps_run() -> None:
    record = _during(sweep(*TWO), (0, 120), warm_up=[(10, 50)])
    content = as_json(record)["accounts"]
    assert content["wall_s"] == 120 and content["driver_recorded"] is True
    assert tuple(content["parts_s"]) == PARTS and sum(content["shares_pct"].values()) == 100
    assert "Wall time 2 min 0 s: training 33 %" in markdown(record)
    assert "Wall time 2 min 0 s: training 33\u00a0%" in html_page(record)
    assert parent_metrics(record)["sweep/warm_up_pct"] == 34
    assert parent_metrics(record)["sweep/wall_s"] == 120


def test_a_longer_wall_time_that_was_measured_around_it_adds_to_the_rest() -> None:
    found = Accounts(wall_s=10.0, devices=2, runs=1, whole=True, parts_s={"training": 15.0, "rest": 5.0})
    longer = found.with_wall(12.0)
    assert (longer.wall_s, longer.parts_s) == (12.0, {"training": 15.0, "rest": 9.0})
    assert found.with_wall(9.0) == found
