"""One memory-mapped Arrow file per source: converted once per node, shared by all trials."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from data_pipeline.datasets import DatasetSpec, get_dataset
from data_pipeline.errors import DataError, MissingFile
from data_pipeline.options import DEFAULTS, DataOptions
from data_pipeline.series.arrow_file import MASK, DamagedFile, MappedFile, map_file
from data_pipeline.series.convert import SCHEMA_VERSION, convert, source_files, split_as_json, unwritable
from data_pipeline.series.groups import Group
from data_pipeline.series.steps import Step
from data_pipeline.series.windows import Bounds
from data_pipeline.source.content import parquet_files
from data_pipeline.source.generated import generator_sha256
from data_pipeline.source.joined import contents_sha256

SETTLED_S = 2.0
"""A file younger than this may change without a new time stamp, so its content is hashed instead."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """A multivariate series of T rows and C columns. The arrays are read-only views of a mapped file."""

    name: str
    columns: tuple[str, ...]
    values: np.ndarray
    """[T, C] float32, in the units of the source."""
    scaled: np.ndarray
    """[T, C] float32, (values - mean) / std of the row's group, computed in float64."""
    timestamps: np.ndarray
    """[T] datetime64[us], in UTC if the source names a zone."""
    step: Step
    """What lies between two rows."""
    groups: tuple[Group, ...]
    """The series that the rows belong to. A file in wide format is one group."""
    source_sha256: str
    """Of the uncompressed source."""
    path: Path
    """The mapped Arrow file."""
    split_rule: str = ""
    """How rows were divided, in words."""
    zone: str | None = None
    """The one that times are shown in: the source's, or that of the clock that its steps follow. None: no zone."""
    timed: bool = True
    """Whether the source has times; otherwise `timestamps` count its rows."""
    apart: tuple[str, ...] = ()
    """Splits whose windows do not reach back into the split before: they come from a file whose times do not join."""
    reading: Mapping[str, str] = field(default_factory=dict)
    """How the source was read: separator, form of times and the like, as far as it was found out."""
    notes: tuple[str, ...] = ()
    """What was unusual in the source and kept: gaps, constant columns, time zones."""
    filled: np.ndarray | None = None
    """[T, C] bool, the cells that the source lacks and that were filled; None if there are none."""

    @property
    def step_minutes(self) -> float | None:
        """Minutes between rows; None where they differ from row to row."""
        return self.step.minutes

    @property
    def mean(self) -> np.ndarray:
        """[C] float64, of the training rows. DataError where each group has its own."""
        return self._only.mean

    @property
    def std(self) -> np.ndarray:
        """[C] float64, population standard deviation of the training rows; 1 for a column that is constant there.

        DataError where each group has its own.
        """
        return self._only.std

    @property
    def bounds(self) -> Bounds:
        """Rows [start, stop) of train, validation and test. DataError where each group has its own."""
        return self._only.bounds

    @property
    def every_bounds(self) -> tuple[Bounds, ...]:
        """The bounds of each group, as `window_starts` takes them."""
        return tuple(group.bounds for group in self.groups)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Rows [start, stop) that follow each other: those of each group, or of each file that stands apart."""
        spans = []
        for group in self.groups:
            starts = [group.rows[0], *(group.bounds[split][0] for split in self.apart)]
            spans += list(zip(starts, [*starts[1:], group.rows[1]], strict=True))
        return spans

    @property
    def _only(self) -> Group:
        if len(self.groups) > 1:
            raise DataError(
                f"{self.name} holds {len(self.groups)} series of unequal lengths: give a file with one series, or one "
                "whose series have the same times"
            )
        return self.groups[0]


def locate(spec: DatasetSpec, data_dir: Path | None) -> Path | None:
    """The source file of `spec`; None for a generated series. Raises DataError if the file is missing."""
    if spec.generate is not None:
        return None
    own_file = Path(spec.file)
    if own_file.is_absolute():
        if own_file.exists():
            return own_file
        raise DataError(f"there is no file {spec.file}: give the path of a text or Parquet file, or --dataset demo")
    if data_dir is not None:
        for path in (data_dir / spec.file, data_dir / f"{spec.file}.gz"):
            if path.exists():
                return path
    where = f"in {data_dir}" if data_dir is not None else "(no data folder was given)"
    source = spec.urls[0] if spec.urls else "its source"
    raise MissingFile(
        f"there is no {spec.file} or {spec.file}.gz {where}: download it from {source} into that folder, "
        "or use --dataset demo, which needs no file"
    )


def open_series(name: str, data_dir: Path | None, cache_dir: Path, options: DataOptions = DEFAULTS) -> Series:
    """Map the series `name` (a data set, or a path). Its source is converted first, unless that is done already.

    `data_dir` holds NAME.csv or NAME.csv.gz and is only read. The Arrow file lies in `cache_dir`. The first process
    converts it under a lock; the others wait and map the same file. It is converted again if the source, the split rule
    or the schema changed, or if its checksums show damage. Raises DataError.
    """
    spec = get_dataset(name, options)
    source = locate(spec, data_dir)
    target = cache_dir / f"{cache_key(spec, source)}.arrow"
    mapped = _reuse(spec, source, target) or _convert_once(spec, source, target)
    return _series(spec, target, mapped)


def known_series(name: str, data_dir: Path | None, cache_dir: Path, options: DataOptions = DEFAULTS) -> Series | None:
    """The series as an earlier call converted it, not checked for damage; None if only a conversion would tell.

    Raises DataError for an unknown name.
    """
    spec = get_dataset(name, options)
    try:
        source = locate(spec, data_dir)
        target = cache_dir / f"{cache_key(spec, source)}.arrow"
        mapped = map_file(target, check=False)
    except (DataError, DamagedFile, OSError):
        return None
    if not _is_current(spec, mapped.metadata):
        return None
    if source is not None:
        stamp = _stamp_of(spec, source)
        if stamp is None or stamp != mapped.metadata["source_stamp"]:
            return None
    return _series(spec, target, mapped)


def _convert_once(spec: DatasetSpec, source: Path | None, target: Path) -> MappedFile:
    """Convert under the lock, unless another process converted while this one waited."""
    lock = filelock.FileLock(f"{target}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise unwritable(target.parent, error) from error
    try:
        mapped = _reuse(spec, source, target)
        if mapped is None:
            convert(spec, source, None if source is None else _stamp_of(spec, source), target)
            log.info("converted %s to %s", source or spec.name, target)
            mapped = map_file(target, check=False)
        return mapped
    finally:
        lock.release()


def cache_key(spec: DatasetSpec, source: Path | None) -> str:
    """The name of the converted file, without its ending: readable, and unique per source and options."""
    identity = "\0".join((spec.name, str(source and source.resolve()), repr(sorted(spec.options.given().items()))))
    stem = "".join(letter if letter.isprintable() else "_" for letter in Path(spec.name).name.split(".")[0]) or "series"
    return f"{stem[:60]}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


def _reuse(spec: DatasetSpec, source: Path | None, target: Path) -> MappedFile | None:
    """The converted file, or None if it is missing, damaged, or not made from the source as it is now."""
    if not target.exists():
        return None
    try:
        mapped = map_file(target, check=True)
    except (DamagedFile, OSError) as error:
        log.warning("%s is damaged (%s): converting its source again", target, error)
        return None
    if not _is_current(spec, mapped.metadata):
        log.info("%s was written for another version: converting its source again", target)
        return None
    if not _is_unchanged(spec, source, mapped.metadata):
        log.info("%s has changed: converting it again", source or spec.name)
        return None
    return mapped


def _is_current(spec: DatasetSpec, metadata: dict[str, Any]) -> bool:
    """Whether a file with this metadata has today's schema and split rule."""
    return metadata.get("schema_version") == SCHEMA_VERSION and metadata.get("split") == split_as_json(spec)


