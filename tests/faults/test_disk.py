"""A disk that runs full in the middle of a sweep, files cut short by a crash, and the same command once more."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fault_kit import Faults
from sweep_kit import Driver, Ran, epochs, outbox, run
from tracking_kit import end, expected_points, log, plan, points
from trouble_kit import BASE, SmallDisk, Trouble, small_disk, undisturbed

from tune.storage.outbox import beside
from tune.storage.sweep_dir import SweepDir
from tune.tracking.reader import read_sweep
from tune.tracking.tracker import Tracker

EPOCHS = 4
RATES = ("0.001", "0.002")
SWEEP = [*BASE, "--over", f"train.learning_rate={','.join(RATES)}", "--epochs", str(EPOCHS)]


@dataclass
class Battered:
    """A sweep whose disk ran full, whose files a crash cut, and that the same command finished."""

    driver: Driver
    code: int  # of the run that met the full disk
    before: list[tuple[str, int]]  # the epochs in the outbox by then
    half_written: list[Path]
    cut: list[str] = field(default_factory=list)
    last: Ran | None = None


def _half_written(storage: Path) -> list[Path]:
    """What is neither whole nor a line of the outbox, beside the folder in which Tune keeps its own."""
    files = [file for file in storage.rglob("*") if file.is_file() and "attempt-" not in str(file)]
    return [file for file in files if file.name.endswith((".tmp", ".new"))]


def _newest_checkpoints(storage: Path) -> list[Path]:
    kept = (file for file in storage.glob("*/checkpoints/*") if file.suffix != ".tmp")
    return [Path(SweepDir(file.parent.parent).checkpoints(file.name)[0]) for file in kept]


def _cut(file: Path, moments: random.Random) -> str:
    size = file.stat().st_size
    kept = moments.randrange(size)
    with file.open("r+b") as stream:
        stream.truncate(kept)
    return f"{file.name} {kept}/{size}"


def _cut_state_files(storage: Path, moments: random.Random) -> list[str]:
    """A file of the newest checkpoint, and every small file that we keep."""
    (newest,) = _newest_checkpoints(storage)
    (diary,) = storage.glob("*/outbox.jsonl")
    chosen = [moments.choice(sorted(file for file in newest.rglob("*") if file.is_file()))]
    chosen += [beside(diary, "position"), *storage.glob("gate/*.json"), *storage.glob("arrow/*.arrow")]
    chosen += storage.glob("compile/*/about.json")
    with diary.open("ab") as stream:  # a record whose writer was never told that it is stored
        line = b'{"kind":"epoch","trial_id":"x","epoch":1}'
        stream.write(line[: moments.randrange(1, len(line))])
    return [_cut(file, moments) for file in chosen]


@pytest.fixture(scope="module")
def battered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Battered]:
    folder, moments = tmp_path_factory.mktemp("battered"), Faults("disk").moments
    with pytest.MonkeyPatch.context() as patch, small_disk(folder / "runs", mib=24) as disk:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        trouble, paused = Trouble(folder / "trouble", patch), moments.randint(2, EPOCHS)
        trouble.in_arms(dict.fromkeys(RATES, {"fault": "pause", "epoch": paused}))
        driver = Driver(folder, "first.log", *SWEEP)
        driver.until(lambda: len(epochs(folder)) == paused - 1 and len(_newest_checkpoints(disk.folder)) == 1)
        disk.fill()
        trouble.go_on()
        code = driver.process.wait(timeout=300)
        battered = Battered(driver, code, epochs(folder), _half_written(disk.folder))
        disk.make_room()
        battered.cut = _cut_state_files(disk.folder, moments)
        battered.last = run(folder, *SWEEP)
        yield battered


def test_a_full_disk_stops_the_sweep_in_one_line_and_leaves_nothing_half_written(battered: Battered) -> None:
    log = battered.driver.log.read_text()
    assert battered.code == 130, log
    assert "Traceback" not in log
    (line,) = (line for line in log.splitlines() if line.startswith("error: "))
    assert "No space left on device" in line
    assert line.endswith("make room and the same command goes on from here")
    assert battered.half_written == []
    assert len(battered.before) < EPOCHS


def test_with_room_the_same_command_ends_it_with_every_epoch_once_and_bit_identical(
    battered: Battered, faults: Faults, tmp_path: Path
) -> None:
    assert battered.last is not None and battered.last.code == 0, battered.last and battered.last.err
    assert "Traceback" not in battered.last.err
    assert "resuming" in battered.last.err
    record = battered.last.record()
    stored = {trial.trial_id: trial.history["loss/val_mse"] for trial in record.trials}
    expected = undisturbed(SWEEP, tmp_path)
    lost = sum(EPOCHS - len({epoch for epoch, _ in stored[trial_id]}) for trial_id in expected)
    faults.injected("full disk", lost=lost, detail=f"after {len(battered.before)} epochs")
    faults.injected("files cut by a crash", times=len(battered.cut), lost=lost, detail=", ".join(battered.cut))
    assert lost == 0
    assert stored == {trial_id: list(enumerate(losses, 1)) for trial_id, losses in expected.items()}
    assert Counter(epochs(battered.last.folder)).most_common(1)[0][1] == 1
    assert all(record["kind"] != "unreadable" for record in outbox(battered.last.folder))


def test_a_trial_whose_newest_checkpoint_is_damaged_says_from_where_it_goes_on(battered: Battered) -> None:
    assert battered.last is not None
    remarks = [
        trial.tags["checkpoint_damaged"]
        for trial in battered.last.record().trials
        if "checkpoint_damaged" in trial.tags
    ]
    assert len(remarks) == 1
    assert "as a checkpoint is damaged: " in remarks[0]
    assert remarks[0] in battered.last.err


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small", mib=8) as disk:
        yield disk


def test_a_full_disk_below_mlflows_database_and_artifacts_loses_nothing(
    disk: SmallDisk, tmp_path: Path, faults: Faults
) -> None:
    uri, before = f"sqlite:///{disk.folder}/mlflow.db", faults.moments.randint(1, 5)
    tracker = Tracker(
        outbox_path=tmp_path / "outbox.jsonl", tracking_uri=uri, experiment="patchtst",
        artifact_root=str(disk.folder / "artifacts"),
    )  # fmt: skip
    with tracker:
        tracker.begin_sweep(sweep_id="full", name="full", tags={}, params={}, files={"plan.json": "{}"})
        plan(tracker, "a")
        log(tracker, "a", *range(1, before + 1))
        assert tracker.flush(60) == 0
        disk.fill()
        log(tracker, "a", *range(before + 1, 400))  # more than SQLite has pages for
        end(tracker, "a")
        tracker.end_sweep(status="done", metrics={}, files={"report.md": "x" * 100_000})
        assert tracker.flush(3) > 0
        assert "full" in tracker.outage or "No space left" in tracker.outage
        disk.make_room()
        assert tracker.flush(60) == 0, (tracker.outage, tracker.problems)
    (trial,) = read_sweep(uri, "patchtst", "full").trials
    stored = points(uri, trial.run_id)
    faults.injected("full disk below MLflow", lost=399 - len(set(stored)), detail=f"after {before} epochs")
    assert stored == expected_points(*range(1, 400))
    assert trial.status == "done"
