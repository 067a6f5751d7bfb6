"""Plans a table: prepares the data of every cell whose file is at hand, and says of the others where to put it.

Planning-safe: imports none of torch, transformers, ray, mlflow.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.datasets import get_dataset
from data_pipeline.errors import MissingFile
from data_pipeline.source.links import browser_link
from tune.common.errors import WrongInput
from tune.config.cells import DATASET
from tune.config.request import Request
from tune.config.trial_config import DataConfig
from tune.machine.device import DeviceFacts
from tune.plan.data import DataFacts, SplitRows, facts_by_definition, prepare_data
from tune.plan.plan import Plan
from tune.plan.planner import Planner, PreparedData
from tune.plan.table import TablePlan, plan_table


class TablePlanner(Planner):
    """Plans a sweep that is a table."""

    def plan(self, device: DeviceFacts) -> TablePlan:
        """The plan for `device`. Raises WrongInput as `plan_table` does."""
        return plan_table(
            self.sweep,
            overrides=self.overrides,
            repeats=self.repeats,
            seed=self.seed,
            device=device,
            facts={name: self._facts_of(name) for name in self._datasets},
            missing=self._missing,
            awaited=self._awaited,
        )

    def look_up(self, plan: Plan, *, data_dir: Path, storage_path: Path) -> bool:
        """Which files are at hand, without reading or downloading one. True: the rest is known by definition."""
        for name in self._datasets:
            try:
                _located(name, data_dir)
            except MissingFile:
                places = self._awaited if get_dataset(name).urls else self._missing
                places[name] = _where(name, data_dir)
        return True

    def prepare(self, plan: Plan, *, data_dir: Path, storage_path: Path, quiet: bool) -> PreparedData:
        """The data of every cell whose file is at hand or can be downloaded, prepared on the first call.

        Raises DataError for a file that is there and wrong, and WrongInput if no file is at hand.
        """
        if self._data is None:
            self._missing.clear()
            self._awaited.clear()
            for name in self._datasets:
                try:
                    self._prepare_one(name, plan, data_dir, storage_path, quiet)
                except MissingFile as error:
                    self._missing[name] = _where(name, data_dir)
                    if not quiet:
                        print(f"{name} is not run: {error}", file=sys.stderr)
            if not self._prepared:
                raise WrongInput(f"no cell can run: {'; '.join(self._missing.values())}")
            hashes = {name: get_dataset(name).sha256 or self._sha256_of(name) for name in self._datasets}
            self._data = PreparedData(
                channels=0,
                sha256=hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest(),
                rows=SplitRows(every=()),
                protocol={name: each.protocol for name, each in self._prepared.items()},
                sha256_of={name: each.sha256 for name, each in self._prepared.items()},
            )
        return self._data

    def protocol(self, plan: Plan, *, data_dir: Path, storage_path: Path) -> Mapping[str, Any] | None:
        """None: a table's plan shows no single data set."""
        return None

    @property
    def _datasets(self) -> list[str]:
        return list(dict.fromkeys(arm.changes[DATASET] for arm in self.sweep.arms))

    def _facts_of(self, name: str) -> DataFacts:
        known = self._prepared.get(name)
        return facts_by_definition(name) if known is None else DataFacts(channels=known.channels, rows=known.rows)

    def _sha256_of(self, name: str) -> str | None:
        return self._prepared[name].sha256 if name in self._prepared else None

    def _prepare_one(self, name: str, plan: Plan, data_dir: Path, storage_path: Path, quiet: bool) -> None:
        from data_pipeline.series.protocol import protocol_of

        series = prepare_data(DataConfig(dataset=name), data_dir=data_dir, storage_path=storage_path, quiet=quiet)
        data = [trial.config.data for trial in plan.trials if trial.config.data.dataset == name]
        lengths = [(each.context_length, each.prediction_length) for each in data]
        self._prepared[name] = PreparedData(
            channels=len(series.columns),
            sha256=series.source_sha256,
            rows=SplitRows.of(series),
            protocol=protocol_of(series, lengths),
        )


def _located(name: str, data_dir: Path) -> None:
    """Raises MissingFile for a data set that a sweep would have to download."""
    from data_pipeline.series.store import locate

    spec = get_dataset(name)
    if not ((data_dir / f"{spec.file}.xz").exists() and os.access(data_dir, os.W_OK)):  # else a sweep unpacks it
        locate(spec, data_dir)


def _where(name: str, data_dir: Path) -> str:
    """What to do for a data set whose file is not there: put weather.csv into data, from https://..."""
    spec = get_dataset(name)
    packed = data_dir / f"{spec.file}.xz"
    if packed.exists():
        return f"unpack {packed}: xz -dk {packed}"
    source = f", from {browser_link(spec.urls[0])}" if spec.urls else ""
    return f"put {spec.file} into {data_dir}{source}"


def planner_of(request: Request) -> Planner:
    """The planner of a checked command line."""
    return TablePlanner.of(request) if request.sweep.table else Planner.of(request)
