"""What a sweep cost: sums over what is known, and never a guess."""

from __future__ import annotations

import json
from typing import Any

import pytest
from report_kit import sweep, trial

from tune.common.errors import WrongInput
from tune.report.arms import trials_by_arm
from tune.report.cost import Price, cost_line, costs, parse_price, total
from tune.report.tables import cost_table
from tune.report.values import as_json
from tune.tracking.reader import SweepRecord, TrialRecord

HOUR_MS = 3_600_000
EUR = Price(per_gpu_hour=2.5, currency="EUR")


def _spans(**more: Any) -> dict[str, str]:
    return {"spans": json.dumps({"started_ms": 1000, "work_ended_ms": 1000 + HOUR_MS, "earlier_ms": 0, **more})}


def _ran(arm: str = "none", seed: int = 1, *, spans: dict[str, Any] | None = None, **given: Any) -> TrialRecord:
    """A trial of an hour, two epochs and 1 kWh each."""
    history = given.pop("history", {"time/train_s": [1.0, 1.0], "gpu/energy_j": [3.6e6, 3.6e6]})
    tags = {**_spans(**(spans or {})), **given.pop("tags", {})}
    return trial(arm, seed, tags=tags, history=history, **given)


def _on(gpus: str, *trials: TrialRecord) -> SweepRecord:
    return sweep(*trials, gpus_per_trial=gpus)


def _total(record: SweepRecord) -> tuple[float | None, int, float | None, int]:
    cost = total(costs(record, trials_by_arm(record)))
    return cost.gpu_hours, cost.gpu_hours_missing, cost.energy_kwh, cost.energy_missing


def test_hours_and_energy_are_summed_by_arm_and_over_the_sweep_with_their_price() -> None:
    record = _on("1", _ran("none", 1), _ran("none", 2), _ran("fast", 1))
    table = cost_table(record, EUR)
    assert table.head == ["arm", "trials that ran", "GPU-hours", "kWh", "cost, EUR"]
    assert table.rows == [
        ["none", "2", "2", "4", "5.00"],
        ["fast", "1", "1", "2", "2.50"],
        ["all arms", "3", "3", "6", "7.50"],
    ]
    line = "Cost: 3 GPU-hours, 6 kWh in training epochs, 7.50 EUR (3 trials)."
    assert cost_line(costs(record, trials_by_arm(record)), EUR) == line


def test_earlier_processes_of_a_trial_count_up_to_the_checkpoint_it_went_on_from() -> None:
    assert _total(_on("1", _ran(spans={"earlier_ms": HOUR_MS})))[:2] == (2.0, 0)
    assert _total(_on("1", _ran(spans={"earlier_ms": None})))[:2] == (None, 1)


def test_a_share_of_a_gpu_costs_a_share_of_its_hours_and_no_energy_is_its_own() -> None:
    assert _total(_on("0.5", _ran())) == (0.5, 0, None, 1)


def test_a_failed_trial_has_its_cost_and_one_that_never_ran_has_none() -> None:
    failed, never = _ran("fast", status="oom"), trial("other", status="unsupported", reason="needs a GPU")
    record = _on("1", failed, never)
    assert list(costs(record, trials_by_arm(record))) == ["fast"]
    assert _total(record) == (1.0, 0, 2.0, 0)


@pytest.mark.parametrize(
    ("unknown", "left"),
    [
        ({"spans": {"work_ended_ms": None}}, (1.0, 1, 4.0, 0)),
        ({"tags": {"spans": "{broken"}}, (1.0, 1, 4.0, 0)),
        ({"history": {"time/train_s": [1.0, 1.0], "gpu/energy_j": [3.6e6]}}, (2.0, 0, 2.0, 1)),
        ({"tags": {"timing_valid": "false"}}, (2.0, 0, 2.0, 1)),
    ],
    ids=["no end", "no spans", "an epoch without energy", "a shared GPU"],
)
def test_what_is_not_known_of_a_trial_is_left_out_and_counted(
    unknown: dict[str, Any], left: tuple[float, int, float, int]
) -> None:
    record = _on("1", _ran("none", 1), _ran("none", 2, **unknown))
    assert _total(record) == left
    assert "at least" in cost_line(costs(record, trials_by_arm(record)), None)


def test_on_a_cpu_no_gpu_was_used_and_no_energy_is_known() -> None:
    record = _on("0", _ran())
    assert _total(record) == (0.0, 0, None, 1)
    assert cost_line(costs(record, trials_by_arm(record)), None) == "Cost: no GPU was used."
    assert cost_table(record, None).rows == [] and cost_table(record, None).empty == "No GPU was used."


def test_a_sweep_that_does_not_say_its_share_of_a_gpu_has_no_cost() -> None:
    record = sweep(_ran())
    assert _total(record) == (None, 1, None, 1)
    assert cost_line(costs(record, trials_by_arm(record)), None) == "Cost: GPU-hours are not known."


def test_the_json_has_the_cost_of_each_arm_and_of_all_with_none_for_a_price_not_given() -> None:
    record = _on("1", _ran("none"))
    cost = as_json(record, price=EUR)["cost"]
    assert (cost["price_per_gpu_hour"], cost["currency"]) == (2.5, "EUR")
    assert cost["arms"]["none"] == cost["total"]
    assert (cost["total"]["gpu_hours"], cost["total"]["energy_kwh"], cost["total"]["price"]) == (1.0, 2.0, 2.5)
    assert as_json(record)["cost"]["total"]["price"] is None


@pytest.mark.parametrize(
    ("text", "price"),
    [("2.50", (2.5, "")), ("0", (0.0, "")), ("2.5 EUR", (2.5, "EUR")), ("3USD", (3.0, "USD")), ("1 €", (1.0, "€"))],
)
def test_a_price_is_a_number_with_or_without_a_currency(text: str, price: tuple[float, str]) -> None:
    parsed = parse_price(text)
    assert (parsed.per_gpu_hour, parsed.currency) == price


@pytest.mark.parametrize("text", ["", "EUR", "-1", "nan", "1e999", "1,5 EUR", "1.2.3", "2 " + "x" * 40, "2 a\nb"])
def test_a_text_that_is_no_price_is_wrong_input(text: str) -> None:
    with pytest.raises(WrongInput, match="give a number of 0 or more"):
        parse_price(text)
