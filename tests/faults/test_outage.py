"""An MLflow server whose port is a black hole, and that is then killed, while clocks jump: the sweep neither stops nor
waits, and MLflow has everything in the end, once and in order.

In `make test` an outage takes a few seconds; with SOAK_SEED set a minute, so that the sweep ends in one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_kit import SEED, Faults
from port_kit import free_port
from server_kit import Server
from sweep_kit import Driver, epochs, outbox, run
from trouble_kit import BASE, Proxy, Trouble, undisturbed

from tune.tracking.reader import SweepRecord, read_sweep
from tune.tracking.store import PROJECT

OUTAGE_S = 60.0 if SEED in os.environ else 3.0
RATES, EPOCHS, EPOCH_S = ("0.001", "0.002"), 8, 0.5
SLOWEST_S = 120.0
SWEEP = [*BASE, "--over", f"train.learning_rate={','.join(RATES)}", "--epochs", str(EPOCHS)]
HOUR_S = 3600.0


@dataclass
class Outage:
    driver: Driver
    code: int
    moved_on: dict[str, bool]  # kind of outage -> whether the sweep had ended, or reported an epoch in it
    flushed: int | None  # exit code of `flush`; None: it was not needed
    record: SweepRecord
    uri: str


def _moves_on(driver: Driver, while_s: float) -> bool:
    """Whether an epoch is reported in an outage of this length (longer on a slow machine), or all are."""
    before, began_s, moved = len(epochs(driver.folder)), time.monotonic(), False
    while driver.process.poll() is None:
        took_s, now = time.monotonic() - began_s, len(epochs(driver.folder))
        moved = now > before or now == EPOCHS * len(RATES)
        if took_s > while_s and (moved or took_s > while_s + SLOWEST_S):
            break
        time.sleep(0.05)
    return moved


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    folder, moments = tmp_path_factory.mktemp("outage"), Faults("outage").moments
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    proxy = Proxy(folder, free_port(), server.port)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_WAIT_POLICY", "passive")
            yield _suffer(folder, server, proxy, Trouble(folder / "trouble", patch), moments)
    finally:
        proxy.kill()
        server.kill()


def _suffer(folder: Path, server: Server, proxy: Proxy, trouble: Trouble, moments) -> Outage:
    trouble.in_arms(dict.fromkeys(RATES, {"fault": "slow", "epoch": None, "lasts_s": EPOCH_S}))
    trouble.shift_clock("trial", -HOUR_S)  # of a node whose clock is wrong from the beginning
    sweep = [*SWEEP, "--tracking-uri", proxy.uri]
    driver = Driver(folder, "sweep.log", *sweep)
    driver.until(lambda: epochs(folder))
    time.sleep(moments.uniform(0, 2 * EPOCH_S))
    proxy.mode("silent")
    trouble.shift_clock("driver", HOUR_S)
    trouble.shift_clock("trial", HOUR_S)
    moved_on = {"black hole": _moves_on(driver, OUTAGE_S)}
    server.kill()
    proxy.mode("healthy")  # which now leads nowhere
    trouble.shift_clock("driver", -HOUR_S)
    trouble.shift_clock("trial", -2 * HOUR_S)
    moved_on["killed"] = _moves_on(driver, OUTAGE_S)
    server.start()
    code = driver.process.wait(timeout=300)
    flushed = None
    if code == 130:  # the sweep's end waited as long as it says
        assert "flush" in driver.log.read_text(), driver.log.read_text()
        (sweep_folder,) = (file.parent.name for file in (folder / "runs").glob("*/outbox.jsonl"))
        flushed = run(folder, "flush", sweep_folder, "--tracking-uri", proxy.uri).code
    (sweep_id,) = {record["sweep_id"] for record in outbox(folder)}
    return Outage(driver, code, moved_on, flushed, read_sweep(proxy.uri, PROJECT, sweep_id), proxy.uri)


def test_a_sweep_goes_on_while_mlflow_is_away_and_ends_well(outage: Outage) -> None:
    log = outage.driver.log.read_text()
    assert outage.moved_on == {"black hole": True, "killed": True}, log
    assert (outage.code, outage.flushed) in ((0, None), (130, 0)), log
    assert "Traceback" not in log
    assert [trial.status for trial in outage.record.trials] == ["done"] * len(RATES)
    assert outage.record.status == "done"


def test_no_point_is_lost_or_doubled_and_all_are_what_they_would_be_without_trouble(
    outage: Outage, faults: Faults, tmp_path: Path
) -> None:
    stored = {trial.trial_id: trial.history["loss/val_mse"] for trial in outage.record.trials}
    lost = sum(EPOCHS - len({epoch for epoch, _ in points}) for points in stored.values())
    for fault in outage.moved_on:
        faults.injected(f"MLflow server away: {fault}", lost=lost, detail=f"{OUTAGE_S:g} s")
    assert lost == 0
    expected = undisturbed(SWEEP, tmp_path)
    assert stored == {trial_id: list(enumerate(losses, 1)) for trial_id, losses in expected.items()}


def test_clocks_that_jump_by_an_hour_change_no_duration_and_no_order(outage: Outage, faults: Faults) -> None:
    from mlflow import MlflowClient

    client, disordered = MlflowClient(tracking_uri=outage.uri), 0
    for trial in outage.record.trials:
        info = client.get_run(trial.run_id).info
        points = client.get_metric_history(trial.run_id, "time/epoch_s")
        stamps = [point.timestamp for point in sorted(points, key=lambda point: point.step)]
        disordered += stamps != sorted(stamps)
        assert info.start_time <= stamps[0] and stamps[-1] <= info.end_time
        assert info.end_time - info.start_time < HOUR_S * 1e3
        assert all(0 < point.value < HOUR_S / 2 for point in points)
        spans = json.loads(trial.tags["spans"])
        times = [spans["started_ms"], spans["first_epoch_ms"], spans["work_ended_ms"]]
        assert abs(times[0] - info.start_time) > HOUR_S * 1e3 / 2  # the clocks did disagree
        assert times == sorted(times) and times[-1] - times[0] < HOUR_S * 1e3 / 2
    faults.injected("wall clocks jump by an hour", times=5, lost=disordered, detail="driver and trials, both ways")
    assert disordered == 0
    etas = [line.rpartition("ETA ")[2] for line in outage.driver.log.read_text().splitlines() if "ETA " in line]
    assert etas and all("-" not in eta and eta.count(":") < 2 for eta in etas)
