"""Reads finished or running sweeps back from MLflow, with complete metric histories."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from tune.common.address import one_line, redacted, settled_uri
from tune.common.errors import WrongInput, did_you_mean
from tune.common.ids import sweep_meant
from tune.storage.params import format_of
from tune.tracking.runs import find_runs
from tune.tracking.schema import is_empty
from tune.tracking.store import JOB_TAG, SPANS, TrackingError, check_store, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run


T = TypeVar("T")
History = list[tuple[int, float]]
# Values known once are logged at step 0 under these prefixes: their history is their value and needs no call.
_ONCE = ("final/",)
_READERS = 8
_RUNS_AT_A_TIME = 500
_LATEST_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial as MLflow has it.

    `metrics` are the last values; `history` holds (step, value) by metric in order of steps, step = epoch from 1, or 0
    for values known once. `status` is planned, running, done, stopped, failed, oom, nan, failed_gate or unsupported.
    """

    trial_id: str
    run_id: str
    name: str
    status: str
    reason: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    history: dict[str, History]


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """One sweep's parent run; `status` is running, done, failed or interrupted; `started_ms` since the epoch.

    `trials` is the number planned, None if the store lacks it.
    """

    sweep_id: str
    run_id: str
    name: str
    status: str
    started_ms: int
    trials: int | None
    tags: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """One sweep with all its trials, in the order they were planned.

    `spans`: what the driver did for all trials at once, by part (`driver`: a run of the command; `warm_up`): when each
    piece began and ended, in ms of the wall clock.
    """

    sweep_id: str
    run_id: str
    name: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    trials: tuple[TrialRecord, ...]
    spans: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    @property
    def format(self) -> int:
        """The format of its parameters (tune.storage.params)."""
        return format_of(self.tags)


def list_sweeps(
    tracking_uri: str, experiment: str, *, limit: int = 20, timeout_s: float = 5.0
) -> tuple[SweepSummary, ...]:
    """The latest sweeps of an experiment, newest first; empty if there is none.

    Raises:
        TrackingError: the store or the experiment cannot be reached.
    """
    return ask_store(tracking_uri, timeout_s, lambda client: summaries(client, experiment)[:limit])


def read_sweep(tracking_uri: str, experiment: str, sweep_id: str, *, timeout_s: float = 5.0) -> SweepRecord:
    """One sweep with the complete history of every metric of every trial.

    timeout_s: how long the store may take to show that it is there. Reading itself has no limit; from a server it
        takes one call per trial and metric.

    Raises:
        TrackingError: the sweep is unknown (the message names the latest ones), or the store cannot be reached.
    """
    return ask_store(tracking_uri, timeout_s, lambda client: _sweep(client, experiment, sweep_id))


def check_is_there(tracking_uri: str, timeout_s: float = 5.0) -> str:
    """The settled address of a store that answers. Raises TrackingError for others, and for a file that is missing."""
    check_store(tracking_uri, timeout_s)
    uri = settled_uri(tracking_uri)
    if uri.startswith("sqlite") and is_empty(uri):
        raise TrackingError(
            f"there is no MLflow store at {redacted(uri)} yet: run a sweep, or correct the tracking URI"
        )
    return uri


def ask_store(tracking_uri: str, timeout_s: float, question: Callable[[MlflowClient], T]) -> T:
    """The answer to `question`, with every error of the store as one line. A missing store is not created.

    Raises:
        TrackingError: the store cannot be reached, or `question` raised an error.
    """
    uri = check_is_there(tracking_uri, timeout_s)
    try:
        return question(open_client(uri))
    except (TrackingError, WrongInput):
        raise
    except Exception as error:
        raise TrackingError(f"MLflow store {redacted(uri)} cannot be read: {one_line(error)}") from error


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """How far the sweep of a Ray job is: ended and planned trials. `planned` is None if the store lacks the number."""

    sweep_id: str
    ended: int
    planned: int | None


def progress_of_jobs(
    tracking_uri: str, experiment: str, jobs: Collection[str], *, timeout_s: float = 5.0
) -> dict[str, JobProgress]:
    """The progress of each Ray job whose sweep is in this store; of several sweeps of a job, of the latest.

    Raises:
        TrackingError: the store or the experiment cannot be reached.
    """

    def ask(client: MlflowClient) -> dict[str, JobProgress]:
        progress: dict[str, JobProgress] = {}
        for sweep in summaries(client, experiment):
            theirs = {job for job in jobs if JOB_TAG + job in sweep.tags} - set(progress)
            if theirs:
                progress |= dict.fromkeys(theirs, _progress(client, experiment, sweep))
        return progress

    return ask_store(tracking_uri, timeout_s, ask)


def _progress(client: MlflowClient, experiment: str, sweep: SweepSummary) -> JobProgress:
    quoted = sweep.sweep_id.replace("'", "")
    runs = find_runs(client, experiment_id(client, experiment), f"tags.sweep_id = '{quoted}'")
    trials = {run.data.tags["trial_id"]: run.data.tags for run in runs if "trial_id" in run.data.tags}
    ended = [trial for trial, tags in trials.items() if tags.get("status", "planned") not in ("planned", "running")]
    return JobProgress(sweep_id=sweep.sweep_id, ended=len(ended), planned=sweep.trials)


