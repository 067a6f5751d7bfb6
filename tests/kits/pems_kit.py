"""Station files for tests, and the same read by pandas, as a reference."""

from __future__ import annotations

import datetime
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pa_parquet

from benchmarks.generate_pems import generate

FIELDS = {"flow": 9, "occupancy": 10, "speed": 11}
STEP = {"5min": "5min", "hour": "1h"}


def folder_of(folder: Path, start: str, days: int, *, kind: str = "5min", stations: int = 20) -> Path:
    """A folder of generated files from the local day `start`."""
    generate(folder, stations=stations, start=datetime.date.fromisoformat(start), days=days, kind=kind)
    return folder


def lines_of(path: Path) -> list[str]:
    """The lines of a station file."""
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def write_lines(path: Path, lines: list[str]) -> None:
    """Replace the lines of a station file."""
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


def reference(folder: Path, measure: str, kind: str) -> tuple[pd.DataFrame, pd.Series]:
    """Stations side by side by UTC, not filled, and the mean "% observed" of each, by pandas."""
    names = ["time", "station", "observed", measure]
    frames = [
        pd.read_csv(path, header=None, usecols=[0, 1, 8, FIELDS[measure]], names=None).set_axis(names, axis=1)
        for path in sorted(folder.glob("*_station_*"))
    ]
    table = pd.concat(frames, ignore_index=True)
    local = pd.to_datetime(table["time"], format="%m/%d/%Y %H:%M:%S")
    # Lines are ordered by time, then station: a time or a station that goes back begins a run, and a second hour
    order = (local.ne(local.shift()) | table["station"].lt(table["station"].shift())).cumsum()
    first = order.groupby(local).transform("min")
    table["utc"] = local.dt.tz_localize("America/Los_Angeles", ambiguous=(order == first).to_numpy()).dt.tz_convert(
        "UTC"
    )
    wide = table.pivot(index="utc", columns="station", values=measure)
    axis = pd.date_range(wide.index[0], wide.index[-1], freq=STEP[kind])
    observed = table.pivot(index="utc", columns="station", values="observed").reindex(axis).fillna(0).mean()
    return wide.reindex(axis).dropna(axis=1, how="all"), observed


def filled(wide: pd.DataFrame, max_gap: int) -> pd.DataFrame:
    """`wide` with the gaps of at most `max_gap` rows between two values interpolated, by pandas."""
    done = wide.interpolate(limit_area="inside")
    for name in wide:
        empty = wide[name].isna()
        runs = (~empty).cumsum()
        done.loc[empty & (empty.groupby(runs).transform("sum") > max_gap), name] = np.nan
    return done


def read_back(out: Path) -> pd.DataFrame:
    """An imported file by UTC, with stations as whole numbers."""
    table = pa_parquet.read_table(out).to_pandas().set_index("timestamp")
    return table.set_axis(table.columns.astype(int), axis=1)
