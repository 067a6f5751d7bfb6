"""What a sweep cost: GPU-hours of its trials, energy of their training epochs, and money where a price is given.

Sums run over the trials whose cost is known and say how many are missing. Nothing is estimated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tune.common.errors import WrongInput
from tune.common.words import counted
from tune.report.comparisons import TrialsByArm
from tune.tracking.reader import SweepRecord, TrialRecord

MS_PER_HOUR = 3_600_000
J_PER_KWH = 3_600_000
# a currency has no digits: 1e3 is no price in e3
_PRICE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([^\d\s.,+-][^\d\x00-\x1f]{0,15}?)?\s*")
GPUS = "gpus_per_trial"  # tag of the sweep's run: share of a GPU that each trial holds, 0 on a CPU


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one GPU costs for an hour; `currency` is the user's own word, "" where there is none."""

    per_gpu_hour: float
    currency: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a trial, an arm or a sweep: sums over the trials that ran and whose cost is known; None where none is."""

    trials: int  # that ran
    gpu_hours: float | None  # from the start of a trial's process to its last work on the device
    gpu_hours_missing: int  # trials that ran and whose GPU-hours are not known
    energy_kwh: float | None  # of the whole GPU in training epochs; None on a CPU
    energy_missing: int


def parse_price(text: str) -> Price:
    """The price that --price-per-gpu-hour gives. Raises WrongInput."""
    match = _PRICE.fullmatch(text)
    if not match or not math.isfinite(float(match[1])):
        raise WrongInput(
            f'--price-per-gpu-hour {text}: give a number of 0 or more, with a currency after it if you like: "2.50 EUR"'
        )
    return Price(per_gpu_hour=float(match[1]), currency=match[2] or "")


def costs(record: SweepRecord, arms: TrialsByArm) -> dict[str, Cost]:
    """The cost of each arm of which a trial ran."""
    gpus = _share(record)
    by_arm = {arm: _sum(_trial_cost(trial, gpus) for trial in trials if _ran(trial)) for arm, trials in arms.items()}
    return {arm: cost for arm, cost in by_arm.items() if cost.trials}


def total(by_arm: Mapping[str, Cost]) -> Cost:
    """The cost of all arms together."""
    return _sum(by_arm.values())


def _share(record: SweepRecord) -> float | None:
    """None where the sweep's run does not say what part of a GPU a trial had."""
    try:
        return float(record.tags[GPUS])
    except (KeyError, ValueError):
        return None


def _ran(trial: TrialRecord) -> bool:
    waiting = trial.status in ("planned", "unsupported")
    return not waiting or "spans" in trial.tags or bool(trial.history.get("time/train_s"))


def _trial_cost(trial: TrialRecord, gpus: float | None) -> Cost:
    hours = 0.0 if gpus == 0 else _hours(trial)
    gpu_hours = None if hours is None or gpus is None else hours * gpus
    energy_kwh = _energy_kwh(trial, gpus)
    return Cost(
        trials=1,
        gpu_hours=gpu_hours,
        gpu_hours_missing=gpu_hours is None,
        energy_kwh=energy_kwh,
        energy_missing=energy_kwh is None,
    )


def _hours(trial: TrialRecord) -> float | None:
    """Hours of the trial's process, and of earlier ones up to the checkpoint from which it continued."""
    try:
        spans = json.loads(trial.tags["spans"])
        taken_ms = spans["work_ended_ms"] - spans["started_ms"] + spans.get("earlier_ms", 0)
    except (KeyError, ValueError, TypeError):  # not recorded, or an earlier process's time is not known
        return None
    return float(taken_ms) / MS_PER_HOUR if taken_ms >= 0 else None


def _energy_kwh(trial: TrialRecord, gpus: float | None) -> float | None:
    """The GPU's own counter. It is the trial's only where nobody else used the GPU and every epoch has a value."""
    if gpus != 1 or trial.tags.get("timing_valid") == "false":
        return None
    epochs = {step for step, _ in trial.history.get("time/train_s", [])}
    energy_j = dict(trial.history.get("gpu/energy_j", []))
    return sum(energy_j.values()) / J_PER_KWH if epochs <= energy_j.keys() else None


def _sum(parts: Iterable[Cost]) -> Cost:
    costs = list(parts)
    gpu_hours = [cost.gpu_hours for cost in costs if cost.gpu_hours is not None]
    energy_kwh = [cost.energy_kwh for cost in costs if cost.energy_kwh is not None]
    return Cost(
        trials=sum(cost.trials for cost in costs),
        gpu_hours=sum(gpu_hours) if gpu_hours else None,
        gpu_hours_missing=sum(cost.gpu_hours_missing for cost in costs),
        energy_kwh=sum(energy_kwh) if energy_kwh else None,
        energy_missing=sum(cost.energy_missing for cost in costs),
    )


def money(cost: Cost, price: Price) -> float | None:
    """The price of the known GPU-hours."""
    return None if cost.gpu_hours is None else cost.gpu_hours * price.per_gpu_hour


def hours_text(cost: Cost) -> str:
    """0.125, or "at least 0.125" where some trials' hours are not known."""
    return _text(cost.gpu_hours, ".3g", cost.gpu_hours_missing)


def energy_text(cost: Cost) -> str:
    """As `hours_text`, in kWh."""
    return _text(cost.energy_kwh, ".3g", cost.energy_missing)


def money_text(cost: Cost, price: Price) -> str:
    """As `hours_text`, in the user's currency, without its name."""
    return _text(money(cost, price), ".2f", cost.gpu_hours_missing)


def _text(value: float | None, form: str, missing: int) -> str:
    if value is None:
        return "-"
    return f"{'at least ' if missing else ''}{value:{form}}"


def cost_line(by_arm: Mapping[str, Cost], price: Price | None) -> str:
    """The cost of the sweep in one line."""
    cost = total(by_arm)
    if cost.gpu_hours == 0 and not cost.gpu_hours_missing:
        return "Cost: no GPU was used."
    if cost.gpu_hours is None:
        return "Cost: GPU-hours are not known."
    kwh = f", {energy_text(cost)} kWh in training epochs" if cost.energy_kwh is not None else ", energy not known"
    paid = f", {money_text(cost, price)} {price.currency}".rstrip() if price else ""
    return f"Cost: {hours_text(cost)} GPU-hours{kwh}{paid} ({counted(cost.trials, 'trial')})."


def cost_json(by_arm: Mapping[str, Cost], price: Price | None) -> dict[str, object]:
    """The cost of each arm and of the sweep, for programs."""
    return {
        "price_per_gpu_hour": price and price.per_gpu_hour,
        "currency": (price and price.currency) or None,
        "arms": {arm: _as_json(cost, price) for arm, cost in by_arm.items()},
        "total": _as_json(total(by_arm), price),
    }


def _as_json(cost: Cost, price: Price | None) -> dict[str, object]:
    return {
        "trials": cost.trials,
        "gpu_hours": cost.gpu_hours,
        "gpu_hours_missing": cost.gpu_hours_missing,
        "energy_kwh": cost.energy_kwh,
        "energy_missing": cost.energy_missing,
        "price": money(cost, price) if price else None,
    }
