"""`compare A B`: which files it reads or refuses, and when its exit code is 1."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from report_kit import sweep
from report_kit import trial as trial_record

from tune.commands import compare
from tune.commands.main import main

FAST, SLOW = (1.00, 1.01, 0.99), (1.10, 1.11, 1.09)
WORK = {"final/windows_per_epoch": 128.0, "final/steps_per_epoch": 1.0}
OLD = Path(__file__).resolve().parents[3] / "docs/results/2026-11-22-attention-ETTm1-h100-graph.json"


def _trial(arm: str, seed: int, epoch_s: float, val_mse: float = 0.3, **given: Any) -> dict[str, Any]:
    return {
        "trial_id": f"attention-{arm}-s{seed}", "arm": arm, "seed": str(seed), "stage": None, "timing_valid": "true",
        "status": "done", "reason": None, "params": {"train.seed": seed, "train.epochs": 10},
        "metrics": {
            "final/median_epoch_s": epoch_s, "final/epoch_all_windows_s": epoch_s, "final/val_mse": val_mse, **WORK,
        },
        "kernels": None,
    } | given  # fmt: skip


def _result(arms: Mapping[str, Sequence[float]], device: str = "NVIDIA H100", **given: Any) -> dict[str, Any]:
    trials = [_trial(arm, seed, time_s, **given) for arm, times in arms.items() for seed, time_s in enumerate(times)]
    return {"sweep_id": "s", "sweep": "attention", "device": device, "environment": None, "trials": trials}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _compare(before: Any, after: Any, *options: str) -> int:
    for name, content in (("a.json", before), ("b.json", after)):
        Path(name).write_text(content if isinstance(content, str) else json.dumps(content))
    return main(["compare", "a.json", "b.json", *options])


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_an_arm_that_got_slower_beyond_its_interval_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    """ln 1.10 apart, deviation 1 % each: Welch's t = 11 with 4 degrees of freedom."""
    assert _compare(_result({"eager": FAST, "flex": FAST}), _result({"eager": FAST, "flex": SLOW})) == 1
    out = capsys.readouterr().out
    assert "B is slower: flex." in out and "Welch's t interval" in out
    (row,) = (line for line in out.splitlines() if line.startswith("flex "))
    assert "1.000 (3)" in row and "1.100 (3)" in row and "0.91x (0.8" in row and " slower " in row


def test_the_same_times_are_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert _compare(_result({"eager": FAST}), _result({"eager": FAST[::-1]})) == 0
    assert "No arm is shown to be slower or worse in error." in capsys.readouterr().out


def test_a_faster_arm_and_a_slowdown_within_the_scatter_are_exit_code_0() -> None:
    assert _compare(_result({"eager": SLOW}), _result({"eager": FAST})) == 0
    assert _compare(_result({"eager": (1.0, 1.2, 0.8)}), _result({"eager": (1.1, 1.3, 0.9)})) == 0


def test_a_larger_error_is_exit_code_1_and_within_the_margin_0(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = _result({"eager": FAST}), _result({"eager": FAST}, val_mse=0.306)
    assert _compare(before, after) == 1
    assert "B is worse in error: eager." in capsys.readouterr().out
    assert _compare(before, after, "--margin-pct", "3") == 0
    assert _compare(after, before) == 0


SCATTERED = (0.300, 0.330, 0.280, 0.310)  # between seeds much more than 2 %


def _with_errors(errors: Sequence[float], first_seed: int = 0) -> dict[str, Any]:
    trials = [_trial("eager", first_seed + at, 1.0 + at / 100, error) for at, error in enumerate(errors)]
    return _result({}) | {"trials": trials}


def test_a_loss_of_2_percent_in_every_seed_is_seen_however_far_the_seeds_lie_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = _with_errors(SCATTERED)
    assert _compare(before, _with_errors([1.02 * error for error in SCATTERED])) == 1
    out = capsys.readouterr().out
    assert "worse (+2 %, at least +2 %)" in out and "seed by seed" in out and "unpaired." not in out
    assert _compare(before, before) == 0
    assert "not worse (+0 %, at most +0 %)" in capsys.readouterr().out


def test_errors_of_other_seeds_are_no_pairs_and_the_arm_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    after = _with_errors([1.02 * error for error in SCATTERED], first_seed=2)
    assert _compare(_with_errors(SCATTERED), after) == 0
    out = capsys.readouterr().out
    assert "eager: fewer than 3 seeds in common, so 'accuracy' is by Welch's t on logarithms, unpaired." in out
    assert "undecided (+2 %" in out


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("data.dataset", "ETTm1", "ETTh1"), ("data.prediction_length", 96, 720), ("data.context_length", 336, 512)],
)
def test_sweeps_of_two_tasks_are_wrong_input_with_both_values(
    name: str, first: Any, second: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = [_result({"eager": FAST}, params={"train.seed": 1, "train.epochs": 10, name: value})
             for value in (first, str(first), second)]  # fmt: skip
    assert _compare(*sides[:2]) == 0  # as an earlier version wrote it
    capsys.readouterr()
    assert _compare(sides[0], sides[2]) == 2
    assert f"a.json and b.json differ in the task of eager ({name} {first} and {second})" in _error(capsys)


def test_the_recorded_sweeps_of_two_data_sets_and_lengths_are_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("attention-ETTm1", "seed_study")
    attention, study = (str(OLD.with_name(f"2026-11-27-{name}-h100.json")) for name in names)
    assert main(["compare", attention, study]) == 2
    assert "data.dataset ETTm1 and ETTh1, train.epochs 10 and 3" in _error(capsys)


def test_json_holds_the_verdicts_and_stdout_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert _compare(_result({"eager": FAST}), _result({"eager": SLOW}), "--json", "-") == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["slower"], result["less_accurate"], result["device"]) == (["eager"], [], "NVIDIA H100")
    eager = result["arms"]["eager"]
    assert (eager["verdict"], eager["unit"], eager["accuracy"]["verdict"]) == ("slower", "trial", "not_worse")


