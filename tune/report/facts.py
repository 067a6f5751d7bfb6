"""The head of a report: data, device, date, duration, cost, trials. What is not on record is left out."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from data_pipeline.series.protocol import shape_text
from tune.common.words import counted
from tune.report.accounts import accounts, duration_words
from tune.report.arms import trials_by_arm
from tune.report.cost import Cost, Price, costs, hours_text, money_text, total
from tune.report.data import protocol_of_sweep
from tune.storage.trial_log import DRIVER
from tune.tracking.reader import SweepRecord


def facts(record: SweepRecord, price: Price | None) -> list[tuple[str, str]]:
    """(name, value) of each fact that is known, in the order in which a reader asks."""
    found = accounts(record)
    named = [
        ("Data", _data(record)),
        ("Device", record.tags.get("device")),
        ("Date", _date(record)),
        ("Duration", None if found is None else duration_words(found.wall_s)),
        ("Cost", _cost(total(costs(record, trials_by_arm(record))), price)),
        ("Trials", _trials(record)),
    ]
    return [(name, value) for name, value in named if value]


def _data(record: SweepRecord) -> str | None:
    protocol = protocol_of_sweep(record)
    if protocol is not None:
        return f"{protocol['dataset']}: {shape_text(protocol)}"
    names = {trial.params["data.dataset"] for trial in record.trials if "data.dataset" in trial.params}
    return ", ".join(sorted(names)) or None


def _date(record: SweepRecord) -> str | None:
    """When the first run of the command began, or the first trial."""
    began_ms = [float(begin) for begin, _ in record.spans.get(DRIVER, ())] or [
        began for trial in record.trials if (began := _began_ms(trial.tags.get("spans", ""))) is not None
    ]
    return datetime.fromtimestamp(min(began_ms) / 1e3, UTC).strftime("%Y-%m-%d %H:%M UTC") if began_ms else None


def _began_ms(spans: str) -> float | None:
    try:
        return float(json.loads(spans)["started_ms"])
    except (ValueError, KeyError, TypeError):
        return None


def _cost(cost: Cost, price: Price | None) -> str | None:
    if cost.gpu_hours is None:
        return None
    if cost.gpu_hours == 0 and not cost.gpu_hours_missing:
        return "no GPU was used" if cost.trials else None
    paid = f", {money_text(cost, price)} {price.currency}".rstrip() if price else ""
    return f"{hours_text(cost)} GPU-hours{paid}"


def _trials(record: SweepRecord) -> str | None:
    """30 (5 seeds), all done"""
    ran = [trial for trial in record.trials if trial.status != "unsupported"]
    if not ran:
        return None
    seeds = len({trial.tags["seed"] for trial in ran if "seed" in trial.tags})
    done = sum(trial.status == "done" for trial in ran)
    ended = "all done" if done == len(ran) else f"{done} done"
    return f"{len(ran)} ({counted(seeds, 'seed')}), {ended}"
