"""What an outbox holds of each trial, rebuilt from its records."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tune.storage.outbox import Record
from tune.storage.params import format_of

KEPT = ("loss/val_mse", "time/train_s")  # the epoch metrics by which a search chooses
DRIVER = "driver"  # the span of one run of the command


@dataclass(kw_only=True)
class TrialLog:
    """What an outbox holds of one trial."""

    tags: dict[str, str] = field(default_factory=dict)  # of its plan and of its end
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)  # epoch from 1 -> its metrics in KEPT
    reported: dict[str, str] = field(default_factory=dict)  # tags of its latest epoch
    recorded: dict[int, int] = field(default_factory=dict)  # epoch -> number of its record, from 1
    status: str | None = None  # None: not ended
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)  # final ones


@dataclass(kw_only=True)
class OutboxIndex:
    """What an outbox already holds, rebuilt from its records on opening.

    `trials` maps a trial id to `planned`, `running` or `ended`.
    """

    sweep_id: str | None = None
    format: int | None = None  # of the stored parameters; None: no sweep has begun
    sweep_status: str | None = None  # of its last closing; None: the sweep is open
    summary: dict[str, float] = field(default_factory=dict)  # the parent run's metrics, of its last closing
    epochs: set[tuple[str, int]] = field(default_factory=set)
    trials: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)  # of each ended trial
    logs: dict[str, TrialLog] = field(default_factory=dict)
    records: int = 0
    latest_ms: int = 0  # time of the latest record
    spans: Counter[str] = field(default_factory=Counter)  # how many spans of the driver's work are recorded, by part
    driver_began_ms: int | None = None  # of the run whose span is not recorded yet

    def absorb(self, record: Record) -> None:
        """Add one record."""
        self.records += 1
        self.latest_ms = max(self.latest_ms, record.get("time_ms", 0))
        kind = record["kind"]
        if kind == "begin_sweep":
            self.sweep_id, self.sweep_status, self.format = record["sweep_id"], None, format_of(record)
            self.driver_began_ms = record.get("driver_began_ms", self.driver_began_ms)
        elif kind == "plan":
            self.trials[record["trial_id"]] = "running" if record["tags"]["status"] == "running" else "planned"
            log = self.logs.setdefault(record["trial_id"], TrialLog())
            log.tags.update(record["tags"])
            log.status = None
        elif kind == "epoch":
            self.epochs.add((record["trial_id"], record["epoch"]))
            kept = {name: value for name, value in record.get("metrics", {}).items() if name in KEPT}
            log = self.logs.setdefault(record["trial_id"], TrialLog())
            log.epochs[record["epoch"]], log.recorded[record["epoch"]] = kept, self.records
            reported = log.reported | record.get("tags", {})
            log.reported = {name: value for name, value in reported.items() if value is not None}
            if record["starts"]:
                self.trials[record["trial_id"]] = "running"
        elif kind == "end":
            self.trials[record["trial_id"]] = "ended"
            self.statuses[record["trial_id"]] = record["status"]
            log = self.logs.setdefault(record["trial_id"], TrialLog())
            log.tags.update(record.get("tags", {}))
            log.status, log.reason = record["status"], record.get("reason", "")
            log.metrics = record.get("metrics", {})
        elif kind == "span":
            self.spans[record["part"]] = record["number"]
            if record["part"] == DRIVER:
                self.driver_began_ms = None
        elif kind == "end_sweep":
            self.sweep_status = record.get("status")
            self.summary.update(record.get("metrics", {}))
            self.trials.update(dict.fromkeys(record["open_trials"], "planned"))
