"""The plan of one command, made again only if the device turns out to be another, and its data, prepared once.

Planning-safe: imports none of torch, transformers, ray, mlflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_pipeline.datasets import get_dataset
from data_pipeline.feed.placement import Placement
from tune.config.request import Request
from tune.config.sweeps import SweepConfig
from tune.config.trial_config import data_options
from tune.machine.device import MOMENTARY, DeviceFacts
from tune.plan.data import channels_of, known_data, prepare_data
from tune.plan.placement import FIELD, placement_of
from tune.plan.plan import Plan
from tune.plan.space import plan_sweep


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """What a sweep needs to know of its data, which are downloaded, converted and checked."""

    channels: int
    sha256: str  # of the uncompressed source
    protocol: dict[str, Any]  # how they were read, split and scaled


class Planner:
    """Plans one sweep as one command asks for it.

    overrides: field -> value, for every arm.
    draws: how many arms are drawn from the sweep's space; None if it has no space.
    """

    def __init__(
        self, sweep: SweepConfig, *, overrides: Mapping[str, Any], repeats: int, seed: int, draws: int | None = None
    ) -> None:
        self.sweep, self.overrides, self.repeats, self.seed, self.draws = sweep, overrides, repeats, seed, draws
        self._plan: Plan | None = None
        self._channels: int | None = None  # with which `_plan` was made
        self._data: PreparedData | None = None
        self._protocol: Mapping[str, Any] | None = None  # of data that an earlier sweep has prepared
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
        )

    def plan(self, device: DeviceFacts) -> Plan:
        """The plan for `device`. It is made again only if something that planning reads has changed.

        Raises WrongInput as `plan_sweep` does, and DataError for a data file whose head cannot be read.
        """
        channels = self._known_channels()
        latest, placement = self._plan, self._placement(device)
        if (
            latest is None
            or not _same_for_a_plan(latest.device, device)
            or channels not in (None, self._channels)
            or _feed(placement) != _feed(latest.placement)
        ):
            latest = plan_sweep(
                self.sweep,
                draws=self.draws,
                overrides=dict(self.overrides) if placement is None else {**self.overrides, FIELD: placement.feed},
                repeats=self.repeats,
                seed=self.seed,
                device=device,
                channels=channels,
            )
            named = get_dataset(latest.trials[0].config.data.dataset).columns or () if channels is None else ()
            self._channels = len(named) if channels is None else channels
        self._plan = replace(latest, device=device, placement=placement)
        return self._plan

    def keep_feed(self, feed: str) -> None:
        """Plan with this feed from now on, where neither the sweep nor the user names one: the sweep began with it."""
        self._feed = feed

    def _placement(self, device: DeviceFacts) -> Placement | None:
        known = self._protocol if self._data is None else self._data.protocol
        placement = placement_of(self.sweep, self.overrides, device, known)
        if placement is None or self._feed in (None, placement.feed):
            return placement
        return Placement(feed=str(self._feed), reason=f"the sweep began with it; now, {placement.reason}")

    def prepare(self, plan: Plan, *, data_dir: Path, storage_path: Path, quiet: bool) -> PreparedData:
        """The data of `plan`, prepared on the first call. Raises DataError as `prepare_data` does.

        All trials of a sweep have the same data, on whatever device.
        """
        if self._data is None:
            from data_pipeline.series.protocol import protocol_of

            data = plan.trials[0].config.data
            series = prepare_data(data, data_dir=data_dir, storage_path=storage_path, quiet=quiet)
            self._data = PreparedData(
                channels=len(series.columns), sha256=series.source_sha256, protocol=protocol_of(series, _lengths(plan))
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

    def _known_channels(self) -> int | None:
        """From the prepared data or a file's head; None for a named data set, whose definition has the number."""
        if self._data is not None:
            return self._data.channels
        dataset, options = self.overrides.get("data.dataset"), data_options(self.overrides)
        if not isinstance(dataset, str) or options is None:
            return None  # the plan refuses what is of another type
        return channels_of(dataset, options)


def _lengths(plan: Plan) -> list[tuple[int, int]]:
    """Context and horizon of each trial."""
    data = [trial.config.data for trial in plan.trials]
    return [(each.context_length, each.prediction_length) for each in data]


def _same_for_a_plan(one: DeviceFacts, other: DeviceFacts) -> bool:
    """Whether two devices give the same trials: planning does not read the numbers of GPUs and CPUs.

    Free memory decides the feed only, which is compared for itself.
    """
    free = {name: getattr(other, name) for name in MOMENTARY}
    return replace(one, assumed=other.assumed, gpus=other.gpus, cpus=other.cpus, **free) == other


def _feed(placement: Placement | None) -> str | None:
    return None if placement is None else placement.feed
