"""The answer of a search: which arm it names, with which ratio and pairs, and when there is none."""

from __future__ import annotations

from collections.abc import Sequence

from report_kit import timed

from tune.config.trial_config import as_settings
from tune.report.answer import search_answer
from tune.report.arms import arm_rows
from tune.tracking.reader import SweepRecord, TrialRecord


def _trial(
    arm: str, seed: int, epoch_s: float, val_mse: float, stage: str = "final", status: str = "done"
) -> TrialRecord:
    return TrialRecord(
        run_id=f"{arm}{seed}",
        name=arm,
        trial_id=f"full-{arm}-s{seed}",
        status=status,
        reason="",
        params={},
        metrics={**timed(epoch_s), "final/val_mse": val_mse, "final/test_mse": 9.0},
        tags={
            "arm": arm,
            "seed": str(seed),
            "stage": stage,
            "settings": f"--set model.attention={arm}",
            "timing_valid": "true",
            "device": "G",
            "gpu_uuid": "u",
        },
        history={},
    )


def _record(*trials: TrialRecord, **tags: str) -> SweepRecord:
    tags = {"baseline": "baseline", **tags}
    return SweepRecord(
        sweep_id="s", run_id="p", name="s", status="done", tags=tags, params={}, metrics={}, trials=trials
    )


def _answer(arms: dict[str, tuple[float, float]], pairs: int = 3, more: Sequence[TrialRecord] = ()) -> str | None:
    """`arms`: arm -> (seconds of an epoch, validation MSE); the same in every pair."""
    trials = [_trial(arm, seed, *values) for arm, values in arms.items() for seed in range(1, pairs + 1)]
    record = _record(*trials, *more, arms=",".join(arms))
    return search_answer(record, arm_rows(record))


def test_the_fastest_arm_that_keeps_its_accuracy_is_to_be_used() -> None:
    assert _answer({"baseline": (2.0, 0.294), "a": (1.4, 0.291), "b": (1.0, 0.4), "c": (1.6, 0.29)}) == (
        "use this: --set model.attention=a (1.43x (1.43-1.43) the baseline's epoch speed, faster; "
        "validation MSE not worse (-1 %, at most -1 %); 3 pairs)"
    )


def _of_seeds(arms: dict[str, dict[int, float]], epoch_s: dict[str, float]) -> str:
    """`arms`: arm -> seed -> validation MSE."""
    trials = [_trial(arm, seed, epoch_s[arm], error) for arm, errors in arms.items() for seed, error in errors.items()]
    record = _record(*trials, arms=",".join(arms))
    line = search_answer(record, arm_rows(record))
    assert line is not None
    return line


def test_accuracy_is_compared_over_common_seeds_only() -> None:
    even = {1: 0.30, 2: 0.30, 3: 0.30}
    line = _of_seeds({"baseline": even | {4: 0.90}, "a": dict.fromkeys(even, 0.31)}, {"baseline": 2.0, "a": 1.0})
    assert "the baseline: no faster arm is shown to keep its accuracy" in line and "worse (+3.3 %" in line
    line = _of_seeds({"baseline": even | {4: 0.01}, "a": dict.fromkeys(even, 0.30)}, {"baseline": 2.0, "a": 1.0})
    assert line.startswith("use this: --set model.attention=a ")


def test_each_seed_counts_by_its_relative_difference() -> None:
    baseline, speeds = {1: 0.1, 2: 0.1, 3: 1.0}, {"baseline": 2.0, "a": 1.0}
    worse = _of_seeds({"baseline": baseline, "a": {1: 0.11, 2: 0.11, 3: 0.98}}, speeds)  # 6 % on average, equal means
    assert "the baseline: no faster arm is shown to keep its accuracy" in worse and "undecided (+6 %" in worse
    fine = _of_seeds({"baseline": baseline, "a": {1: 0.09, 2: 0.09, 3: 1.05}}, speeds)  # -5 %, the mean is 2.5 % above
    assert "undecided (-5 %" in fine


