"""The data sets with a name, and the spec of a user's own file. Adding a set is one entry of DATASETS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_pipeline.errors import DataError, nearest
from data_pipeline.options import DEFAULTS, DataOptions
from data_pipeline.split_rule import SplitRule, parse_split, with_absolute_files

if TYPE_CHECKING:
    import numpy as np

FILE_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")
"""In any case, such as .CSV."""
MATRIX_ENDINGS = (".txt", ".txt.gz")
"""Of files that may be a matrix of numbers, with neither names nor times."""
FIRST_LINE_BYTES = 1 << 20


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
    repeated_rows: Literal["left out", "kept"] = "left out"
    """What happens to a row that repeats the row before it: published counts may have it."""
    notes: tuple[str, ...] = ()
    """What was found out of a user's file when it was named."""
    citation: str = ""
    source: str = ""
    """A link to whoever measured or collected the values."""
    licence: str | None = None
    """None: unknown, or a user's own file."""
    preset: str | None = None
    """The paper's recipe for the set, a name in model/presets.py; None: the paper has none."""
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
ETT_CITATION = "load and oil temperature of electricity transformers, Zhou et al., Informer, AAAI 2021"
THUML = "hf://datasets/thuml/Time-Series-Library"  # huggingface.co/datasets/thuml/Time-Series-Library
LSTNET = "https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/master"
THUML_LICENCE = "CC BY 4.0 for THUML's collection; that of the measurements is not stated"
# Lai et al. publish values only. These times are the ones of THUML's files; the measurements are older.
LSTNET_START = "2016-07-01T02:00:00"
# The header of the published file has U+FFFD where degrees, squares and micro signs were.
WEATHER_COLUMNS = (
    "p (mbar)", "T (degC)", "Tpot (K)", "Tdew (degC)", "rh (%)", "VPmax (mbar)", "VPact (mbar)", "VPdef (mbar)",
    "sh (g/kg)", "H2OC (mmol/mol)", "rho (g/m**3)", "wv (m/s)", "max. wv (m/s)", "wd (deg)", "rain (mm)", "raining (s)",
    "SWDR (W/m\ufffd)", "PAR (\ufffdmol/m\ufffd/s)", "max. PAR (\ufffdmol/m\ufffd/s)", "Tlog (degC)", "OT",
)  # fmt: skip
ILLNESS_COLUMNS = ("% WEIGHTED ILI", "%UNWEIGHTED ILI", "AGE 0-4", "AGE 5-24", "ILITOTAL", "NUM. OF PROVIDERS", "OT")


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
        source="https://github.com/zhouhaoyi/ETDataset",
        licence="CC BY-ND 4.0",
        preset=name[:4].lower(),
    )


