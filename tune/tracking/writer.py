"""Turns outbox records into MLflow calls. Every call may be repeated: a replayed record stores nothing twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from tune.common.address import one_line
from tune.storage.outbox import Record
from tune.storage.params import param_texts
from tune.tracking.refusals import classify
from tune.tracking.runs import RunIndex
from tune.tracking.store import REFUSED, SPANS
from tune.tracking.ui_notes import EXPERIMENT_NOTE, KIND, NOTE, sweep_note, sweep_view, with_result

TRIAL_STATUSES = {  # our status tag -> MLflow's status of the ended run
    "done": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "oom": "FAILED",
    "nan": "FAILED",
    "failed_gate": "FAILED",
    "unsupported": "KILLED",
}
OPEN_STATUSES = {"planned": "SCHEDULED", "running": "RUNNING"}
SWEEP_STATUSES = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# mlflow/utils/validation.py allows 1000 metrics, 100 tags and 100 params a call, and 6000 characters a param.
_METRICS_PER_CALL = 1000
_TEXTS_PER_CALL = 100
_TEXT_LIMIT = 5000
_LEAD = "loss/val_mse"


class Item(NamedTuple):
    """One metric, tag or param, and the part of the record that holds it."""

    record: Record
    part: str  # "metrics", "tags" or "params"
    key: str
    value: Any


class Rejection(NamedTuple):
    """A record, or a part of one, that MLflow refuses for good."""

    record: Record
    error: str
    part: str | None = None  # of its files, where one of these is meant


class MlflowWriter:
    """Writes the records of one sweep, without their files (tune.tracking.uploads).

    A metric, tag or param that MLflow refuses for good goes to `rejections`, and the rest is written. The caller gets
    all other errors of MLflow's calls and classifies them.
    """

    def __init__(self, run_index: RunIndex) -> None:
        self.run_index = run_index
        self.rejections: list[Rejection] = []

    def apply(self, record: Record) -> None:
        """Write one record that is not an epoch."""
        handlers = {
            "begin_sweep": self._begin_sweep,
            "plan": self._plan,
            "end": self._end,
            "span": self._span,
            "end_sweep": self._end_sweep,
        }
        handler = handlers.get(record["kind"])
        if handler is None:
            self.rejections.append(Rejection(record, "not a record of this version"))
        else:
            handler(record)

    def log_epochs(self, records: Iterable[Record]) -> None:
        """Write epoch records of any number of trials, at most 1000 metrics a call."""
        by_trial: dict[str, list[Record]] = {}
        for record in records:
            by_trial.setdefault(record["trial_id"], []).append(record)
        for trial_id, epochs in by_trial.items():
            run_id = self.run_index.find(epochs[0]["sweep_id"], trial_id)
            for first in (record for record in epochs if record["starts"]):
                self._log(run_id, _items(first, tags={"status": "running", "reason": ""}))
                self.run_index.set_status(run_id, OPEN_STATUSES["running"])
            self._log(run_id, [item for record in epochs for item in _items(record, metrics=_led(record["metrics"]))])

    def _begin_sweep(self, record: Record) -> None:
        role = {"role": "sweep"}
        tags = {**record["tags"], **role, "status": "running"}
        if "format" in record:
            tags["format"] = str(record["format"])
        run_id = self._open_run(record, "", run_name=record["name"], needed=role, tags=tags)
        tags |= {NOTE: sweep_note(record, self.run_index.experiment_id, run_id)}
        self._log(run_id, _items(record, tags=tags, params=param_texts(record)))
        self.run_index.set_status(run_id, OPEN_STATUSES["running"])
        self.run_index.tag_experiment(
            dict([KIND, (NOTE, EXPERIMENT_NOTE), sweep_view(record)])
        )  # last: a sweep works without it

    def _plan(self, record: Record) -> None:
        sweep_id = record["sweep_id"]
        nesting = {"role": "trial", "mlflow.parentRunId": self.run_index.find(sweep_id, "")}
        run_id = self._open_run(
            record, record["trial_id"], run_name=record["run_name"], needed=nesting, tags={**record["tags"], **nesting}
        )
        self._log(run_id, _items(record, tags=record["tags"], params=param_texts(record)))
        self.run_index.set_status(run_id, OPEN_STATUSES[record["tags"]["status"]])

    def _open_run(
        self, record: Record, trial_id: str, *, run_name: str, needed: dict[str, str], tags: dict[str, str]
    ) -> str:
        # A new run gets all its tags in the first call, as the driver may die before the next one. If MLflow refuses
        # a tag, `_log` finds out which one and rejects it.
        def find_or_create(tags: dict[str, str]) -> str:
            return self.run_index.find_or_create(
                record["sweep_id"], trial_id, run_name=run_name, start_time_ms=record["time_ms"], tags=tags
            )

        try:
            return find_or_create({key: clean(value) for key, value in tags.items()})
        except Exception as error:
            if classify(error) != "reject":
                raise
            return find_or_create(needed)

    def _end(self, record: Record) -> None:
        run_id = self.run_index.find(record["sweep_id"], record["trial_id"])
        tags = {**record["tags"], "status": record["status"], "reason": record["reason"]}
        self._log(run_id, _items(record, tags=tags, metrics=record["metrics"]))
        self.run_index.set_status(run_id, TRIAL_STATUSES[record["status"]], end_time_ms=record["time_ms"])

    def _span(self, record: Record) -> None:
        run_id = self.run_index.find(record["sweep_id"], "")
        seconds = (record["ended_ms"] - record["began_ms"]) / 1e3
        self._log(run_id, _items(record, metrics={f"{SPANS}{record['part']}_s": seconds}))

    def _end_sweep(self, record: Record) -> None:
        sweep_id, status = record["sweep_id"], record["status"]
        self.run_index.search(sweep_id, again=True)
        for trial_id in record["open_trials"]:
            trial_run = self.run_index.find(sweep_id, trial_id)
            reason = f"the sweep ended ({status}) before this trial did"
            self._log(trial_run, _items(record, tags={"status": "planned", "reason": reason}))
            self.run_index.set_status(trial_run, "KILLED", end_time_ms=record["time_ms"])
        run_id = self.run_index.find(sweep_id, "")
        tags = record.get("tags", {}) | {"status": status} | self._result_note(run_id, record)
        self._log(run_id, _items(record, tags=tags, metrics=record["metrics"]))
        self.run_index.set_status(run_id, SWEEP_STATUSES[status], end_time_ms=record["time_ms"])

    def _result_note(self, run_id: str, record: Record) -> dict[str, str]:
        """The sweep's present note with its answer and its table; nothing if that is too long for a tag."""
        note = self.run_index.client.get_run(run_id).data.tags.get(NOTE, "")
        report = record["files"].get("report.md", "")
        told = with_result(note, report)
        return {NOTE: told} if report and len(told) <= _TEXT_LIMIT else {}

    def _log(self, run_id: str, items: list[Item]) -> None:
        size = _METRICS_PER_CALL if all(item.part == "metrics" for item in items) else _TEXTS_PER_CALL
        for start in range(0, len(items), size):
            self._offer(run_id, items[start : start + size])

    def _offer(self, run_id: str, items: list[Item]) -> None:
        # One refused item must not cost the others of its call: halve the call until the item stands alone.
        try:
            self._send(run_id, items)
        except Exception as error:
            if classify(error) != "reject":
                raise
            if len(items) == 1:
                record, part, key, value = items[0]
                bare = {name: content for name, content in record.items() if name not in ("metrics", "tags", "params")}
                self.rejections.append(Rejection({**bare, part: {key: value}}, one_line(error)))
                return
            half = len(items) // 2
            self._offer(run_id, items[:half])
            self._offer(run_id, items[half:])

    def _send(self, run_id: str, items: list[Item]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        # synchronous, as MLflow's asynchronous mode, which the environment may turn on, drops failed batches.
        self.run_index.client.log_batch(
            run_id,
            metrics=[Metric(item.key, item.value, *_when(item.record)) for item in items if item.part == "metrics"],
            tags=[RunTag(item.key, clean(item.value)) for item in items if item.part == "tags"],
            params=[Param(item.key, clean(item.value)) for item in items if item.part == "params"],
            synchronous=True,
        )

    def note_refused(self, sweep_id: str, count: int) -> None:
        """Let the sweep's run say how many of its records were refused for good."""
        self.run_index.client.set_tag(self.run_index.find(sweep_id, ""), REFUSED, str(count))


def clean(value: Any) -> str:
    """A text that every MLflow database can store: no NUL, no lone surrogate, at most 5000 characters."""
    text = str(value).replace("\x00", "").encode("utf-8", "replace").decode()
    return text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 12] + " [shortened]"


def _items(record: Record, **parts: dict[str, Any]) -> list[Item]:
    return [Item(record, part, key, value) for part, content in parts.items() for key, value in content.items()]


def _led(metrics: dict[str, float]) -> dict[str, float]:
    # MLflow's compare view opens with the metric that was stored first.
    return {_LEAD: metrics[_LEAD], **metrics} if _LEAD in metrics else metrics


def _when(record: Record) -> tuple[int, int]:
    # (timestamp in ms, step); a value that is known once has step 0.
    if record["kind"] == "epoch":
        return record["timestamp_ms"], record["epoch"]
    if record["kind"] == "span":  # its end: with its length a reader knows its beginning
        return record["ended_ms"], record["number"]
    return record["time_ms"], 0
