"""A trial's raw measurements as two Arrow IPC files: the times of every training step, and its GPU's samples.

    steps.arrow    epoch, step (both from 1); start_ms since the epoch began; step_ms; gap_ms before the step, of which
                   wait_ms was waiting for data; h2d_ms waiting for a copy between the gap and the step
    device.arrow   epoch (from 1); at_ms since the epoch began, on the same clock; the fields of
                   tune.measure.gpu_sampler.DeviceSample. On a CPU there is no such file

Each file's schema metadata holds the meaning and unit of the columns and the trial's id. Files are capped: an epoch
keeps its first MOST_ROWS / (the trial's epochs) rows, but at least LEAST_ROWS. The metadata says under `left_out` how
many rows of an epoch are missing; the epoch's metrics count all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tune.measure.gpu_sampler import DeviceSample
from tune.measure.timer import EpochTimes

STEPS, DEVICE = "steps.arrow", "device.arrow"  # file names
MOST_ROWS = 262_144  # of a trial's file; some 6 MB before compression
LEAST_ROWS = 64  # of an epoch
_STEP_TIMES = ("start_ms", "step_ms", "gap_ms", "wait_ms", "h2d_ms")
_UNITS = {
    STEPS: {
        "epoch": "from 1",
        "step": "of the epoch, from 1",
        "start_ms": "start of the step since the epoch began",
        "step_ms": "first to last kernel of the step; on a CPU its time on the host",
        "gap_ms": "from the end of the step before, or from the epoch's beginning, to this step or its wait for a copy",
        "wait_ms": "of the gap: waiting for data",
        "h2d_ms": "waiting for a copy to the device, between gap and step",
    },
    DEVICE: {
        "epoch": "from 1",
        "at_ms": "since the epoch began, by the host's clock",
        "sm_clock_mhz": "MHz",
        "memory_clock_mhz": "MHz",
        "throttle_reasons": "bits of nvmlDeviceGetCurrentClocksThrottleReasons",
        "power_w": "W, of the board",
        "utilisation_pct": "share of the driver's last period in which any kernel ran",
        "temperature_c": "degrees Celsius",
    },
}
_SCHEMAS = {
    STEPS: pa.schema(
        [
            ("epoch", pa.int32()),
            ("step", pa.int32()),
            ("start_ms", pa.float64()),  # a GPU's events give float32: 0.03 ms after five minutes
            *((name, pa.float32()) for name in _STEP_TIMES[1:]),
        ]
    ),
    DEVICE: pa.schema(
        [
            ("epoch", pa.int32()),
            ("at_ms", pa.float64()),
            ("sm_clock_mhz", pa.int32()),
            ("memory_clock_mhz", pa.int32()),
            ("throttle_reasons", pa.int64()),
            ("power_w", pa.float32()),
            ("utilisation_pct", pa.int32()),
            ("temperature_c", pa.int32()),
        ]
    ),
}


class RawSamples:
    """One trial's raw measurements so far. `epochs`: planned; they share the files' rows."""

    def __init__(self, trial_id: str, *, epochs: int) -> None:
        self._trial_id = trial_id
        self._room = max(LEAST_ROWS, MOST_ROWS // max(1, epochs))
        self._tables: dict[str, list[pa.Table]] = {STEPS: [], DEVICE: []}
        self._left_out: dict[str, dict[str, int]] = {STEPS: {}, DEVICE: {}}  # file -> epoch -> rows

    def add_epoch(self, epoch: int, times: EpochTimes, device: Sequence[DeviceSample]) -> None:
        """Add an epoch (from 1); `device`: the samples taken during it."""
        steps = {name: getattr(times, name) for name in _STEP_TIMES}
        self._add(STEPS, epoch, {"step": range(1, len(times.step_ms) + 1), **steps})
        if device:
            columns = {name: [getattr(sample, name) for sample in device] for name in _SCHEMAS[DEVICE].names[2:]}
            self._add(DEVICE, epoch, {"at_ms": [1e3 * (sample.at_s - times.began_s) for sample in device], **columns})

    def _add(self, name: str, epoch: int, columns: Mapping[str, Sequence[Any]]) -> None:
        kept = {column: list(values[: self._room]) for column, values in columns.items()}
        rows = len(next(iter(kept.values())))
        self._tables[name].append(pa.table({"epoch": [epoch] * rows, **kept}, schema=_SCHEMAS[name]))
        if left_out := len(next(iter(columns.values()))) - rows:
            self._left_out[name][str(epoch)] = left_out

    def write(self, folder: Path, *, compressed: bool = True) -> None:
        """Write the files that have rows into `folder`, each atomically.

        compressed: takes three times as long for two thirds of the size. Each checkpoint holds all epochs' rows.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, tables in self._tables.items():
            if tables:
                _write(folder / name, pa.concat_tables(tables), self._metadata(name), _HOW[compressed])

    def _metadata(self, name: str) -> dict[str, str]:
        left_out = json.dumps(self._left_out[name])
        return {"trial_id": self._trial_id, "columns": json.dumps(_UNITS[name]), "left_out": left_out}

    def restore(self, folder: Path) -> None:
        """Continue from the files that `write` left in `folder`."""
        for name in (STEPS, DEVICE):
            if (folder / name).exists():
                table = read_samples(folder / name)
                self._left_out[name] = json.loads(table.schema.metadata[b"left_out"])
                self._tables[name] = [table.replace_schema_metadata(None)]


def _write(path: Path, table: pa.Table, metadata: Mapping[str, str], how: pa.ipc.IpcWriteOptions) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    described = table.replace_schema_metadata(dict(metadata))
    try:
        with pa.ipc.new_file(str(temporary), described.schema, options=how) as writer:
            writer.write_table(described.combine_chunks())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_HOW = {True: pa.ipc.IpcWriteOptions(compression="zstd"), False: pa.ipc.IpcWriteOptions()}


def read_samples(path: str | os.PathLike[str]) -> pa.Table:
    """The table of a `steps.arrow` or `device.arrow`; its `schema.metadata` says what the columns mean.

    Raises OSError if the file is missing, and pyarrow's ArrowInvalid if it is not an Arrow file.
    """
    with pa.OSFile(os.fspath(path)) as source:
        return pa.ipc.open_file(source).read_all()
