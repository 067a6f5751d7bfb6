"""What an import of PeMS station files costs: time beside gzip's own, and peak memory for one month and for three.

    python benchmarks/import_pems.py --stations 1000 --folder DIR

Generates 92 days of 5-minute files into DIR unless they are there, then imports the first 31 days and all of them, each
in a process of its own. MB/s is compressed input by wall time. gzip is `gzip -dc FILES > /dev/null`, one process. One
pass reads all files before the first measurement, so that all come from the page cache.
"""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.generate_pems import generate

START, DAYS, FIRST = datetime.date(2019, 3, 1), 92, 31


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for the generated files (default: a temporary one)")
    parser.add_argument("--stations", type=int, default=1000)
    parser.add_argument("--measure", default="flow")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        bring(*options.child, options.measure)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "raw"
        if not folder.exists():
            generate(folder, stations=options.stations, start=START, days=DAYS)
        files = sorted(folder.glob("*.txt.gz"))
        gunzip(files)
        for count in (FIRST, len(files)):
            some = Path(temporary) / str(count)
            some.mkdir()
            for file in files[:count]:
                os.symlink(file.absolute(), some / file.name)
            size = sum(file.stat().st_size for file in files[:count]) / 1e6
            gunzip_s = gunzip(files[:count])
            load = os.getloadavg()[0]
            words = [sys.executable, __file__, "--measure", options.measure, "--child", some, some / "out.parquet"]
            took = subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True).stdout.split()
            wall_s, cpu_s, peak_mib = map(float, took)
            print(f"{count} files, {size:.0f} MB, load before {load:.1f}")
            print(f"  import   {wall_s:.1f} s, {size / wall_s:.1f} MB/s, {cpu_s:.1f} s CPU, peak {peak_mib:.0f} MiB")
            print(f"  gzip -dc {gunzip_s:.1f} s, {size / gunzip_s:.1f} MB/s", flush=True)


def bring(folder: Path, out: Path, measure: str) -> None:
    """Import in this process, and print wall seconds, CPU seconds and the peak resident set in MiB."""
    from data_pipeline.pems.importing import ImportOptions, import_folder

    begun = time.perf_counter()
    import_folder(folder, out, ImportOptions(measure=measure))
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(time.perf_counter() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def gunzip(files: list[Path]) -> float:
    """Wall seconds of gzip for `files`."""
    begun = time.perf_counter()
    subprocess.run(["gzip", "-dc", *map(str, files)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