def test_other_differences_of_the_two_sweeps_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    after = _result({"eager": FAST, "new": FAST}, params={"train.seed": 9, "train.batch_size": 3})
    assert _compare(_result({"eager": FAST, "gone": FAST}), after) == 0
    out = capsys.readouterr().out
    assert (
        "eager is configured differently: train.batch_size None in A, 3 in B, train.epochs 10 in A, None in B." in out
    )
    assert "Only in a.json: gone." in out and "Only in b.json: new." in out


def test_trials_that_shared_their_gpu_failed_or_searched_do_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    before = _result({"eager": FAST, "flex": FAST})
    after = _result({"eager": FAST, "flex": FAST})
    spoiled: list[dict[str, Any]] = [{"timing_valid": "false"}, {"status": "failed"}, {"timing_valid": None}]
    after["trials"] += [_trial("flex", 7 + index, 9.0, 0.3, **each) for index, each in enumerate(spoiled)]
    after["trials"].append(_trial("flex", 1, 9.0, 9.0, stage="search"))
    assert _compare(before, after) == 0
    assert "1.000 (3)  1.000 (3)" in capsys.readouterr().out


def test_an_arm_with_too_few_trials_has_no_verdict_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert _compare(_result({"eager": FAST, "flex": FAST}), _result({"eager": FAST, "flex": SLOW[:2]})) == 0
    out = capsys.readouterr().out
    assert "too few trials (2, 3 needed)" in out and "(no verdict on the speed of flex)." in out


def test_a_file_of_an_earlier_version_names_its_arms_by_trial_ids_and_its_times_are_of_all_windows() -> None:
    """1.07396 s in 265 batches of 128, of 33,953 windows."""
    side = compare.read_side(str(OLD), "sqlite:///none.db")
    assert {"eager", "flash_attention_2"} < set(side.arms) and side.device == "NVIDIA H100 80GB HBM3"
    (result,) = side.arms["eager"]
    assert result.time_s == pytest.approx(1.07396 * 33_953 / 33_920, rel=1e-5) and not side.tells_alone


