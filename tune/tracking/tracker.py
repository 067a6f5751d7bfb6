"""Tracking of a sweep on the driver: every call stores one line in an outbox and returns; a thread sends it to MLflow.

No call waits for MLflow, whatever its state. A Tracker on an existing outbox continues it: it sends what MLflow lacks,
and stores nothing twice that the outbox already holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tune.common import signals
from tune.common.address import settled_uri
from tune.common.clock import SteadyClock
from tune.storage.moved import store_name
from tune.storage.outbox import Outbox, Record
from tune.storage.params import FORMAT, stored_params
from tune.storage.trial_log import DRIVER, OutboxIndex, TrialLog
from tune.tracking.earlier_store import fetch_from
from tune.tracking.position import Position, store_digest
from tune.tracking.record_fields import changed, check_id, check_status, texts, values
from tune.tracking.rejected import RejectedFile
from tune.tracking.runs import RunIndex
from tune.tracking.schema import is_empty
from tune.tracking.sender import OutboxSender
from tune.tracking.store import ACCOUNTS
from tune.tracking.uploads import Uploader
from tune.tracking.writer import OPEN_STATUSES, SWEEP_STATUSES, TRIAL_STATUSES, MlflowWriter


class Tracker:
    """Records one sweep; safe to call from several threads, opened by one process at a time.

    Args:
        outbox_path: JSONL file, created when missing; its companions (`.position`, `.rejected`, `.lock`) lie beside it.
        tracking_uri: MLflow server (http, https) or database (sqlite:///mlflow.db, postgresql+psycopg2://...).
        experiment: MLflow experiment, created when missing.
        artifact_root: folder or URI for the artifacts of a new experiment in a database; a server uses its own.
        earlier_stores: where the sweep was recorded before; folders of trials that are gone are copied from there.
        make: the text of a file that `end_sweep` was given without one, from what MLflow has.
        retry_refused: send the whole outbox again if MLflow refused some of it. What it takes now counts no longer.

    Raises:
        ValueError: another process has the outbox open, or the file is not an outbox of this version.
    """

    def __init__(
        self,
        *,
        outbox_path: Path,
        tracking_uri: str,
        experiment: str,
        artifact_root: str | None,
        earlier_stores: Sequence[str] = (),
        retry_refused: bool = False,
        make: Callable[[str], str] | None = None,
    ) -> None:
        tracking_uri = settled_uri(tracking_uri)
        self._outbox = Outbox(outbox_path)
        self._mutex = threading.Lock()
        self._index = OutboxIndex()
        digest = store_digest(store_name(tracking_uri, self._outbox.path.parent), experiment)
        position = Position.load(self._outbox.path, store=digest, size=self._outbox.size)
        if tracking_uri.startswith("sqlite") and is_empty(tracking_uri):  # deleted since: it gets everything again
            position.rewind()
        if retry_refused and len(RejectedFile(self._outbox.path, replay=False)):
            position.rewind()
        try:
            sent = self._rebuild_index(position.offset)
        except (KeyError, TypeError) as error:
            self._outbox.close()
            raise ValueError(f"{self._outbox.path} is not an outbox of this version ({error!r})") from error
        run_index = RunIndex(
            tracking_uri=tracking_uri, experiment=experiment, artifact_root=artifact_root, runs=position.runs
        )
        self._clock = SteadyClock(not_before_ms=self._index.latest_ms)
        uploader = Uploader(run_index, fetch_from(earlier_stores, experiment, unless=tracking_uri), make)
        self._sender = OutboxSender(
            self._outbox, MlflowWriter(run_index), uploader, position, total=self._index.records, sent=sent
        )
        self._sender.start()

    @property
    def problems(self) -> list[str]:
        """What went wrong so far, a line each: refused records, missing model folders, the start of an outage."""
        return self._sender.problems

    @property
    def outage(self) -> str | None:
        """Why MLflow cannot be written right now; None while it can be."""
        return self._sender.outage

    def announce_outages(self, say: Callable[[str], None]) -> None:
        """Call `say` at once, on another thread, when an outage of MLflow begins and when it ends."""
        self._sender.say = say

    @property
    def ended(self) -> dict[str, str]:
        """The status of each ended trial; without trials that were opened again."""
        with self._mutex:
            return {trial: self._index.statuses[trial] for trial, at in self._index.trials.items() if at == "ended"}

    @property
    def trials(self) -> dict[str, TrialLog]:
        """What the outbox holds of each trial, in the order of planning, whether MLflow has it or not."""
        with self._mutex:
            return dict(self._index.logs)

    @property
    def sweep_status(self) -> str | None:
        """How the sweep was last closed: done, failed or interrupted; None while it is open."""
        with self._mutex:
            return self._index.sweep_status

    def status_of(self, trial_id: str) -> str | None:
        """How a trial ended; None before that."""
        with self._mutex:
            return self._index.statuses[trial_id] if self._index.trials.get(trial_id) == "ended" else None

    @property
    def unsent(self) -> int:
        """Number of records that MLflow lacks, not counting those that lack only files."""
        return self._sender.unsent

    @property
    def pending(self) -> int:
        """Number of records that MLflow lacks, or whose files it lacks."""
        return self._sender.pending

    @property
    def refused(self) -> int:
        """Number of records, or parts of one, that MLflow refused for good; `.rejected` keeps them."""
        return self._sender.refused

    @property
    def blocked(self) -> str | None:
        """Why nothing more can be sent before somebody mends it: only files wait, and each was tried in vain."""
        return self._sender.blocked

    def begin_sweep(
        self,
        *,
        sweep_id: str,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        files: Mapping[str, str],
        version: int = FORMAT,
        driver_began_ms: int | None = None,
    ) -> None:
        """Open the sweep, or reopen it on resume; `files` maps artifact path -> text.

        version: the format of the parameters of a new sweep; a sweep that has begun keeps its own.
        driver_began_ms: when this run of the command began. A run before it that was killed ends at its last record.

        Raises:
            ValueError: the outbox belongs to another sweep.
        """
        check_id("sweep_id", sweep_id)
        with self._mutex:
            if self._index.sweep_id not in (None, sweep_id):
                raise ValueError(f"{self._outbox.path} holds sweep {self._index.sweep_id!r}, not {sweep_id!r}")
            self._index.sweep_id = sweep_id
            self._index.format = self._index.format or version
            began = {} if driver_began_ms is None else {"driver_began_ms": int(driver_began_ms)}
            if began and self._index.driver_began_ms not in (None, driver_began_ms):
                self._append_span(DRIVER, self._index.driver_began_ms, self._index.latest_ms)
            self._append_params("begin_sweep", params, **began, name=name, tags=texts(tags), files=dict(files))

    def plan_trial(self, *, trial_id: str, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> bool:
        """Announce a trial. `tags["status"]` may say `running`; without it the trial is `planned`.

        Planning a known trial again does nothing and returns False, so a resumed driver may announce its complete
        plan. A planned or ended trial announced as `running` is open again: this marks a retry.
        """
        check_id("trial_id", trial_id)
        status = tags.get("status", "planned")
        check_status(status, OPEN_STATUSES)
        with self._mutex:
            known = self._index.trials.get(trial_id)
            if known is not None and (status == "planned" or known == "running"):
                return False
            if known is None:
                tags = {**tags, "trial_number": str(len(self._index.trials) + 1)}
            tags = {**texts(tags), "status": status, "reason": ""}
            self._append_params("plan", params, trial_id=trial_id, run_name=run_name, tags=tags)
            return True

    def log_span(self, part: str, began_ms: int) -> None:
        """Store that the driver did `part` from `began_ms` until now; no trial's time is in it."""
        with self._mutex:
            self._append_span(part, began_ms, self._clock.now_ms())

    def end_run(self) -> None:
        """This run of the command is about to end: store when it ran, once."""
        with self._mutex:
            if (began_ms := self._index.driver_began_ms) is not None:
                self._append_span(DRIVER, began_ms, self._clock.now_ms())

    def now_ms(self) -> int:
        """Wall time in ms that never goes back within the sweep, even if the system clock does."""
        return self._clock.now_ms()

    def log_epoch(
        self,
        *,
        trial_id: str,
        epoch: int,
        metrics: Mapping[str, float | None],
        timestamp_ms: int,
        tags: Mapping[str, str] | None = None,
    ) -> bool:
        """Store one epoch (from 1); False if the outbox already has that epoch of that trial, whatever its values.

        Metrics that are None are left out, NaN is kept. The first epoch makes a planned trial `running`. `tags`, as
        the trial reports them, stay in the outbox for a later driver that has to end the trial.
        """
        with self._mutex:
            if (trial_id, epoch) in self._index.epochs:
                return False
            starts = self._known(trial_id) == "planned"
            known = values(metrics)
            self._append(
                "epoch",
                trial_id=trial_id,
                epoch=int(epoch),
                metrics=known,
                timestamp_ms=int(timestamp_ms),
                starts=starts,
                **({} if tags is None else {"tags": changed(self._index.logs[trial_id].reported, texts(tags))}),
            )
            return True

    def end_trial(
        self,
        *,
        trial_id: str,
        status: str,
        reason: str,
        metrics: Mapping[str, float | None],
        tags: Mapping[str, str],
        model_dir: Path | None,
        samples_dir: Path | None = None,
        forecasts_dir: Path | None = None,
    ) -> bool:
        """Close a trial. The first end counts until `plan_trial` opens the trial again; a later one returns False.

        Later the saved model in `model_dir` becomes the run's MLflow model, and the files in `samples_dir` and
        `forecasts_dir` become artifacts under `samples/` and `forecasts/`: the folders must stay until `pending` is 0.
        """
        check_status(status, TRIAL_STATUSES)
        with self._mutex:
            if self._known(trial_id) == "ended":
                return False
            self._append(
                "end",
                trial_id=trial_id,
                status=status,
                reason=str(reason),
                metrics=values(metrics),
                tags=texts(tags),
                model_dir=None if model_dir is None else str(Path(model_dir).absolute()),
                samples_dir=None if samples_dir is None else str(Path(samples_dir).absolute()),
                **({} if forecasts_dir is None else {"forecasts_dir": str(Path(forecasts_dir).absolute())}),
            )
            return True

    def end_sweep(
        self,
        *,
        status: str,
        metrics: Mapping[str, float | None],
        files: Mapping[str, str | None],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Close the sweep as done, failed or interrupted. Open trials become `planned` again, their runs KILLED.

        A file whose text is None is made when it is stored, and lies nowhere else.

        Metrics that an earlier closing stored are left out: a driver that was killed while closing stores them once.
        Accounts stay as the first closing has them: to close again takes time, and would change them.
        """
        check_status(status, SWEEP_STATUSES)
        with self._mutex:
            known = self._index.summary
            new = {
                key: value
                for key, value in values(metrics).items()
                if known.get(key) != value and not (key in known and key.startswith(ACCOUNTS))
            }
            unfinished = [trial_id for trial_id, state in self._index.trials.items() if state != "ended"]
            more = {"tags": texts(tags)} if tags else {}
            self._append("end_sweep", status=status, metrics=new, files=dict(files), open_trials=unfinished, **more)

    def flush(self, timeout_s: float) -> int:
        """Wait until MLflow has every record, at most `timeout_s` s; returns how many it lacks. Ends if `blocked`."""
        return self._sender.flush(timeout_s)

    def close(self, timeout_s: float = 30.0) -> int:
        """Flush, stop and release the outbox; returns how many records wait in it for the next opening."""
        pending = self._sender.close(timeout_s)
        self._outbox.close()
        return pending

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(5.0)  # call `flush` first to wait longer

    def _rebuild_index(self, offset: int) -> int:
        sent = 0
        for record, end in self._outbox.read():
            self._index.absorb(record)
            sent += end <= offset
        return sent

    def _known(self, trial_id: str) -> str:
        if trial_id not in self._index.trials:
            raise ValueError(f"trial {trial_id!r} is not in the plan of this sweep: call plan_trial first")
        return self._index.trials[trial_id]

    def _append_span(self, part: str, began_ms: int | None, ended_ms: int) -> None:
        number = self._index.spans[part] + 1
        self._append("span", part=part, number=number, began_ms=began_ms, ended_ms=ended_ms)

    def _append_params(self, kind: str, params: Mapping[str, Any], **fields: Any) -> None:
        version = self._index.format or FORMAT
        named = {} if version == 1 else {"format": version}
        self._append(kind, **named, **fields, params=stored_params(params, version))

    def _append(self, kind: str, **fields: Any) -> None:
        if self._index.sweep_id is None:
            raise ValueError("no sweep was begun: call begin_sweep first")
        record: Record = {"kind": kind, "sweep_id": self._index.sweep_id, "time_ms": self._clock.now_ms(), **fields}
        with signals.deferred():  # the file and what is known of it stay one
            self._outbox.append(record)
            self._index.absorb(record)
            self._sender.notify()
