"""A feed's workers end with the process that uses them, also if that is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from data_pipeline.feed import FEEDS

ROOT = Path(__file__).resolve().parents[3]
WITH_WORKERS = [name for name, entry in FEEDS.items() if entry.takes_workers]
CODE = """
import sys, time
from pathlib import Path
from data_pipeline.feed import open_feed
from data_pipeline.series.store import open_series
if __name__ == "__main__":
    series = open_series("demo", None, Path(sys.argv[2]))
    feed = open_feed(sys.argv[1], series, context_length=48, prediction_length=12, batch_size=8, device="cpu", seed=1,
                     num_workers=2)
    print("open", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_no_worker_outlives_a_process_that_was_killed(name: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{CODE}")
    command = [sys.executable, str(program), name, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        started = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in started if "forkserver" in " ".join(child.cmdline())]
        process.kill()
    assert len(workers) >= 2  # and their fork server
    _, left = psutil.wait_procs(started, timeout=60)
    for child in left:
        child.kill()
    assert left == []
