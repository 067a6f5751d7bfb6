"""What a failing MLflow server costs a sweep: time of a report in the trial, time at the end, points lost.

    python benchmarks/tracking_cost.py --json tracking.json            # some 6 minutes
    python benchmarks/tracking_cost.py --modes healthy,slow

A sweep of --trials trials runs through the real runner and tracker against a real MLflow server behind a proxy
(benchmarks/troubled_proxy.py). Each trial has 10 epochs of 0.4 s in which it sleeps. Once the plan is made, the proxy
becomes

    refused   the port is closed
    silent    connections are accepted and never answered
    slow      every answer comes 0.5 s later

until the sweep's command would end. Then the proxy is healthy again, and the command `flush` sends the rest. `report`
is the time in which a trial hands an epoch to Tune; the driver answers once the epoch is in the outbox. `driver` is the
tracker's part of it. `share` is how much longer the median report takes than with the healthy server, in percent of an
epoch. Times compare within one run only; on a busy machine even those scatter.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MODES = ("healthy", "refused", "silent", "slow")
EPOCHS, EPOCH_S = 10, 0.4
LIMIT_SHARE_PCT = 1.0


def main() -> int:
    """Run each mode in a process of its own, print, write; exit code 1 over the limit or where a point is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default=",".join(MODES), help="comma-separated; healthy is always among them")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, metavar=("MODE", "URI", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(*options.child, trials=options.trials)
        return 0
    if unknown := set(options.modes.split(",")) - set(MODES):
        parser.error(f"--modes {','.join(unknown)}: allowed are {', '.join(MODES)}")
    wanted = [mode for mode in MODES if mode == "healthy" or mode in options.modes.split(",")]
    with tempfile.TemporaryDirectory() as folder, mlflow_server(Path(folder)) as port:
        rows = [measure(mode, port, Path(folder), options.trials) for mode in wanted]
    for row in rows:
        row["share_pct"] = 100 * (row["report_median_us"] - rows[0]["report_median_us"]) / (EPOCH_S * 1e6)
    print_rows(rows)
    if options.json:
        from tune.common.files import write_atomically

        write_atomically(options.json, json.dumps({"epoch_s": EPOCH_S, "rows": rows}, indent=1))
    return 1 if any(row["share_pct"] >= LIMIT_SHARE_PCT or row["points_lost"] for row in rows) else 0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """The port of a real server over SQLite."""
    port = _free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(port)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(port: int) -> None:
    from tune.tracking.store import TrackingError, check_store

    for attempt in range(600):
        try:
            return check_store(f"http://127.0.0.1:{port}", timeout_s=2)
        except TrackingError:
            if attempt == 599:
                raise
            time.sleep(0.2)


def measure(mode: str, server_port: int, folder: Path, trials: int) -> dict[str, Any]:
    """One sweep in a process of its own, behind a proxy of its own."""
    port, mode_file, own = _free_port(), folder / f"{mode}.mode", folder / mode
    own.mkdir()
    mode_file.write_text("healthy")
    program = [sys.executable, str(ROOT / "benchmarks" / "troubled_proxy.py")]
    proxy = subprocess.Popen([*program, str(port), str(server_port), str(mode_file)], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        child = [sys.executable, __file__, "--trials", str(trials), "--child", mode, f"http://127.0.0.1:{port}"]
        subprocess.run([*child, str(own)], check=True, stdout=sys.stderr)
    finally:
        proxy.kill()
        proxy.wait()
    row = json.loads((own / "row.json").read_text())
    print(json.dumps(row), file=sys.stderr)  # the table follows minutes later
    return row


def sleeping_trial(config: dict[str, Any]) -> None:
    """What Ray runs on a worker: epochs of sleep; its last report says how long each report took."""
    import json
    import time

    from ray import tune as ray_tune

    train, took_s = config["job"]["config"]["train"], []
    names = ("loss/train_mse", "loss/val_mse", "loss/val_mae", "time/train_s", "time/epoch_s", "speed/windows_per_s")
    tags = {"warm_start": "reused", "timing_valid": "false"}
    for epoch in range(1, train["epochs"] + 1):
        time.sleep(0.4)
        result = {"epoch": epoch, "metrics": dict.fromkeys(names, 1 / epoch), "tags": tags}
        began = time.perf_counter()
        ray_tune.report(result | {"timestamp_ms": time.time_ns() // 1_000_000})
        took_s.append(time.perf_counter() - began)
    end = {"status": "done", "reason": None, "metrics": {"final/test_mse": 1.0}, "tags": tags}
    ray_tune.report(
        end | {"tags": tags | {"reports_s": json.dumps(took_s)}, "timestamp_ms": time.time_ns() // 1_000_000}
    )


def run_child(mode: str, uri: str, folder_name: str, *, trials: int) -> None:
    """The sweep itself, then `flush`; writes what they cost to row.json."""
    from tune.commands.main import main as experiments
    from tune.config.axes import lay_over
    from tune.config.sweeps import get_sweep
    from tune.driver.options import Options
    from tune.driver.run import run_sweep
    from tune.plan.planner import Planner
    from tune.tracking.reader import read_sweep
    from tune.tracking.store import PROJECT

    folder = Path(folder_name)
    mode_file, driver_s = folder.with_suffix(".mode"), time_log_epoch()
    sweep = lay_over(get_sweep("custom"), {"train.learning_rate": [round(1e-4 * at, 4) for at in range(1, trials + 1)]})

    def turn(plan: Any) -> None:
        mode_file.write_text(mode)

    outcome = run_sweep(
        Planner(sweep, overrides={"data.dataset": "demo", "train.epochs": EPOCHS}, repeats=1, seed=1),
        options=Options(storage_path=folder / "runs", tracking_uri=uri, data_dir=folder, gpus_per_trial=0),
        show_plan=turn,
        entry=sleeping_trial,
    )
    ended_s = time.time()
    ends = [record for record in _records(folder) if record["kind"] == "end"]
    mode_file.write_text("healthy")
    _wait_for(int(uri.rpartition(":")[2]))  # the proxy looks at its mode now and then
    flush_code = experiments(["flush", outcome.sweep_id, "--storage-path", str(folder / "runs")])
    stored = read_sweep(uri, PROJECT, outcome.sweep_id).trials
    points = sum(len(trial.history.get("loss/val_mse", [])) for trial in stored)
    reports_us = [1e6 * s for end in ends for s in json.loads(end["tags"]["reports_s"])]
    row = {
        "mode": mode,
        "report_median_us": statistics.median(reports_us),
        "report_largest_us": max(reports_us),
        "driver_median_us": 1e6 * statistics.median(driver_s),
        "driver_largest_us": 1e6 * max(driver_s),
        "end_s": ended_s - max(end["time_ms"] for end in ends) / 1e3,
        "pending_at_end": outcome.pending,
        "flush_exit_code": flush_code,
        "points_lost": trials * EPOCHS - points,
    }
    (folder / "row.json").write_text(json.dumps(row))


def time_log_epoch() -> list[float]:
    """Seconds of each call of Tracker.log_epoch from now on."""
    from tune.tracking.tracker import Tracker

    took_s: list[float] = []
    log_epoch = Tracker.log_epoch

    def timed(self: Tracker, **named: Any) -> bool:
        began = time.perf_counter()
        try:
            return log_epoch(self, **named)
        finally:
            took_s.append(time.perf_counter() - began)

    Tracker.log_epoch = timed  # type: ignore[method-assign]
    return took_s


def _records(folder: Path) -> list[dict[str, Any]]:
    (outbox,) = folder.glob("runs/*/outbox.jsonl")
    return [json.loads(line) for line in outbox.read_text().splitlines()]


def print_rows(rows: list[dict[str, Any]]) -> None:
    print(f"{'server':10}{'report us':>12}{'largest':>10}{'share %':>9}{'driver us':>11}{'largest':>10}", end="")
    print(f"{'end s':>8}{'pending':>9}{'lost':>6}")
    for row in rows:
        print(f"{row['mode']:10}{row['report_median_us']:12,.0f}{row['report_largest_us']:10,.0f}", end="")
        print(f"{row['share_pct']:9.2f}{row['driver_median_us']:11,.0f}{row['driver_largest_us']:10,.0f}", end="")
        print(f"{row['end_s']:8.1f}{row['pending_at_end']:9}{row['points_lost']:6}")


if __name__ == "__main__":
    sys.exit(main())
