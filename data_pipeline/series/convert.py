"""Turns a source into one Arrow file: streamed, checked, standardised, complete or not there at all.

Stages, each in a module of its own: read (table.py, long.py), lay out without gaps (layout.py, layout_groups.py), scale
(scaling.py), look for doubtful values (doubtful.py), write (arrow_file.py).
"""

from __future__ import annotations

import glob
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets import DatasetSpec, published_note
from data_pipeline.errors import NO_SPACE, DataError
from data_pipeline.series import published
from data_pipeline.series.arrow_file import write_file
from data_pipeline.series.doubtful import doubtful_notes
from data_pipeline.series.fill import max_gap
from data_pipeline.series.groups import Group, few
from data_pipeline.series.layout import Layout, Placed, lay_out
from data_pipeline.series.layout_groups import lay_out_groups
from data_pipeline.series.long import column_name, read_long
from data_pipeline.series.scaling import scale, train_statistics
from data_pipeline.series.table import Table, read_wide
from data_pipeline.series.windows import SPLITS
from data_pipeline.source.generated import GeneratedSource
from data_pipeline.source.joined import JoinedSource
from data_pipeline.source.readers import open_source
from data_pipeline.source.rows import RowSource

SCHEMA_VERSION = 6
log = logging.getLogger(__name__)


def convert(spec: DatasetSpec, source_path: Path | None, stamp: str | None, target: Path) -> None:
    """Write the series of `spec` to `target` by an atomic rename.

    `stamp` describes the state of the source file (None: its time stamps tell nothing) and is stored in the new file.
    Raises DataError for wrong content, a folder that cannot be written, or a full disk; nothing is left behind then.
    The caller holds the lock of `target`, so folders that a killed process left are removed.
    """
    folder = None
    try:
        for abandoned in target.parent.glob(f".{glob.escape(target.stem)}-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.stem}-", dir=target.parent))
        _convert_in(folder, spec, source_path, stamp, target)
    except OSError as error:
        raise unwritable(target.parent, error) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def unwritable(folder: Path, error: OSError) -> DataError:
    """The error for a cache folder that refuses a file."""
    if error.errno in NO_SPACE:
        return DataError(f"{folder}: no space left for the converted series ({error.strerror}): free some, or choose "
                         "another cache folder")  # fmt: skip
    return DataError(f"{folder}: the converted series cannot be written ({error}): choose a cache folder that you own")


def split_as_json(spec: DatasetSpec) -> dict[str, Any]:
    """The split rule as JSON gives it back, to compare with a file's."""
    return dict(json.loads(json.dumps(asdict(spec.split))))


def _convert_in(folder: Path, spec: DatasetSpec, source_path: Path | None, stamp: str | None, target: Path) -> None:
    label = spec.name if source_path is None else str(source_path)
    max_gap(spec.options)
    source: RowSource = _open(spec, source_path)
    published.check_columns(spec, label, source.columns)
    with ExitStack() as opened:
        table = _read(source, label, folder, opened, spec)
        place = lay_out if len(table.parts) == 1 else lay_out_groups
        layout = place(spec, label, table, folder, opened)
        published.check_rows(spec, label, layout.scratch.rows)
        constant: list[str] = []
        groups = [_scale(label, layout, placed, constant) for placed in layout.placed]
        sha256 = source.sha256()
        published.check_pin(spec, label, sha256)
        notes = list(_notes(spec, source, sha256, table, layout, constant))
        notes += doubtful_notes(label, layout, groups, table.axis.clock)
        metadata = {
            "schema_version": SCHEMA_VERSION,
            "name": spec.name,
            "source": label,
            "source_sha256": sha256,
            "source_stamp": stamp,
            "columns": list(table.columns),
            "step": layout.step.as_json(),
            "split": split_as_json(spec),
            "zone": table.axis.clock,
            "timed": source.timestamp_column is not None,
            "reading": source.reading,
            "apart": [split for split, apart in zip(SPLITS[1:], table.axis.apart, strict=False) if apart],
            "groups": [group.as_json() for group in groups],
            "notes": notes,
        }
        partial = folder / "series.arrow"
        write_file(partial, layout.scratch, metadata)
        os.replace(partial, target)
    for note in notes:
        log.info("%s: %s", label, note)


def _open(spec: DatasetSpec, source_path: Path | None) -> RowSource:
    if source_path is None:
        return GeneratedSource(spec)
    if spec.split.files is None:
        return open_source(source_path, spec.options)
    return JoinedSource(source_files(spec, source_path), spec.options)


def source_files(spec: DatasetSpec, source_path: Path) -> list[Path]:
    """The files that the series of `spec` is made from: its own, and those of its split."""
    return [source_path, *(Path(file) for file in spec.split.files or ())]


def _read(source: RowSource, label: str, folder: Path, opened: ExitStack, spec: DatasetSpec) -> Table:
    chunks = source.chunks()
    first = next(chunks, None)
    if first is None:
        source.faults.raise_if_any()
        raise DataError(f"{label}: a header and no data rows: give the complete file")
    chunks = itertools.chain([first], chunks)
    if first.ids is not None:
        return read_long(chunks, source, label, folder, opened, spec.options)
    keep_repeats = spec.repeated_rows == "kept"
    return read_wide(chunks, source, label, folder, opened, spec.options, keep_repeats=keep_repeats)


def _scale(label: str, layout: Layout, placed: Placed, constant: list[str]) -> Group:
    """Append the standardised rows of one series, those before it being there. Adds to `constant` the columns that are.

    Raises DataError for values that 32 bits do not hold.
    """
    start, stop = placed.bounds["train"]
    mean, std = train_statistics(layout.scratch, start, stop)
    part = placed.part
    columns = part.rows.columns
    of = label if part.id is None else f"{label}: series {part.id!r}"
    part.rounding.check(part.rows, of, std, placed.train_rows_read)
    still = [name for name, deviation in zip(columns, std, strict=True) if deviation == 0]
    constant += still if part.id is None else [column_name(part.id, name, columns) for name in still]
    std = np.where(std == 0, 1.0, std)
    for block in layout.scratch.values(*placed.rows):
        layout.scratch.append_scaled(scale(of, columns, block, mean, std))
    return Group(id=part.id, rows=placed.rows, bounds=placed.bounds, mean=mean, std=std)


def _notes(
    spec: DatasetSpec, source: RowSource, sha256: str, table: Table, layout: Layout, constant: Sequence[str]
) -> Iterator[str]:
    """What is unusual in the source and kept."""
    yield from (*spec.notes, *source.notes)
    if note := published_note(spec, sha256) or published.other_content(spec, sha256):
        yield note
    yield from table.notes
    yield from layout.notes
    if constant:
        yield f"constant over the training rows, centred but not scaled: {few(constant)}"
    if table.axis.note is not None:
        yield table.axis.note
    for split, apart in zip(SPLITS[1:], table.axis.apart, strict=False):
        if apart:
            yield f"the file of {split} does not begin where the one before ends: its first windows lie within it"
    if source.zone is not None:
        yield "times are kept in UTC" + ("" if table.axis.clock == "UTC" else f" and shown in {table.axis.clock}")
