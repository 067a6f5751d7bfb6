"""The sweep recipe: its arms add one change after the other, and its report says what each does to the error."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from report_kit import sweep, trial

from tune.config.repeats import AUTO
from tune.config.sweeps import get_sweep
from tune.machine.device import DeviceFacts, cpu_facts
from tune.plan.plan import Plan, make_plan
from tune.plan.table import asks_for_errors
from tune.plan.text import plan_lines
from tune.report.ablation import error_steps
from tune.report.answer import answer_sentences, headline
from tune.report.arms import arm_rows
from tune.report.notes import notes
from tune.report.tables import changes_tables
from tune.report.values import as_json
from tune.report.winner import winner
from tune.tracking.reader import SweepRecord

H200 = DeviceFacts(device_type="cuda", name="NVIDIA H200", capability=(9, 0), memory_gib=141.0, gpus=1)


def _plan(preset: str, device: DeviceFacts = H200) -> Plan:
    overrides = {"data.dataset": "demo", "model.preset": preset}
    return make_plan(get_sweep("recipe"), overrides=overrides, repeats=1, seed=1, device=device)


def test_each_arm_differs_from_the_one_before_it_in_the_model_and_in_one_thing() -> None:
    arms = {trial.arm: trial.config.flat() for trial in _plan("ettm").trials}
    by_device = {"model.attention", "model.layers"}  # residual attention is computed by other code
    changed = [
        {name for name, value in arms[step.after].items() if value != arms[step.before][name]} - by_device
        for step in get_sweep("recipe").ablation
    ]
    assert changed == [
        {"model.init"}, {"model.positions"}, {"model.attention_output_dropout"}, {"model.end_padding"},
        {"model.residual_attention"},
    ]  # fmt: skip
    assert [step.before for step in get_sweep("recipe").ablation][0] == get_sweep("recipe").baseline


@pytest.mark.parametrize(("preset", "dropout", "patience"), [("etth", 0.3, 100), ("ettm", 0.2, 20)])
def test_arms_train_by_the_preset_and_the_second_dropout_has_its_rate(
    preset: str, dropout: float, patience: int
) -> None:
    plan = _plan(preset)
    configs = {trial.arm: trial.config for trial in plan.trials}
    assert {config.train.patience for config in configs.values()} == {patience}
    assert configs["dropout"].model.attention_output_dropout == dropout
    assert [configs[arm].num_patches for arm in ("dropout", "end-padding")] == [41, 42]
    assert get_sweep("recipe").repeats == 5 and all(trial.unsupported is None for trial in plan.trials)


def test_on_a_gpu_only_residual_attention_leaves_the_fast_layers_and_on_a_cpu_every_arm_runs() -> None:
    configs = {trial.arm: trial.config.model for trial in _plan("ettm").trials}
    slow = configs.pop("residual-attention")
    assert (slow.attention, slow.layers) == ("eager", "transformers")
    assert {(model.attention, model.layers) for model in configs.values()} == {("patch", "fused")}
    assert len(_plan("etth", cpu_facts()).runnable) == 6


def test_its_trainings_share_a_gpu_unless_looks_decide_by_time_too() -> None:
    assert asks_for_errors(_plan("etth"))
    assert any("several trainings share a GPU" in line for line in plan_lines(_plan("etth")))
    overrides = {"data.dataset": "demo", "model.preset": "etth"}
    assert not asks_for_errors(make_plan(get_sweep("recipe"), overrides=overrides, repeats=AUTO, seed=1, device=H200))
    assert not asks_for_errors(make_plan(get_sweep("engine"), overrides=overrides, repeats=3, seed=1, device=H200))


def _record(errors: dict[str, list[float]], **given: Any) -> SweepRecord:
    trials = [
        trial(arm, seed, metrics={"final/val_mse": error})
        for arm, values in errors.items()
        for seed, error in enumerate(values, 1)
    ]
    steps = json.dumps([asdict(step) for step in get_sweep("recipe").ablation])
    return sweep(*trials, sweep="recipe", baseline="transformers", arms=",".join(errors), ladder=steps, **given)


ERRORS = {
    "transformers": [0.40, 0.41, 0.42, 0.40, 0.41],
    "init": [0.36, 0.37, 0.378, 0.36, 0.368],  # 10 % less, but for a little
    "positions": [0.37, 0.36, 0.378, 0.365, 0.363],
    "dropout": [0.40, 0.39, 0.41, 0.40, 0.40],
}


def test_a_step_says_by_how_much_the_error_changes_with_its_interval_and_what_was_not_measured() -> None:
    record = _record(ERRORS)
    init, positions, dropout, *rest = error_steps(record)
    assert (init.effect, positions.effect, dropout.effect) == ("lowers", "undecided", "raises")
    assert init.difference == pytest.approx(-0.1, abs=0.005)
    low, high = init.bounds or (0, 0)
    assert low < init.difference < high < 0
    assert [(step.difference, step.pairs, step.effect) for step in rest] == [(None, 0, None)] * 2
    lines = notes(record, arm_rows(record))
    (line,) = [each for each in lines if each.startswith("linear layers initialised as torch does (transformers ->")]
    assert line.endswith("in 5 pairs, lowers") and " % to -" in line
    assert any(line.endswith("(end-padding -> residual-attention): not measured") for line in lines)
    (table,) = changes_tables(record)
    assert [row[-1] for row in table.rows] == ["lowers", "undecided", "raises", "too few pairs", "too few pairs"]
    assert [step["effect"] for step in as_json(record)["changes"]] == ["lowers", "undecided", "raises", None, None]


def test_the_answer_is_of_errors_and_names_no_faster_arm() -> None:
    record = _record(ERRORS)
    said = " ".join(answer_sentences(record, arm_rows(record)))
    assert said.startswith("Answer: what lowers the validation error: linear layers initialised as torch does (-10 %,")
    assert "What raises it: a second dropout after attention" in said and "Undecided: learned positions" in said
    assert winner(record, arm_rows(record)) is None
    assert "faster" not in said and headline(record, arm_rows(record)).startswith("What lowers the validation error")


def test_two_pairs_are_too_few_for_an_answer() -> None:
    record = _record({arm: errors[:2] for arm, errors in ERRORS.items()})
    assert answer_sentences(record, arm_rows(record)) == ["Answer: none yet, too few pairs (2, 3 needed)."]
