"""The data sets with a name, and the spec of a user's own file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import DataError, nearest
from data_pipeline.options import DEFAULTS, DataOptions
from data_pipeline.split_rule import SplitRule, parse_split, with_absolute_files

if TYPE_CHECKING:
    import numpy as np

FILE_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")
"""In any case, such as .CSV."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One multivariate series: where it comes from and how to read it."""

    name: str
    file: str
    """File name inside the data folder, or the user's path."""
    split: SplitRule
    step_minutes: float | None = None
    """Minutes between rows; None: read from the file."""
    columns: tuple[str, ...] | None = None
    """Value columns in order, without the timestamp; None: read from the file."""
    options: DataOptions = DEFAULTS
    """How the file is read."""
    urls: tuple[str, ...] = ()
    """Tried in order; `hf://datasets/OWNER/NAME/FILE` is a file on the Hugging Face hub."""
    sha256: str | None = None
    """Of the uncompressed CSV; None: recorded at the first download, or a user's own file."""
    rows: int | None = None
    """Data rows of the published file; None: unknown, or guaranteed by `sha256`."""
    first_timestamp: str | None = None
    """Of row 0, for a source that has values only."""
    citation: str = ""
    generate: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    """Makes (timestamps [T] datetime64, values [T, C] float32) instead of reading a file."""
    version: str = ""
    """Version of the generator; part of the source hash."""


def _demo() -> tuple[np.ndarray, np.ndarray]:
    from data_pipeline.demo import generate

    return generate()


# Zhou et al., Informer, AAAI 2021: 12/4/4 months; hourly and quarter-hourly
ETT_SPLIT = SplitRule(unit="months", parts=(12, 4, 4))
# Wu et al., Autoformer, NeurIPS 2021: every data set but ETT
FRACTION_SPLIT = SplitRule(unit="fraction", parts=(0.7, 0.1, 0.2))
ETT_COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
ETT_CITATION = "Zhou et al., Informer, AAAI 2021; ETDataset, CC BY-ND 4.0"


def _ett(name: str, step_minutes: int, sha256: str) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        file=f"{name}.csv",
        split=ETT_SPLIT,
        step_minutes=step_minutes,
        columns=ETT_COLUMNS,
        options=DataOptions(timestamp_column="date"),
        urls=(f"https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/{name}.csv",),
        sha256=sha256,
        citation=ETT_CITATION,
    )


DATASETS: dict[str, DatasetSpec] = {
    "demo": DatasetSpec(
        name="demo",
        file="demo",
        split=FRACTION_SPLIT,
        step_minutes=60,
        columns=ETT_COLUMNS,
        citation="generated, not measured",
        generate=_demo,
        version="2",
    ),
    "ETTh1": _ett("ETTh1", 60, "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066"),
    "ETTh2": _ett("ETTh2", 60, "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b"),
    "ETTm1": _ett("ETTm1", 15, "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e"),
    "ETTm2": _ett("ETTm2", 15, "db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd"),
    "traffic": DatasetSpec(
        name="traffic",
        file="traffic.csv",
        split=FRACTION_SPLIT,
        step_minutes=60,
        columns=(*(str(sensor) for sensor in range(861)), "OT"),
        options=DataOptions(timestamp_column="date"),
        urls=(
            "hf://datasets/thuml/Time-Series-Library/traffic/traffic.csv",
            "https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/master/traffic/traffic.txt.gz",
        ),
        rows=17_544,  # the hours of 2015 and 2016, as in Lai et al., table 1
        first_timestamp="2016-07-01T02:00:00",  # as in THUML's file; the measurements date from 2015 and 2016
        citation="Caltrans PeMS road occupancy, as in Lai et al., LSTNet, SIGIR 2018",
    ),
}


def is_path(name: str) -> bool:
    """Whether `name` is the path of a file of a known kind, or of a folder, and no data set."""
    return (
        bool(name)
        and name not in DATASETS
        and (name.lower().endswith(FILE_ENDINGS) or Path(name).expanduser().is_dir())
    )


def get_dataset(name: str, options: DataOptions = DEFAULTS) -> DatasetSpec:
    """The spec of a named data set, or of the file or the folder of Parquet files `name`, read as `options` say.

    Raises DataError, with the nearest name, if `name` is neither, and for options of a named data set.
    """
    if name in DATASETS:
        spec = DATASETS[name]
        wrong = [option for option, value in options.given().items() if value != getattr(spec.options, option)]
        if wrong:
            raise DataError(
                f"data.{wrong[0]}={getattr(options, wrong[0])!r} can only be given for a file, not for {name}, which "
                "is read as published: leave it out, or give the file by its path"
            )
        return spec
    if is_path(name):
        path = str(Path(name).expanduser().absolute())
        split = FRACTION_SPLIT
        if options.split is not None:
            options = replace(options, split=with_absolute_files(options.split, Path()))
            split = parse_split(options.split or "")
        return DatasetSpec(name=name, file=path, split=split, options=options)
    raise DataError(
        f"unknown data set {name!r}: give one of {', '.join(DATASETS)}, or the path of a file ending in "
        f"{', '.join(FILE_ENDINGS)}, or of a folder of Parquet files{nearest(name, DATASETS)}"
    )