def _is_unchanged(spec: DatasetSpec, source: Path | None, metadata: dict[str, Any]) -> bool:
    """Whether the source is what a file with this metadata was made from."""
    if source is None:
        return metadata["source_sha256"] == generator_sha256(spec)
    stamp = _stamp_of(spec, source)
    if stamp is not None and stamp == metadata["source_stamp"]:
        return True
    return metadata["source_sha256"] == contents_sha256(source_files(spec, source))


def _stamp_of(spec: DatasetSpec, source: Path) -> str | None:
    stamps = [_stamp(file) for file in source_files(spec, source)]
    return None if None in stamps else "\n".join(map(str, stamps))


def _stamp(source: Path) -> str | None:
    """A text that changes with the file; None while the file is too young for its time stamps to tell."""
    if source.is_dir():
        stamps = [_stamp(file) for file in parquet_files(source)]
        return None if None in stamps else hashlib.sha256(repr(stamps).encode()).hexdigest()
    try:
        stat = os.stat(source)
    except OSError:
        return None
    if time.time() - max(stat.st_mtime, stat.st_ctime) < SETTLED_S:
        return None
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _series(spec: DatasetSpec, path: Path, mapped: MappedFile) -> Series:
    metadata, filled = mapped.metadata, mapped.arrays.get(MASK)
    return Series(
        name=spec.name,
        columns=tuple(metadata["columns"]),
        values=_read_only(mapped.arrays["values"]),
        scaled=_read_only(mapped.arrays["scaled"]),
        timestamps=_read_only(mapped.arrays["timestamp"]),
        step=Step.from_json(metadata["step"]),
        groups=_groups(metadata),
        source_sha256=metadata["source_sha256"],
        path=path,
        split_rule=spec.split.text,
        zone=metadata["zone"],
        timed=metadata["timed"],
        reading=metadata["reading"],
        apart=tuple(metadata["apart"]),
        notes=tuple(metadata["notes"]),
        filled=None if filled is None else _read_only(filled.view(bool)),
    )


def _groups(metadata: dict[str, Any]) -> tuple[Group, ...]:
    return tuple(Group.from_json(group) for group in metadata["groups"])


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
