"""The plan of one command, made again only if device or data turn out to be others, and its data, prepared once.

Planning-safe: imports none of torch, transformers, ray, mlflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_pipeline.datasets import is_path
from data_pipeline.feed.placement import Placement
from tune.common.errors import WrongInput
from tune.config.repeats import Repeats
from tune.config.request import Request
from tune.config.sweeps import SweepConfig
from tune.config.trial_config import DataConfig, data_options
from tune.machine.compilers import broken_compilers
from tune.machine.device import MOMENTARY, DeviceFacts
from tune.plan.data import (
    UNREAD,
    DataFacts,
    SplitRows,
    channels_of,
    check_windows,
    converted_rows,
    facts_by_definition,
    known_data,
    prepare_data,
)
from tune.plan.placement import FIELD, placement_of
from tune.plan.plan import Plan
from tune.plan.space import plan_sweep
from tune.plan.support import compiler_needed
from tune.storage.check_folder import cache_place


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """What a sweep needs to know of its data, which are downloaded, converted and checked."""

    channels: int
    sha256: str  # of the uncompressed source
    rows: SplitRows
    protocol: dict[str, Any]  # how they were read, split and scaled; of a table by data set
    sha256_of: Mapping[str, str] = field(default_factory=dict)  # of a table's sources, by data set


class Planner:
    """Plans one sweep as one command asks for it.

    overrides: field -> value, for every arm.
    draws: how many shapes of the sweep's space are trained; None if it has no space.
    target_val_mse: the validation error that ends the search; None if there is none.
    """

    def __init__(
        self,
        sweep: SweepConfig,
        *,
        overrides: Mapping[str, Any],
        repeats: Repeats,
        seed: int,
        draws: int | None = None,
        target_val_mse: float | None = None,
    ) -> None:
        self.sweep, self.overrides, self.repeats, self.seed, self.draws = sweep, overrides, repeats, seed, draws
        self.target_val_mse = target_val_mse
        self._plan: Plan | None = None
        self._facts = UNREAD  # with which `_plan` was made
        self._rows: SplitRows | None = None  # of a file that an earlier sweep has converted
        self._data: PreparedData | None = None
        self._protocol: Mapping[str, Any] | None = None  # of data that an earlier sweep has prepared
        self._prepared: dict[str, PreparedData] = {}  # of a table, by data set
        self._missing: dict[str, str] = {}  # of a table: data set whose file is not at hand -> where to put it
        self._awaited: dict[str, str] = {}  # the same of one that the sweep downloads first
        self._feed: str | None = None  # which a sweep that goes on began with

    @classmethod
    def of(cls, request: Request) -> Planner:
        """The planner of a checked command line."""
        return cls(
            request.sweep,
            overrides=request.overrides,
            repeats=request.repeats,
            seed=request.seed,
            draws=request.trials,
            target_val_mse=request.target_val_mse,
        )

    def plan(self, device: DeviceFacts) -> Plan:
        """The plan for `device`. It is made again only if something that planning reads has changed.

        Raises WrongInput as `plan_sweep` does, and DataError for a data file whose head cannot be read.
        """
        facts, latest, placement = self._known(), self._plan, self._placement(device)
        if (
            latest is None
            or not _same_for_a_plan(latest.device, device)
            or facts != self._facts
            or _feed(placement) != _feed(latest.placement)
        ):
            latest = plan_sweep(
                self.sweep,
                draws=self.draws,
                overrides=dict(self.overrides) if placement is None else {**self.overrides, FIELD: placement.feed},
                repeats=self.repeats,
                seed=self.seed,
                device=device,
                data=facts,
                target_val_mse=self.target_val_mse,
            )
            self._facts = facts
        self._plan = replace(latest, device=device, placement=placement)
        return self._plan

    def with_compilers(self, device: DeviceFacts, storage_path: Path) -> DeviceFacts:
        """`device`, which is this machine's, with what its compilers cannot do if a trial of the plan needs one."""
        needed = {compiler_needed(trial.config, device.device_type) for trial in self.plan(device).trials} - {None}
        if not needed:
            return device
        try:
            folder = cache_place(storage_path)
        except (OSError, WrongInput):  # no trial can compile there, which a sweep says before it starts
            folder = storage_path
        return replace(device, compilers=broken_compilers(filter(None, needed), folder))

    def keep_feed(self, feed: str) -> None:
        """Plan with this feed from now on, where neither the sweep nor the user names one: the sweep began with it."""
        self._feed = feed

    def _placement(self, device: DeviceFacts) -> Placement | None:
        known = self._protocol if self._data is None else self._data.protocol
        placement = placement_of(self.sweep, self.overrides, device, known)
        if placement is None or self._feed in (None, placement.feed):
            return placement
        return Placement(feed=str(self._feed), reason=f"the sweep began with it; now, {placement.reason}")

    def look_up(self, plan: Plan, *, data_dir: Path, storage_path: Path) -> bool:
        """Whether the number of windows is known without reading the data; the next plan then takes it into account.

        Raises DataError if it is known and no trial has a window in each split.
        """
        if plan.data.rows is None and self._data is None:
            first = plan.trials[0].config.data
            self._rows = converted_rows(first, data_dir=data_dir, storage_path=storage_path)
        rows = plan.data.rows or self._rows
        if rows is not None:
            check_windows(rows, _lengths(plan))
        return rows is not None

    def prepare(self, plan: Plan, *, data_dir: Path, storage_path: Path, quiet: bool) -> PreparedData:
        """The data of `plan`, prepared on the first call. All trials of a sweep have the same data, on any device.

        Raises DataError as `prepare_data` does, and if no trial has a window in each split.
        """
        if self._data is None:
            from data_pipeline.series.protocol import protocol_of

            data = plan.trials[0].config.data
            series = prepare_data(data, data_dir=data_dir, storage_path=storage_path, quiet=quiet)
            rows = SplitRows.of(series)
            check_windows(rows, _lengths(plan))
            self._data = PreparedData(
                channels=len(series.columns),
                sha256=series.source_sha256,
                rows=rows,
                protocol=protocol_of(series, _lengths(plan)),
            )
        return self._data

    def protocol(self, plan: Plan, *, data_dir: Path, storage_path: Path) -> Mapping[str, Any] | None:
        """How the data were read, split and scaled; None if they are not prepared, and no earlier sweep did so."""
        if self._data is not None:
            return self._data.protocol
        from data_pipeline.series.protocol import protocol_of

        series = known_data(plan.trials[0].config.data, data_dir=data_dir, storage_path=storage_path)
        self._protocol = None if series is None else protocol_of(series, _lengths(plan))
        return self._protocol

    def _known(self) -> DataFacts:
        """From the prepared data, the definition of a named data set, or a file's head and an earlier conversion."""
        if self._data is not None:
            return DataFacts(channels=self._data.channels, rows=self._data.rows)
        given = {**self.sweep.shared, **self.overrides}
        dataset, options = given.get("data.dataset", DataConfig().dataset), data_options(given)
        if not isinstance(dataset, str) or options is None:
            return UNREAD  # the plan refuses what is of another type
        if is_path(dataset):
            return DataFacts(channels=channels_of(dataset, options), rows=self._rows)
        return facts_by_definition(dataset, options)


def _lengths(plan: Plan) -> list[tuple[int, int]]:
    """Context and horizon of each trial."""
    data = [trial.config.data for trial in plan.trials]
    return [(each.context_length, each.prediction_length) for each in data]


def _same_for_a_plan(one: DeviceFacts, other: DeviceFacts) -> bool:
    """Whether two devices give the same trials: planning does not read the numbers of GPUs and CPUs.

    Free memory decides the feed only, which is compared for itself.
    """
    free = {name: getattr(other, name) for name in MOMENTARY}
    if not one.compilers and not other.compilers:  # none is known to be broken
        free["compilers"] = other.compilers
    return replace(one, assumed=other.assumed, gpus=other.gpus, cpus=other.cpus, **free) == other


def _feed(placement: Placement | None) -> str | None:
    return None if placement is None else placement.feed
