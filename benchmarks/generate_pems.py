"""Generates station files in the layout of the Caltrans PeMS Data Clearinghouse, to try an import without an account.

    python benchmarks/generate_pems.py FOLDER --stations 1000 --start 2019-03-01 --days 31
    python benchmarks/generate_pems.py FOLDER --kind hour --start 2019-01-01 --days 365

The values are invented: a daily curve with noise. One station in nine is a ramp, which has a flow only. Stations fall
silent for minutes, hours or days; then their lines are there with empty values, or are not there at all. Local times
follow the clocks of California. With `--kind hour`, whole months are written.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import io
import sys
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

PACIFIC = ZoneInfo("America/Los_Angeles")
LANES = 8
TYPES = ("ML", "ML", "ML", "HV", "ML", "OR", "ML", "FF", "ML")
RAMPS = ("OR", "FR")
DELAYS = 6


def _tenths(count: int) -> pa.Array:
    """Texts of 0, 0.1, 0.2, ... as PeMS writes them: no leading zero, no trailing one."""
    return pa.array([f"{number / 10:g}".replace("0.", ".", 1) if number % 10 else str(number // 10)
                     for number in range(count)])  # fmt: skip


def _ten_thousandths() -> pa.Array:
    return pa.array(["0", *((f"{number / 10_000:.4f}".rstrip("0").removeprefix("0")) for number in range(1, 10_000))])


TENTHS, SHARES, NUMBERS = _tenths(1000), _ten_thousandths(), pa.array([str(number) for number in range(200_000)])


class Stations:
    """What stays the same of every station between files."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.ids = 300_000 + np.cumsum(rng.integers(1, 40, count))
        self.lanes = rng.integers(1, 7, count)
        self.kinds = np.array([TYPES[at % len(TYPES)] for at in range(count)])
        self.ramps = np.isin(self.kinds, RAMPS)
        self.lanes[self.ramps] = 1
        self.freeways = rng.choice([5, 50, 80, 99], count)
        self.directions = np.where(self.freeways % 2, "N", "E")
        self.lengths = rng.integers(2, 999, count)
        self.level = rng.uniform(30, 160, count)  # vehicles per lane and 5 minutes at the peak
        self.observed = rng.choice([100, 100, 75, 50, 0], count, p=[0.5, 0.2, 0.15, 0.1, 0.05])