def _numbered(columns: int) -> tuple[str, ...]:
    """The names in THUML's files: numbers, and OT for the last one."""
    return (*(str(column) for column in range(columns - 1)), "OT")


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
    "weather": DatasetSpec(
        name="weather",
        file="weather.csv",
        split=FRACTION_SPLIT,
        step_minutes=10,
        columns=WEATHER_COLUMNS,
        options=DataOptions(timestamp_column="date"),
        urls=(f"{THUML}/weather/weather.csv",),
        sha256="34ee981d07313e51da2a50bb600072c8ae4a69cb4b0651f4cb93a069d7a2ba63",
        rows=52_696,
        repeated_rows="kept",  # 2020-05-12 06:00
        citation="weather station of the Max Planck Institute for Biogeochemistry, Jena, 2020, as in Wu et al., "
        "Autoformer, NeurIPS 2021",
        source="https://www.bgc-jena.mpg.de/wetter/",
        licence=THUML_LICENCE,
        preset="weather",
    ),
    "electricity": DatasetSpec(
        name="electricity",
        file="electricity.csv",
        split=FRACTION_SPLIT,
        step_minutes=60,
        columns=_numbered(321),
        options=DataOptions(timestamp_column="date"),
        urls=(f"{THUML}/electricity/electricity.csv", f"{LSTNET}/electricity/electricity.txt.gz"),
        rows=26_304,  # the hours of 2012 to 2014, as in Lai et al., table 1
        first_timestamp=LSTNET_START,
        citation="consumption of 321 clients in kWh, UCI ElectricityLoadDiagrams20112014, as in Lai et al., LSTNet, "
        "SIGIR 2018",
        source="https://archive.ics.uci.edu/dataset/321/electricityloaddiagrams20112014",
        licence=THUML_LICENCE,
        preset="electricity",
    ),
    "exchange_rate": DatasetSpec(
        name="exchange_rate",
        file="exchange_rate.csv",
        split=FRACTION_SPLIT,
        step_minutes=24 * 60,
        columns=_numbered(8),
        options=DataOptions(timestamp_column="date"),
        urls=(f"{THUML}/exchange_rate/exchange_rate.csv", f"{LSTNET}/exchange_rate/exchange_rate.txt.gz"),
        rows=7_588,
        first_timestamp="1990-01-01T00:00:00",  # as in THUML's file
        citation="daily rates of eight currencies, 1990 to 2016, as in Lai et al., LSTNet, SIGIR 2018",
        source="https://github.com/laiguokun/multivariate-time-series-data",
        licence=THUML_LICENCE,
    ),
    "illness": DatasetSpec(
        name="illness",
        file="national_illness.csv",
        split=FRACTION_SPLIT,
        step_minutes=7 * 24 * 60,
        columns=ILLNESS_COLUMNS,
        options=DataOptions(timestamp_column="date"),
        urls=(f"{THUML}/illness/national_illness.csv",),
        rows=966,
        citation="influenza-like illness in the USA, CDC FluView, 2002 to 2020, as in Wu et al., Autoformer, "
        "NeurIPS 2021",
        source="https://gis.cdc.gov/grasp/fluview/fluviewinteractive.html",
        licence=THUML_LICENCE,
        preset="illness",
    ),
    "traffic": DatasetSpec(
        name="traffic",
        file="traffic.csv",
        split=FRACTION_SPLIT,
        step_minutes=60,
        columns=_numbered(862),
        options=DataOptions(timestamp_column="date"),
        urls=(f"{THUML}/traffic/traffic.csv", f"{LSTNET}/traffic/traffic.txt.gz"),
        rows=17_544,  # the hours of 2015 and 2016, as in Lai et al., table 1
        first_timestamp=LSTNET_START,
        citation="Caltrans PeMS road occupancy, as in Lai et al., LSTNet, SIGIR 2018",
        source="https://pems.dot.ca.gov",
        licence=THUML_LICENCE,
        preset="traffic",
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
        path = Path(name).expanduser().absolute()
        split = FRACTION_SPLIT
        if options.split is not None:
            options = replace(options, split=with_absolute_files(options.split, Path()))
            split = parse_split(options.split or "")
        spec = DatasetSpec(name=name, file=str(path), split=split, options=options)
        return _as_matrix(spec) if _is_matrix(path) and options.step == "auto" else spec
    raise DataError(
        f"unknown data set {name!r}: give one of {', '.join(DATASETS)}, or the path of a file ending in "
        f"{', '.join(FILE_ENDINGS)}, or of a folder of Parquet files{nearest(name, DATASETS)}"
    )


def published_note(spec: DatasetSpec, sha256: str) -> str | None:
    """Which published data set a user's own file is, by the sha256 of its content; None if it is none."""
    if spec.name in DATASETS:
        return None
    for name, published in DATASETS.items():
        if published.sha256 == sha256:
            shares = "/".join(f"{100 * part:g}" for part in spec.split.parts)
            split = shares if spec.split.unit == "fraction" else f"({spec.split.text})"
            return (
                f"this is the published {name}; split {split} as a file of your own, --dataset {name} --data-dir DIR "
                "splits it as published"
            )
    return None


def _as_matrix(spec: DatasetSpec) -> DatasetSpec:
    """The spec of a file of numbers only, as Lai et al. publish them: a line for each of equidistant rows."""
    note = "neither column names nor times: columns are numbered, and rows taken as equidistant (data.step=row)"
    return replace(spec, options=replace(spec.options, step="row"), notes=(note,))


def _is_matrix(path: Path) -> bool:
    """Whether a text file's first line holds numbers only. False if it cannot be read: its reader says why."""
    if not path.name.lower().endswith(MATRIX_ENDINGS):
        return False
    import gzip
    import zlib

    try:
        with open(path, "rb") as raw, gzip.open(raw) if path.name.lower().endswith(".gz") else raw as stream:
            fields = stream.readline(FIRST_LINE_BYTES).decode("ascii").split(",")
        return len(fields) > 1 and all(map(_is_real, fields))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return False


def _is_real(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
