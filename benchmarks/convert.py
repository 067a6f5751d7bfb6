"""Speed and peak memory of converting a large CSV into the mapped Arrow file, and of pyarrow's own reader.

    python benchmarks/convert.py                 # 2 GiB each of ETT's and Traffic's shape: 7 and 862 columns
    python benchmarks/convert.py --gib 0.25

Every measurement is a process of its own; peak memory is its resident set (VmHWM), page cache of mapped files
included. The converter checks every value, hashes the file and writes the result; pyarrow's reader only parses.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

COLUMNS = {"ETT": 7, "Traffic": 862}
BLOCK_ROWS = 4096


def main() -> None:
    """Write the files, measure each reader in its own process, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0, help="size of each CSV (default 2)")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--measure", nargs=2, metavar=("READER", "CSV"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(READERS[options.measure[0]](Path(options.measure[1]))))
        return
    print(f"{'shape':9}{'reader':34}{'MB/s':>7}{'s':>7}{'CPU s':>7}{'MB per CPU s':>14}{'peak MiB':>10}")
    for shape, columns in COLUMNS.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / f"{shape}.csv"
            write_csv(path, columns, int(options.gib * 2**30))
            for reader in READERS:
                command = [sys.executable, __file__, "--measure", reader, str(path)]
                cost = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                size = path.stat().st_size / 1e6
                print(
                    f"{shape:9}{reader:34}{size / cost['wall_s']:7.0f}{cost['wall_s']:7.1f}{cost['cpu_s']:7.1f}"
                    f"{size / cost['cpu_s']:14.0f}{cost['peak_mib']:10.0f}",
                    flush=True,
                )


def write_csv(path: Path, columns: int, n_bytes: int) -> None:
    """Hourly rows of random numbers, printed as ETT's are (a 32-bit float in full); values repeat after a while."""
    import numpy as np

    values = np.random.default_rng(0).normal(10, 5, (BLOCK_ROWS, columns)).astype(np.float32).astype(np.float64)
    rows = [",".join(map(repr, row)) for row in values.tolist()]
    start, hour, row = np.datetime64("1970-01-01T00:00:00"), np.timedelta64(3600, "s"), 0
    with open(path, "w", buffering=1 << 20) as file:
        file.write(",".join(["date", *(f"c{at}" for at in range(columns))]) + "\n")
        while file.tell() < n_bytes:
            times = np.datetime_as_string(start + hour * np.arange(row, row + BLOCK_ROWS), unit="s")
            file.writelines(
                f"{time.replace('T', ' ')},{text}\n" for time, text in zip(times.tolist(), rows, strict=True)
            )
            row += BLOCK_ROWS


def convert(path: Path) -> dict[str, float]:
    """Our converter, from the first byte to the file in place."""
    from data_pipeline.datasets import get_dataset
    from data_pipeline.series.convert import convert as convert_series

    return timed(lambda: convert_series(get_dataset(str(path)), path, None, path.with_suffix(".arrow")))


def stream(path: Path) -> dict[str, float]:
    """pyarrow's streaming reader on one thread, types given, blocks thrown away."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    names = path.open().readline().strip().split(",")
    types = {name: pa.float32() for name in names[1:]} | {names[0]: pa.timestamp("us")}

    def read() -> None:
        with pa_csv.open_csv(
            path,
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=4 << 20),
            convert_options=pa_csv.ConvertOptions(column_types=types),
        ) as reader:
            for _ in reader:
                pass

    return timed(read)


def table(path: Path) -> dict[str, float]:
    """pyarrow's read_csv on one thread: the whole table in memory."""
    import pyarrow.csv as pa_csv

    return timed(lambda: pa_csv.read_csv(path, read_options=pa_csv.ReadOptions(use_threads=False)))


def timed(work) -> dict[str, float]:
    """Wall and CPU seconds of `work`, and the peak resident set of this process."""
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mib": int(peak.split()[1]) / 1024}


READERS = {
    "convert (ours: check, hash, write)": convert,
    "pyarrow open_csv, discarded": stream,
    "pyarrow read_csv, in memory": table,
}


if __name__ == "__main__":
    main()