def generate(
    folder: Path,
    *,
    stations: int,
    start: datetime.date,
    days: int,
    kind: str = "5min",
    district: int = 3,
    seed: int = 1,
) -> list[Path]:
    """Write the files of `days` local days from `start` (whole months for "hour"). Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    known, paths = Stations(stations, seed), []
    day, stop = start.replace(day=1) if kind == "hour" else start, start + datetime.timedelta(days=days)
    while day < stop:
        if kind == "hour":
            end, name = (day + datetime.timedelta(days=32)).replace(day=1), f"{day:%Y_%m}"
        else:
            end, name = day + datetime.timedelta(days=1), f"{day:%Y_%m_%d}"
        path = folder / f"d{district:02d}_text_station_{kind}_{name}.txt.gz"
        rng = np.random.default_rng([seed, day.toordinal()])
        with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0) as file:
            file.write(text_of(known, day, end, kind, district, rng))
        paths.append(path)
        day = end
    return paths


def text_of(
    known: Stations, start: datetime.date, stop: datetime.date, kind: str, district: int, rng: np.random.Generator
) -> bytes:
    """The lines of the local days [start, stop), ordered by time, then station."""
    step_s = 300 if kind == "5min" else 3600
    first_s, stop_s = (datetime.datetime.combine(day, datetime.time(), PACIFIC).timestamp() for day in (start, stop))
    local = [datetime.datetime.fromtimestamp(at, PACIFIC) for at in np.arange(first_s, stop_s, step_s)]
    rows, count = len(local), len(known.ids)
    there, silent = _silence(rows, count, rng)
    row, station = np.nonzero(there)
    hours = np.array([time.hour + time.minute / 60 for time in local])
    curve = 0.15 + 0.5 * np.exp(-(((hours - 8) / 2) ** 2)) + 0.6 * np.exp(-(((hours - 17) / 3) ** 2))
    lanes = known.lanes[station]
    lane_flow = curve[row] * known.level[station] * (step_s / 300) * rng.uniform(0.8, 1.2, len(row))
    flow = np.rint(lane_flow * lanes).astype(np.int64)
    occupancy = np.clip(np.rint(12 * lane_flow / (step_s / 300)), 1, 9_999).astype(np.int64)
    speed = np.clip(720 - occupancy // 12 + rng.integers(-40, 40, len(row)), 30, 999)
    empty, ramp = silent[row, station], known.ramps[station]
    observed = np.where(empty, 0, known.observed[station])
    times = pa.array([f"{time:%m/%d/%Y %H:%M:%S}" for time in local])
    columns = [
        times.take(pa.array(row)), _numbers(known.ids[station]), _numbers(np.full(len(row), district)),
        _numbers(known.freeways[station]), pa.array(known.directions).take(pa.array(station)),
        pa.array(known.kinds).take(pa.array(station)), _text(SHARES, known.lengths[station] * 10),
        _numbers(lanes * (10 if kind == "5min" else 118), empty), _numbers(observed), _numbers(flow, empty),
        _text(SHARES, occupancy, empty | ramp), _text(TENTHS, speed, empty | ramp),
    ]  # fmt: skip
    if kind == "hour":
        columns += [_numbers(np.zeros(len(row), np.int64), empty | ramp)] * DELAYS
    for lane in range(LANES):
        none = empty | (lanes <= lane)
        no_speed = none | ramp
        share = np.maximum(0, flow // np.maximum(lanes, 1) + rng.integers(-3, 4, len(row)))
        of_lane = [
            _numbers(share, none),
            _text(SHARES, np.clip(occupancy + rng.integers(-9, 10, len(row)), 0, 9_999), no_speed),
            _text(TENTHS, np.clip(speed + rng.integers(-9, 10, len(row)), 0, 999), no_speed),
        ]
        if kind == "5min":
            of_lane = [_numbers(np.full(len(row), 10), none), *of_lane, _numbers((observed > 0).astype(np.int64), none)]
        columns += of_lane
    sink = io.BytesIO()
    options = pa_csv.WriteOptions(include_header=False, quoting_style="none")
    pa_csv.write_csv(pa.table(columns, names=[str(at) for at in range(len(columns))]), sink, options)
    return sink.getvalue()


def _silence(rows: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which lines are there [rows, count], and which of these have no values."""
    there, silent = np.ones((rows, count), bool), np.zeros((rows, count), bool)
    for array, often, longest in ((silent, 0.3, 4), (there, 0.1, 3), (silent, 0.03, 60), (there, 0.01, rows)):
        for station in np.flatnonzero(rng.random(count) < often):
            begin = int(rng.integers(rows))
            array[begin : begin + int(rng.integers(1, longest + 1)), station] = array is silent
    return there, silent


def _numbers(values: np.ndarray, empty: np.ndarray | None = None) -> pa.Array:
    return _text(NUMBERS, values, empty) if values.max(initial=0) < len(NUMBERS) else pa.array(values).cast(pa.string())


def _text(table: pa.Array, values: np.ndarray, empty: np.ndarray | None = None) -> pa.Array:
    return table.take(pa.array(values, pa.int64(), mask=empty))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stations", type=int, default=100)
    parser.add_argument("--start", type=datetime.date.fromisoformat, default=datetime.date(2019, 3, 1))
    parser.add_argument("--days", type=int, default=31)
    parser.add_argument("--kind", choices=("5min", "hour"), default="5min")
    parser.add_argument("--district", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = vars(parser.parse_args())
    paths = generate(**options)
    size = sum(path.stat().st_size for path in paths)
    print(f"{len(paths)} files, {size / 1e6:.1f} MB, in {options['folder']}", file=sys.stderr)


if __name__ == "__main__":
    main()