WRONG = {
    "another device": (_result({"eager": FAST}, device="A100"), "ran on NVIDIA H100, b.json on A100: their"),
    "no common arm": (_result({"flex": FAST}), "have no arm in common (eager and flex)"),
    "too few": (_result({"eager": FAST[:2]}), "no arm has 3 done trials in both a.json and b.json"),
    "no json": ("not json", "b.json is not JSON; give a sweep id"),
    "a list": ([], "b.json is not a result that says its device and its trials"),
    "no device": ({"trials": []}, "b.json is not a result that says its device"),
    "no trials": ({"device": "NVIDIA H100"}, "b.json is not a result that says its device and its trials"),
    "words for numbers": (_result({"eager": ("fast",)}), "b.json is not a result"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize(("after", "problem"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_compared_is_wrong_input_in_one_line(
    after: Any, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _compare(_result({"eager": FAST}), after) == 2
    assert problem in _error(capsys)


def test_a_file_or_sweep_that_is_not_there_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "none.json", "b.json"]) == 2
    assert "none.json: No such file" in _error(capsys)
    assert main(["compare", "pruning-1", "b.json", "--tracking-uri", "sqlite:///none.db"]) == 2
    assert "there is no MLflow store" in _error(capsys)


@pytest.mark.parametrize("given", ["0", "-1", "101", "nan"])
def test_a_margin_out_of_range_is_wrong_input(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a", "b", "--margin-pct", given]) == 2
    assert f"--margin-pct {given}: give a number above 0, at most 100" in _error(capsys)


def _old(batch: int, windows: int | None, epoch_s: float, dataset: str = "/data/own.csv") -> list[dict[str, Any]]:
    """An arm as a version before equal work stored it, which cut batches to the windows. None: without its speed."""
    params = {"data.dataset": dataset, "data.context_length": 512, "data.prediction_length": 96}
    metrics = {"final/median_epoch_s": epoch_s, "final/val_mse": 0.3}
    if windows is not None:
        used = min(batch, windows)
        metrics |= {"time/train_s": 2.0, "speed/windows_per_s": windows // used * used / 2.0}
    return [
        _trial(f"batch-{batch}", seed, epoch_s, params={**params, "train.batch_size": batch}, metrics=metrics)
        for seed in range(3)
    ]


def _side(*arms: list[dict[str, Any]]) -> dict[str, Any]:
    return _result({}) | {"trials": [trial for arm in arms for trial in arm]}


def test_old_arms_whose_batch_was_cut_or_whose_windows_are_not_known_are_refused_by_name_and_the_others_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = _side(_old(64, 251, 1.92), _old(512, 251, 0.1), _old(100, None, 2.0))
    after = _side(_old(64, 251, 1.92), _old(512, 251, 0.2), _old(100, 251, 2.0))
    assert _compare(before, after, "--json", "b.out.json") == 0
    out = capsys.readouterr().out
    why = "is refused: its batch of 512 was cut to the 251 training windows."
    assert f"batch-512 of a.json {why}" in out and f"batch-512 of b.json {why}" in out
    assert "batch-100 of a.json is refused: the windows that an epoch trained are not known." in out
    result = json.loads(Path("b.out.json").read_text())
    assert list(result["arms"]) == ["batch-64"] and result["arms"]["batch-64"]["ratio"] == pytest.approx(1.0)
    assert {side: sorted(arms) for side, arms in result["refused"].items()} == {
        "a.json": ["batch-100", "batch-512"], "b.json": ["batch-512"]
    }  # fmt: skip


def test_two_sweeps_of_refused_arms_only_are_wrong_input_that_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert _compare(_side(_old(512, 251, 0.1)), _side(_old(512, 251, 0.1))) == 2
    assert "(batch-512 of a.json is refused: its batch of 512 was cut to the 251 training windows;" in _error(capsys)


@pytest.mark.parametrize("dataset", ["ETTh1", "/data/own.csv"])
def test_an_old_sweep_is_compared_with_a_new_one_per_trained_window(
    dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """8,033 windows, of which batch 512 trains 7,680. Of the file the old side knows those only."""
    after = _old(512, 8033, 3.84, dataset)
    for trial in after:
        all_windows_s = 3.84 * 8033 / 7680
        work = {"final/windows_per_epoch": 7680, "final/steps_per_epoch": 15}
        trial["metrics"] |= {"final/epoch_all_windows_s": all_windows_s, **work}
    assert _compare(_side(_old(512, 8033, 7.68, dataset)), _side(after), "--json", "c.json") == 0
    assert json.loads(Path("c.json").read_text())["arms"]["batch-512"]["ratio"] == pytest.approx(2.0)
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("batch-512 "))
    assert row.split()[1:5] == ["8.033", "(3)", "4.016", "(3)"]


def test_a_sweep_with_looks_says_where_they_ended_its_arms(capsys: pytest.CaptureFixture[str]) -> None:
    looks = {"stopped_at": 3, "because": "both_decided", "stopped": "after 3 blocks: both decided"}
    auto = _result({"eager": FAST, "flex": FAST}) | {"repeats": "auto", "comparisons": {"flex": {"looks": looks}}}
    fixed = _result({"eager": FAST, "flex": FAST}) | {"comparisons": {"flex": {"looks": None}}}
    assert _compare(fixed, auto, "--json", "c.json") == 0
    out = capsys.readouterr().out
    assert "b.json ran with --repeats auto" in out and "flex after 3 blocks: both decided." in out
    assert "a.json ran with" not in out
    assert json.loads(Path("c.json").read_text())["stopped"] == {
        "a.json": {}, "b.json": {"flex": "after 3 blocks: both decided"}
    }  # fmt: skip


def test_a_sweep_that_was_named_by_last_is_shown_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    record = sweep(trial_record("none", 1, s=1.0))
    monkeypatch.setattr("tune.tracking.reader.read_sweep", lambda *_, **__: record)
    assert compare.read_side("last", "sqlite:///none.db").name == record.sweep_id == "pruning-1"