def test_a_mean_error_within_the_margin_is_not_enough_where_seeds_scatter() -> None:
    """Excess 0, 0 and 2.4 %: 0.8 % on average, at most 3.1 % (0.8 % + 2.920 x 0.8 %)."""
    baseline, speeds = dict.fromkeys((1, 2, 3), 1.0), {"baseline": 2.0, "a": 1.0}
    line = _of_seeds({"baseline": baseline, "a": {1: 1.0, 2: 1.0, 3: 1.024}}, speeds)
    assert line.startswith("use this: --set model.attention=baseline (the baseline: no faster arm is shown to keep")
    assert "undecided (+0.8 %, at most +3.1 %)" in line


def test_a_ratio_above_one_is_not_enough_where_pairs_scatter() -> None:
    trials = [_trial("baseline", seed, 2.0, 0.3) for seed in (1, 2, 3)]
    trials += [_trial("a", seed, epoch_s, 0.3) for seed, epoch_s in ((1, 1.0), (2, 1.9), (3, 2.2))]
    record = _record(*trials, arms="baseline,a")
    line = search_answer(record, arm_rows(record))
    assert line is not None
    assert line.startswith("use this: --set model.attention=baseline (the baseline: no arm is shown to be faster; ")
    assert "a: 1.24x (" in line and "too close to call" in line


def test_an_arm_with_a_clearly_lower_error_is_mentioned() -> None:
    line = _answer({"baseline": (2.0, 0.3), "a": (1.0, 0.3), "b": (1.8, 0.2)})
    assert line is not None
    assert line.startswith("use this: --set model.attention=a (2.00x")
    assert line.endswith("; lower in error: b (1.11x (1.11-1.11) the baseline's epoch speed, faster; "
                         "validation MSE not worse (-33 %, at most -33 %); 3 pairs)")  # fmt: skip


def test_the_baseline_stays_where_nothing_is_faster() -> None:
    line = _answer({"baseline": (1.0, 0.3), "a": (1.25, 0.3)})
    assert line is not None
    assert line.startswith("use this: --set model.attention=baseline (the baseline: no arm is shown to be faster")
    assert "a: 0.80x" in line


def test_the_baseline_stays_where_what_is_faster_loses_accuracy() -> None:
    line = _answer({"baseline": (1.0, 0.3), "a": (0.5, 0.304)})
    assert line is not None
    assert line.startswith("use this: --set model.attention=baseline (the baseline: no faster arm is shown to keep")
    assert "worse (+1.3 %, at least +1.3 %)" in line


def test_fewer_than_three_pairs_are_no_answer() -> None:
    assert _answer({"baseline": (2.0, 0.3), "a": (1.0, 0.3)}, pairs=2) == (
        "no answer: too few pairs (2, 3 needed): --repeats 3 or more"
    )
    assert _answer({"baseline": (2.0, 0.3), "a": (1.0, 0.3)}, pairs=1) == (
        "no answer: too few pairs (1, 3 needed): --repeats 3 or more"
    )


def test_without_a_baseline_or_a_pair_there_is_no_answer() -> None:
    assert _answer({"a": (1.0, 0.3)}) == "no answer: the baseline has not finished"
    assert _answer({"baseline": (1.0, 0.3)}) == "no answer: no arm of the final has a pair with the baseline"


def test_trials_of_the_search_make_no_pair_and_change_no_answer() -> None:
    fast = [_trial("search-001-a", seed, 0.1, 0.1, stage="search") for seed in (1, 2, 3)]
    arms = {"baseline": (2.0, 0.3), "a": (1.0, 0.3)}
    assert _answer(arms, more=fast) == _answer(arms)
    record = _record(_trial("baseline", 1, 2.0, 0.3), *fast)
    rows = {row.arm: row for row in arm_rows(record)}
    assert rows["search-001-a"].comparison is None and rows["search-001-a"].val_mse is not None


def test_a_sweep_without_a_final_has_no_such_answer() -> None:
    trial = _trial("a", 1, 1.0, 0.3, stage="")
    record = _record(trial, baseline="a")
    assert search_answer(record, arm_rows(record)) is None


def test_settings_are_written_as_the_command_line_takes_them() -> None:
    changes = {"model.attention": "eager", "train.batch_size": 64, "pruning.heads": (4, 8), "train.patience": None}
    assert as_settings(changes) == (
        "--set model.attention=eager --set train.batch_size=64 --set pruning.heads=[4,8] --set train.patience=null"
    )
