"""SweepConfig + the user's choices + the device's facts -> a plan: every trial with its final configuration.

Planning-safe. An arm that cannot run stays in the plan with the reason; it never becomes another arm. Of two arms with
the same computation both stay, and the later one says so.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.datasets import DATASETS, get_dataset
from data_pipeline.errors import DataError
from data_pipeline.feed import FEEDS
from data_pipeline.feed.placement import Placement
from model.presets import PRESETS
from model.pruning import SCORES
from model.pruning.schedules import SCHEDULES
from tune.common.address import redacted, settled_uri
from tune.common.errors import WrongInput, unknown_name
from tune.config.names import ATTENTION, NAMED, check_name
from tune.config.repeats import AUTO, Repeats, most_blocks
from tune.config.sweeps import Arm, SweepConfig
from tune.config.trial_config import DataConfig, TrialConfig, build_trial, check_field, data_options
from tune.machine.device import DeviceFacts
from tune.plan import batch
from tune.plan.data import UNREAD, DataFacts, facts_by_definition, file_fields
from tune.plan.equal_arms import settled_fields
from tune.plan.memory import peak_gib
from tune.plan.placement import USUAL
from tune.plan.support import resolve_auto_names, unsupported_reason

MOST_TRIALS = 20_000  # of one sweep


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """One trial of the plan."""

    trial_id: str  # unique in the sweep
    arm: str
    seed: int
    config: TrialConfig
    unsupported: str | None  # why it cannot run on the planned device; None if it can
    same_as: str | None = None  # an earlier arm with the same computation: its heads leave at the same epochs
    train_windows: int | None = None  # None: not known yet
    memory_gib: float | None = None  # at the peak of a training step, estimated; None: not known
    batch_named: bool = True  # whether the user, the sweep or a preset names the batch size; else it is the default

    @property
    def run_name(self) -> str:
        """The name in MLflow. The arm comes first, as MLflow's list shows some dozen letters of a child's name."""
        return f"{self.arm}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All trials of a sweep in the order in which they run."""

    sweep: SweepConfig
    trials: tuple[PlannedTrial, ...]
    repeats: Repeats  # as asked
    device: DeviceFacts
    data: DataFacts = UNREAD
    placement: Placement | None = None  # why all arms have the feed that they have; None: it was named

    @property
    def runnable(self) -> tuple[PlannedTrial, ...]:
        return tuple(trial for trial in self.trials if trial.unsupported is None)

    def data_of(self, trial: PlannedTrial) -> DataFacts:
        """What is known of the trial's data."""
        return self.data

    def why_not(self, trial: PlannedTrial) -> str | None:
        """Why the trial does not run here now; None if it does."""
        return trial.unsupported

    @property
    def blocks(self) -> int:
        """The blocks of the plan. With `auto` these are the most: looks may end the sweep earlier."""
        return most_blocks(self.repeats)

    def block(self, trial: PlannedTrial) -> int:
        """The number of the trial's block, from 0, in the order of the seeds."""
        return trial.seed - self._first_seed

    @functools.cached_property
    def _first_seed(self) -> int:
        return min(trial.seed for trial in self.runnable or self.trials)

    @property
    def in_blocks(self) -> bool:
        """Whether the trials of a seed must run on one GPU, to make pairs.

        A single block gives no verdict and would use one GPU only, so its trials are spread.
        """
        return self.blocks > 1 and len({trial.arm for trial in self.runnable}) > 1

    def key(self, *, data_sha256: str, tracking_uri: str, paths: Mapping[str, str] | None = None) -> str:
        """Identity for resuming: the same effective configurations on the same data, device model and store.

        The store counts without its credentials, as a new password does not make it another one.

        paths: other paths of the data files, by `file_fields`: for the key of this command where they lie there.
        """
        content = [
            self.sweep.name,
            data_sha256,
            redacted(settled_uri(tracking_uri)),
            self.device.name,
            [
                (trial.trial_id, trial.unsupported is None, self._identity(trial.config, paths or {}))
                for trial in self.trials
            ],
            *([AUTO] if self.repeats == AUTO else []),  # the trials are those of as many blocks
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _identity(self, config: TrialConfig, paths: Mapping[str, str]) -> dict[str, Any]:
        """What two configurations must share to be the same one. A feed that was chosen by what is free does not count:
        a sweep goes on with the one that it began with."""
        values = config.identity()
        moved = {name: path for name, path in paths.items() if name in file_fields(config.data)}
        feed = {} if self.placement is None else {"feed": USUAL}
        return values | {"data": {**values["data"], **moved, **feed}}


def make_plan(
    sweep: SweepConfig,
    *,
    overrides: Mapping[str, Any],
    repeats: Repeats,
    seed: int,
    device: DeviceFacts,
    data: DataFacts = UNREAD,
) -> Plan:
    """Plan `repeats` blocks (one seed each, from `seed` up), with `auto` the most that may run.

    Inside a block the arms are in random order.

    data: what is known of the data; the definition of a named data set adds to it. What is unknown is checked when the
        data are read, and by the trial.

    Raises WrongInput for an unknown field, a value that does not fit, a field both swept and given by hand, seeds out
    of range, and more than MOST_TRIALS trials.
    """
    check_request(sweep, overrides, repeats, seed)
    data = settled_data(sweep, overrides, device, data)
    trials: list[PlannedTrial] = []
    for block_seed in range(seed, seed + most_blocks(repeats)):
        block = _mark_same(_plan_block(sweep, overrides, block_seed, device, data))
        random.Random(f"{sweep.name} {block_seed}").shuffle(block)
        trials.extend(block)
    return Plan(sweep=sweep, trials=tuple(trials), repeats=repeats, device=device, data=data)


def check_request(sweep: SweepConfig, overrides: Mapping[str, Any], repeats: Repeats, seed: int) -> None:
    """Raises WrongInput for an unknown field, one both swept and given by hand, too many trials, and seeds."""
    _check_size(len(sweep.arms), repeats, seed)
    for name in overrides:
        if check_field(name) in sweep.swept | {"train.seed"}:
            owner = "--seed and --repeats" if name == "train.seed" else f"the {sweep.name} sweep"
            raise WrongInput(f"{name} is given by hand, but {owner} sets it; leave one of the two out")


def settled_data(
    sweep: SweepConfig, overrides: Mapping[str, Any], device: DeviceFacts, data: DataFacts = UNREAD
) -> DataFacts:
    """`data` with what the definition of a named data set adds, and with the default batch of the arms."""
    given = {**sweep.shared, **overrides}
    dataset, options = given.get("data.dataset", DataConfig().dataset), data_options(given)
    if isinstance(dataset, str) and dataset in DATASETS and options is not None:
        known = facts_by_definition(dataset, options)
        data = replace(data, channels=data.channels or known.channels, rows=data.rows or known.rows)
    if data.default_batch is None:
        data = replace(data, default_batch=batch.shared_default(_fields_of_arms(sweep, overrides, device), data))
    return data


def _fields_of_arms(sweep: SweepConfig, overrides: Mapping[str, Any], device: DeviceFacts) -> Iterator[dict[str, Any]]:
    for changes in batch.deciding_changes(sweep):
        with suppress(WrongInput):  # the plan refuses it in its own words
            yield _with_defaults({**sweep.shared, **overrides, **changes}, device)


def _plan_block(
    sweep: SweepConfig, overrides: Mapping[str, Any], seed: int, device: DeviceFacts, data: DataFacts
) -> list[PlannedTrial]:
    planned, wrong = [], []
    for arm in sweep.arms:
        try:
            planned.append(plan_trial(sweep, arm, overrides, seed, device, data))
        except WrongInput as error:
            wrong.append((arm, error))
    if not wrong:
        return _in_equal_layers(planned, sweep, overrides, seed, device, data)
    arm, first = wrong[0]
    if not planned or len(arm.changes) < 2:
        raise first
    raise WrongInput(
        f"{first} (the arm {arm.label}: {len(wrong)} of {len(sweep.arms)} combinations are no valid "
        "configuration; run the others as sweeps of their own)"
    )


def _in_equal_layers(
    planned: list[PlannedTrial],
    sweep: SweepConfig,
    overrides: Mapping[str, Any],
    seed: int,
    device: DeviceFacts,
    data: DataFacts,
) -> list[PlannedTrial]:
    """The block again, with what `equal_arms` gives all arms."""
    while settled := settled_fields((each.config for each in planned if each.unsupported is None), sweep, overrides):
        overrides = {**overrides, **settled}
        planned = [plan_trial(sweep, arm, overrides, seed, device, data) for arm in sweep.arms]
    return planned


def _check_size(arms: int, repeats: Repeats, seed: int) -> None:
    blocks = most_blocks(repeats)
    if seed < 0 or seed + blocks > 2**31:
        raise WrongInput(f"--seed {seed} with --repeats {repeats}: seeds go from 0 to {2**31 - 1}")
    if arms * blocks > MOST_TRIALS:
        most = "up to " if repeats == AUTO else ""
        raise WrongInput(
            f"{most}{arms * blocks:,} trials ({arms} arms, --repeats {repeats}): a sweep has at most {MOST_TRIALS:,}; "
            "give fewer repeats or arms"
        )


def _mark_same(block: Sequence[PlannedTrial]) -> list[PlannedTrial]:
    """The trials of one seed; a trial that computes the same as an earlier one names that arm in `same_as`."""
    arms: dict[tuple[Any, ...], str] = {}
    marked = []
    for trial in block:
        first = arms.setdefault(computation(trial.config), trial.arm)
        marked.append(trial if first == trial.arm else replace(trial, same_as=first))
    return marked


def computation(config: TrialConfig) -> tuple[Any, ...]:
    """What decides a result. Of a pruning schedule that is only how many heads leave before which epoch."""
    pruning = config.pruning
    scheduled = pruning.score in SCORES  # none and static have no schedule
    removed = SCHEDULES[pruning.schedule](pruning.heads_per_layer, config.train.epochs) if scheduled else ()
    return config.data, config.model, config.train, pruning.model_copy(update={"schedule": ""}), removed


def plan_trial(
    sweep: SweepConfig,
    arm: Arm,
    overrides: Mapping[str, Any],
    seed: int,
    device: DeviceFacts,
    data: DataFacts,
) -> PlannedTrial:
    """One trial of `arm`. Its fields win over the user's, those over the sweep's. WrongInput for a wrong value.

    data: as `settled_data` gives it.
    """
    given = {**sweep.shared, **overrides, **arm.changes, "train.seed": seed}
    fields = _with_defaults(given, device)
    batch_named = batch.FIELD in fields
    if not batch_named and data.default_batch is not None:
        fields[batch.FIELD] = data.default_batch
    config = build_trial(fields)
    _check_names(config)
    channels, rows = data.channels or 0, None if data.rows is None else data.rows.total
    config = resolve_auto_names(config, device, channels, rows)
    windows, no_window = _train_windows(config, data)
    return PlannedTrial(
        trial_id=f"{sweep.name}-{arm.label}-s{seed}",
        arm=arm.label,
        seed=seed,
        config=config,
        unsupported=no_window or unsupported_reason(config, device, channels, windows, rows),
        train_windows=windows,
        memory_gib=peak_gib(config, device, channels, rows),
        batch_named=batch_named,
    )


def _train_windows(config: TrialConfig, data: DataFacts) -> tuple[int | None, str | None]:
    """The number of training windows, None if it is not known; and why a split holds none, else None."""
    try:
        return data.train_windows(config.data.context_length, config.data.prediction_length), None
    except DataError as error:
        return 0, str(error)


def _with_defaults(given: Mapping[str, Any], device: DeviceFacts) -> dict[str, Any]:
    """The device's defaults, replaced by the preset's fields, replaced by the given ones."""
    on_gpu = device.device_type == "cuda"
    preset = given.get("model.preset", "study" if on_gpu else "tiny")
    if not isinstance(preset, str) or preset not in PRESETS:  # a list cannot even be looked up
        raise unknown_name("preset", str(preset), PRESETS)
    fields = PRESETS[preset] | {
        "model.preset": preset,
        "train.precision": "bf16" if on_gpu else "fp32",
        "train.engine": "graph" if on_gpu else "eager",
    }
    if "model.patch_length" in given:  # a preset's stride is for its own patch length
        fields.pop("model.patch_stride", None)
    fields |= given
    fields.setdefault("model.patch_stride", fields["model.patch_length"])
    return fields


def _check_names(config: TrialConfig) -> None:
    get_dataset(config.data.dataset, config.data.options)
    check_name("data.feed", config.data.feed)
    if config.data.num_workers and not FEEDS[config.data.feed].takes_workers:
        raise WrongInput(
            f"data.num_workers={config.data.num_workers}: the {config.data.feed} feed has no workers; use "
            "data.feed=arrow, or 0"
        )
    values = config.flat()
    for field in (ATTENTION, *NAMED):
        check_name(field, values[field])


def plan_rows(trials: Sequence[PlannedTrial]) -> list[dict[str, Any]]:
    """The plan as plain dicts, as it is saved and shown."""
    return [
        {
            "trial_id": trial.trial_id,
            "arm": trial.arm,
            "seed": trial.seed,
            "unsupported": trial.unsupported,
            "same_as": trial.same_as,
            "train_windows": trial.train_windows,
            "memory_gib": trial.memory_gib,
            "params": trial.config.flat(),
        }
        for trial in trials
    ]
