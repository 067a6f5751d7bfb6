"""`train`: what it trains by a sweep's record or a preset, and what it prints. The real training: tests/end_to_end."""

from __future__ import annotations

import io
from typing import Any

import pytest
from report_kit import sweep, trial

from tune.commands import train_request
from tune.commands.main import main
from tune.commands.train import parser
from tune.commands.train_request import Request
from tune.common.errors import WrongInput
from tune.report.render.trained import print_trained
from tune.tracking.reader import SweepRecord, SweepSummary

PARAMS = {
    "data.dataset": "demo", "data.context_length": "96", "data.prediction_length": "24", "data.feed": "device",
    "data.step": "row", "model.preset": "tiny", "model.patch_length": "24", "model.patch_stride": "24",
    "train.epochs": "3", "train.learning_rate": "0.01", "train.seed": "1",
}  # fmt: skip


def swept(*arms: str, **tags: str) -> SweepRecord:
    seconds = {"none": 2.0, "fast": 1.0}
    trials = [trial(arm, seed, s=seconds[arm] + seed / 100, params=PARAMS) for arm in arms for seed in (1, 2, 3)]
    return sweep(*trials, trial("other", 1, status="oom", reason="too large", params=PARAMS), **tags)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> list[SweepRecord]:
    """A store that holds the sweeps in this list."""
    records = [swept("none", "fast")]

    def summaries(*_: Any, **__: Any) -> list[SweepSummary]:
        return [
            SweepSummary(
                sweep_id=each.sweep_id, run_id="", name="", status="done", started_ms=0, trials=1, tags=each.tags
            )
            for each in records
        ]  # fmt: skip

    monkeypatch.setattr(train_request, "list_sweeps", summaries)
    monkeypatch.setattr(train_request, "read_sweep", lambda _, __, sweep_id: records[0])
    return records


def requested(*words: str) -> Request:
    return train_request.train_request(parser().parse_args(list(words)), "sqlite:///x.db")


def test_the_winner_of_a_sweep_is_trained_for_longer_with_early_stopping(store: list[SweepRecord]) -> None:
    request = requested("--from", "last", "--seeds", "3")
    assert (request.sweep.name, request.sweep.baseline, request.repeats) == ("train", "fast", 3)
    assert request.sweep.shared == {"train.epochs": 100, "train.patience": 10}
    assert request.overrides["model.patch_length"] == 24 and request.overrides["train.learning_rate"] == 0.01
    assert not {"train.epochs", "train.seed", "train.patience", "data.feed"} & request.overrides.keys()
    assert request.notes == ("trains like arm fast of pruning-1",)


def test_a_field_of_the_command_wins_over_the_sweeps(store: list[SweepRecord]) -> None:
    request = requested("--from", "last", "--epochs", "7", "--set", "model.patch_length=12")
    assert (request.overrides["train.epochs"], request.overrides["model.patch_length"]) == (7, 12)
    assert "model.patch_stride" not in request.overrides


def test_other_data_are_told_and_take_nothing_from_how_the_sweeps_file_was_read(store: list[SweepRecord]) -> None:
    store[0] = swept("none", "fast", data='{"columns": 3, "split": {}}')
    assert requested("--from", "last").overrides["data.step"] == "row"
    request = requested("--from", "last", "--dataset", "ETTm1")
    assert request.overrides["data.dataset"] == "ETTm1" and "data.step" not in request.overrides
    assert "the sweep's data were demo; this is ETTm1, which has 7 columns and not 3: neither" in request.notes[1]


def test_a_preset_keeps_its_own_epochs_and_patience(store: list[SweepRecord]) -> None:
    arguments = parser().parse_args(["--dataset", "demo", "--set", "model.preset=ettm"])
    assert train_request.train_request(arguments, "").sweep.shared == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "last", "--arm", "fats"], r"unknown arm of pruning-1 'fats'; .* Did you mean 'fast'\?"),
        (["--from", "last", "--arm", "other"], "arm other of pruning-1 is 'oom': too large; name an arm that is done"),
        (["--from", "last", "--set", "model.preset=tiny"], "both say which model to train; give one"),
        (["--arm", "fast"], "--arm fast names an arm of a sweep: give --from SWEEP too"),
        ([], "which data\\? give --dataset"),
    ],
)
def test_what_cannot_be_trained_is_told(store: list[SweepRecord], words: list[str], message: str) -> None:
    with pytest.raises(WrongInput, match=message):
        requested(*words)


def test_a_sweep_without_an_answer_is_told_with_its_words_and_its_arms(store: list[SweepRecord]) -> None:
    store[0] = sweep(trial("none", 1, params=PARAMS), trial("fast", 1, params=PARAMS))
    with pytest.raises(WrongInput, match=r"names no arm to use \(Answer: none yet, .*\); name one of none, fast with"):
        requested("--from", "last")
    assert requested("--from", "last", "--arm", "fast").sweep.baseline == "fast"


def test_wrong_options_end_the_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--dataset", "demo", "--seeds", "0"]) == 2
    assert capsys.readouterr().err == "error: --seeds 0: give 1 or more\n"
    assert main(["train", "--dataset", "demo", "--patience", "0", "--plan"]) == 2
    assert "train.patience" in capsys.readouterr().err


def test_the_plan_says_when_training_stops(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--dataset", "demo", "--plan"]) == 0
    out = capsys.readouterr().out
    assert "100 epochs at most (patience 10)" in out and "ratios against" not in out


def test_the_end_shows_errors_beside_naive_ones_and_the_best_seed_by_validation() -> None:
    naive = {"final/naive_last_value_mse": 0.9, "final/naive_last_day_mse": 0.35}
    history = {"loss/val_mse": [0.4, 0.3, 0.5]}
    errors = [(1, 0.31, 0.2), (2, 0.3, 0.4)]  # the better on test data is not chosen
    trials = [
        trial(
            "model", seed, params={"train.epochs": "9"}, history=history,
            metrics={"final/val_mse": val, "final/test_mse": test, "final/best_epoch": 2, **naive},
        )
        for seed, val, test in errors
    ]  # fmt: skip
    text = io.StringIO()
    print_trained(sweep(*trials, baseline="model"), text)
    shown = " ".join(text.getvalue().split())
    assert "Kept: the model of seed 2, of 2 seeds, with the weights of epoch 2" in shown
    assert "It stopped early, of 9 epochs." in shown
    assert "does not beat repeating the last day (0.3500) in test MSE" in shown
    assert "model, seed 2 (kept)" in shown and "repeating the last value" in shown