def experiment_id(client: MlflowClient, experiment: str) -> str:
    """The id of an experiment. Raises TrackingError if there is none."""
    known = client.get_experiment_by_name(experiment)
    if known is None:
        names = ", ".join(repr(other.name) for other in client.search_experiments(max_results=10))
        raise TrackingError(f"there is no experiment {experiment!r} in this MLflow store; it has {names}")
    return str(known.experiment_id)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def summaries(client: MlflowClient, experiment: str) -> tuple[SweepSummary, ...]:
    """All sweeps of an experiment, newest first. Raises TrackingError if there is no such experiment."""
    runs = find_runs(client, experiment_id(client, experiment), "tags.role = 'sweep'")
    return tuple(
        SweepSummary(
            sweep_id=run.data.tags["sweep_id"],
            run_id=run.info.run_id,
            name=run.info.run_name,
            status=run.data.tags.get("status", "running"),
            started_ms=run.info.start_time,
            trials=_number(run.data.params.get("trials")),
            tags=dict(run.data.tags),
        )
        for run in runs
    )


def _sweep(client: MlflowClient, experiment: str, sweep_id: str) -> SweepRecord:
    quoted = sweep_id.replace("'", "")
    runs = find_runs(client, experiment_id(client, experiment), f"tags.sweep_id = '{quoted}'")
    parents = [run for run in runs if run.data.tags.get("role") == "sweep"]
    if not parents:
        known = [summary.sweep_id for summary in summaries(client, experiment)]
        meant = sweep_meant(sweep_id, known)
        if meant is not None and meant != sweep_id:
            return _sweep(client, experiment, meant)
        latest = f"the latest are {', '.join(known[:_LATEST_SHOWN])}" if known else "it holds no sweep yet"
        near = did_you_mean(sweep_id, known)
        raise TrackingError(f"no sweep {sweep_id!r} in experiment {experiment!r}; {latest}.{near}")
    # Of two runs of a trial, the older one counts, as for the writer.
    children: dict[str, Run] = {}
    for run in sorted(reversed(runs), key=lambda run: int(run.data.tags.get("trial_number", 0))):
        if trial_id := run.data.tags.get("trial_id"):
            children.setdefault(trial_id, run)
    parent = parents[-1]
    return SweepRecord(
        sweep_id=sweep_id,
        run_id=parent.info.run_id,
        name=parent.info.run_name,
        status=parent.data.tags.get("status", "running"),
        tags=dict(parent.data.tags),
        params=dict(parent.data.params),
        metrics={key: _unclamped(value) for key, value in parent.data.metrics.items()},
        trials=tuple(_trials(client, children)),
        spans=_spans(client, parent),
    )


def _spans(client: MlflowClient, parent: Run) -> dict[str, tuple[tuple[int, int], ...]]:
    """MLflow has the end of each span and its seconds."""
    spans = {}
    for name in (name for name in parent.data.metrics if name.startswith(SPANS)):
        points = sorted(client.get_metric_history(parent.info.run_id, name), key=_by_step)
        ended = {point.step: (point.timestamp - round(1e3 * point.value), point.timestamp) for point in points}
        spans[name.removeprefix(SPANS).removesuffix("_s")] = tuple(ended.values())
    return spans


def _trials(client: MlflowClient, runs: dict[str, Run]) -> list[TrialRecord]:
    histories = _histories(client, list(runs.values()))
    return [
        TrialRecord(
            trial_id=trial_id,
            run_id=run.info.run_id,
            name=run.info.run_name,
            status=run.data.tags.get("status", "planned"),
            reason=run.data.tags.get("reason", ""),
            params=dict(run.data.params),
            tags=dict(run.data.tags),
            metrics={key: _unclamped(value) for key, value in run.data.metrics.items()},
            history={key: histories[run.info.run_id, key] for key in run.data.metrics},
        )
        for trial_id, run in runs.items()
    ]


def _histories(client: MlflowClient, runs: list[Run]) -> dict[tuple[str, str], History]:
    """The history of each metric by (run id, metric), in order of steps."""
    histories = {
        (run.info.run_id, key): [(0, _unclamped(value))] if key.startswith(_ONCE) else []
        for run in runs
        for key, value in run.data.metrics.items()
    }
    wanted: dict[str, list[str]] = {}
    for run_id, key in histories:
        if not key.startswith(_ONCE):
            wanted.setdefault(key, []).append(run_id)
    for key, run_id, metric in _points(client, wanted):
        histories[run_id, key].append((metric.step, _unclamped(metric.value)))
    return histories


def _points(client: MlflowClient, wanted: dict[str, list[str]]) -> Iterator[tuple[str, str, Metric]]:
    """(metric, run id, point) for every point of these runs' metrics; the points of a run in order of steps."""
    store = client._tracking_client.store
    if hasattr(store, "get_metric_history_bulk"):  # a database: one query for many runs
        for key, run_ids in wanted.items():
            for at in range(0, len(run_ids), _RUNS_AT_A_TIME):
                points = store.get_metric_history_bulk(run_ids[at : at + _RUNS_AT_A_TIME], key, None)
                for point in sorted(points, key=_by_step):
                    yield key, point.run_id, point
        return
    # MLflow's client has no such call for a server. Each call waits for milliseconds, so several run at once.
    with ThreadPoolExecutor(_READERS) as pool:
        pairs = [(key, run_id) for key, run_ids in wanted.items() for run_id in run_ids]
        answers = pool.map(lambda pair: client.get_metric_history(pair[1], pair[0]), pairs)
        for (key, run_id), points in zip(pairs, answers, strict=True):
            for point in sorted(points, key=_by_step):
                yield key, run_id, point


def _by_step(point: Metric) -> tuple[int, int]:
    return point.step, point.timestamp


def _unclamped(value: float) -> float:
    # MLflow's databases store an infinity as the largest float.
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
