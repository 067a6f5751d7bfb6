"""Files that cannot be stored wait for themselves: what else there is goes on, and they are sent once they can be."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from model_kit import save_small
from tracking_kit import end, expected_points, log, plan, points
from trouble_kit import small_disk

from tune.common.errors import WrongInput
from tune.storage.outbox import beside
from tune.tracking.position import Upload
from tune.tracking.reader import read_sweep
from tune.tracking.tracker import Tracker
from tune.tracking.uploads import Uploader, UploadQueue

EXPERIMENT = "patchtst"
# SQLAlchemy 2.1 warns about MLflow 3.17's imports.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


class Place:
    """A new store, the outbox of one sweep, and the folders of its trial."""

    def __init__(self, folder: Path, uri: str, root: str) -> None:
        self.folder, self.uri, self.root = folder, uri, root
        self.outbox = folder / "outbox.jsonl"
        save_small(folder / "best")
        (folder / "raw").mkdir()
        (folder / "raw" / "step_ms.npy").write_bytes(b"1")

    def open(self, **options: object) -> Tracker:
        return Tracker(
            outbox_path=self.outbox, tracking_uri=self.uri, experiment=EXPERIMENT, artifact_root=self.root, **options
        )

    def fill(self, tracker: Tracker, plan_json: str = "{}") -> None:
        tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={"plan.json": plan_json})
        plan(tracker, "a", "b")
        log(tracker, "a", 1)
        end(tracker, "a", model_dir=self.folder / "best", samples_dir=self.folder / "raw")
        log(tracker, "b", 1, 2)
        end(tracker, "b")

    def files(self) -> list[str]:
        """What the artifact store has of the sweep and of trial a, with the model where it is complete."""
        from mlflow import MlflowClient

        client, sweep = MlflowClient(tracking_uri=self.uri), read_sweep(self.uri, EXPERIMENT, "s")
        trial = sweep.trials[0].run_id
        found = [file.path for run_id in (sweep.run_id, trial) for file in client.list_artifacts(run_id)]
        found += [file.path for file in client.list_artifacts(trial, "samples")]
        models = client.search_logged_models([client.get_run(trial).info.experiment_id])
        return sorted(found + [f"model: {model.status}" for model in models])


ALL_FILES = ["model: READY", "plan.json", "samples", "samples/step_ms.npy"]


@pytest.fixture
def place(tmp_path: Path, new_store: str) -> Place:
    return Place(tmp_path, new_store, str(tmp_path / "artifacts"))


@contextmanager
def _file_in_the_way(place: Place, patch: pytest.MonkeyPatch) -> Iterator[str]:
    Path(place.root).write_text("")
    yield f"{place.root} is a file where a folder is needed"
    Path(place.root).unlink()


@contextmanager
def _no_temporary_folder(place: Place, patch: pytest.MonkeyPatch) -> Iterator[str]:
    with patch.context() as inner:
        inner.setattr(tempfile, "tempdir", str(place.folder / "gone"))
        yield f"the folder for temporary files {place.folder}/gone cannot be written"


@contextmanager
def _full_temporary_folder(place: Place, patch: pytest.MonkeyPatch) -> Iterator[str]:
    with small_disk(place.folder / "small", mib=1) as disk, patch.context() as inner:
        disk.fill()
        inner.setattr(tempfile, "tempdir", str(disk.folder))
        yield f"the folder for temporary files {disk.folder} is full: mend it, or set TMPDIR to another"


@contextmanager
def _full_artifact_disk(place: Place, patch: pytest.MonkeyPatch) -> Iterator[str]:
    with small_disk(Path(place.root), mib=2) as disk:
        disk.fill()
        yield f"{place.root} is full"
        disk.make_room()
        with place.open() as tracker:
            assert tracker.flush(300) == 0
        shutil.copytree(disk.folder, place.folder / "kept")
    shutil.copytree(place.folder / "kept", place.root, dirs_exist_ok=True)


@contextmanager
def _foreign_artifact_folder(place: Place, patch: pytest.MonkeyPatch) -> Iterator[str]:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    Path(place.root).mkdir(mode=0o500)
    yield f"is not writable by uid {os.getuid()}"
    Path(place.root).chmod(0o700)


@pytest.mark.parametrize(
    "trouble",
    [
        _file_in_the_way,
        _no_temporary_folder,
        _full_temporary_folder,
        _full_artifact_disk,
        _foreign_artifact_folder,
    ],
)
def test_files_wait_for_what_somebody_must_mend_and_all_else_is_sent(
    place: Place,
    trouble: Callable[[Place, pytest.MonkeyPatch], AbstractContextManager[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with trouble(place, monkeypatch) as cause:
        with place.open() as tracker:
            place.fill(tracker)
            assert 0 < tracker.flush(300) <= 3
            assert (tracker.unsent, tracker.refused, tracker.outage) == (0, 0, None)
            assert cause in str(tracker.blocked)
            assert [line[:24] for line in tracker.problems] == ["files cannot be stored: "], tracker.problems
        sweep = read_sweep(place.uri, EXPERIMENT, "s")
        assert [trial.status for trial in sweep.trials] == ["done", "done"]
        assert points(place.uri, sweep.trials[1].run_id) == expected_points(1, 2)
    with place.open() as tracker:
        assert tracker.flush(300) == 0
        assert (tracker.blocked, tracker.problems, tracker.refused) == (None, [], 0)
    assert place.files() == ALL_FILES


def test_a_package_that_is_missing_is_named_and_its_files_wait(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    place.root = "s3://no-bucket/x"
    with place.open() as tracker:
        place.fill(tracker)
        assert tracker.flush(300) == 3
        assert tracker.blocked == "no package boto3 for s3://no-bucket/x: pip install boto3"
        assert (tracker.unsent, tracker.refused) == (0, 0)
    assert not beside(place.outbox, "rejected").exists()


def test_a_store_of_files_that_never_answers_holds_up_no_record_and_no_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, lets_go = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hangs.set()
        assert lets_go.wait(300)

    with monkeypatch.context() as patch:
        patch.setattr(Uploader, "store", hang)
        tracker = place.open()
        place.fill(tracker)
        assert hangs.wait(300)
        log(tracker, "b", 3)
        while tracker.unsent:
            tracker.flush(0.1)
        assert tracker.close(0) == 3
        lets_go.set()
    (_, other) = read_sweep(place.uri, EXPERIMENT, "s").trials
    assert points(place.uri, other.run_id) == expected_points(1, 2, 3)
    with place.open() as tracker:
        assert tracker.flush(300) == 0
    assert place.files() == ALL_FILES


def test_of_files_that_changed_while_they_waited_the_last_state_is_stored(place: Place) -> None:
    Path(place.root).write_text("")
    with place.open() as tracker:
        place.fill(tracker, plan_json="old")
        tracker.flush(300)
        tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={"plan.json": "new"})
        assert tracker.flush(300) == 3
        Path(place.root).unlink()
        assert tracker.flush(300) == 0
    (stored,) = Path(place.root).rglob("plan.json")
    assert stored.read_text() == "new"


def test_files_that_wait_survive_a_lost_position(place: Place) -> None:
    Path(place.root).write_text("")
    with place.open() as tracker:
        place.fill(tracker)
        assert tracker.flush(300) == 3
    beside(place.outbox, "position").unlink()
    Path(place.root).unlink()
    with place.open() as tracker:
        assert tracker.flush(300) == 0
    assert place.files() == ALL_FILES


def test_a_folder_that_is_gone_is_refused_counted_and_sent_once_it_is_back(place: Place) -> None:
    (place.folder / "best").rename(place.folder / "elsewhere")
    with place.open() as tracker:
        place.fill(tracker)
        assert tracker.flush(300) == 0
        assert tracker.refused == 1
        assert f"refused a record of a: NotThere: {place.folder}/best with the model" in tracker.problems[0]
    assert read_sweep(place.uri, EXPERIMENT, "s").tags["refused_records"] == "1"
    with place.open(retry_refused=True) as tracker:  # in vain
        assert (tracker.flush(300), tracker.refused) == (0, 1)
    (place.folder / "elsewhere").rename(place.folder / "best")
    with place.open(retry_refused=True) as tracker:
        assert (tracker.flush(300), tracker.refused) == (0, 0)
    assert not beside(place.outbox, "rejected").exists()
    assert read_sweep(place.uri, EXPERIMENT, "s").tags["refused_records"] == "0"
    assert place.files() == ALL_FILES


def test_a_value_that_mlflow_cannot_take_holds_up_nothing_and_is_counted(place: Place) -> None:
    with place.open() as tracker:
        place.fill(tracker)
        tracker.log_epoch(trial_id="b", epoch=3, metrics={"gpu (%)": 1.0, "loss/val_mse": 1 / 3}, timestamp_ms=3)
        assert (tracker.flush(300), tracker.refused) == (0, 1)
    assert place.files() == ALL_FILES
    with place.open() as tracker:
        assert (tracker.flush(300), tracker.refused) == (0, 1)


def _as_an_earlier_version_left_it(place: Place) -> None:
    """All records count as sent; those with files lie in `.rejected`, whole."""
    with place.open() as tracker:
        place.fill(tracker)
        tracker.flush(300)
    file = beside(place.outbox, "position")
    saved = json.loads(file.read_text())
    file.write_text(json.dumps({name: saved[name] for name in ("store", "offset", "runs")}))
    records = [json.loads(line) for line in place.outbox.read_text().splitlines()]
    with_files = [record for record in records if record.get("files") or record.get("model_dir")]
    lines = [json.dumps({"error": "no package boto3", "record": record}) + "\n" for record in with_files]
    beside(place.outbox, "rejected").write_text("".join([*lines, lines[-1]]))  # its samples and its model


def test_what_an_earlier_version_set_aside_for_want_of_access_is_sent(place: Place) -> None:
    Path(place.root).write_text("")
    _as_an_earlier_version_left_it(place)
    with place.open() as tracker:
        assert tracker.refused == 2
    Path(place.root).unlink()
    with place.open(retry_refused=True) as tracker:
        assert (tracker.flush(300), tracker.refused) == (0, 0)
    assert place.files() == ALL_FILES
    assert not beside(place.outbox, "rejected").exists()
    (trial, other) = read_sweep(place.uri, EXPERIMENT, "s").trials
    assert points(place.uri, trial.run_id) == expected_points(1)
    assert points(place.uri, other.run_id) == expected_points(1, 2)


def test_a_second_try_that_is_cut_short_takes_nothing_from_what_was_set_aside(place: Place) -> None:
    _as_an_earlier_version_left_it(place)
    before = beside(place.outbox, "rejected").read_text()
    with Tracker(
        outbox_path=place.outbox, tracking_uri=place.uri, experiment=EXPERIMENT, artifact_root=None, retry_refused=True
    ) as tracker:
        tracker.close(0)
    assert set(before.splitlines()) >= set(beside(place.outbox, "rejected").read_text().splitlines()) != set()


def test_a_new_store_gets_files_that_are_gone_from_the_earlier_one(
    place: Place, empty_store: Path, tmp_path: Path
) -> None:
    with place.open() as tracker:
        place.fill(tracker)
        assert tracker.flush(300) == 0
    stored = (place.folder / "best" / "model.safetensors").read_bytes()
    shutil.rmtree(place.folder / "best")
    shutil.rmtree(place.folder / "raw")
    earlier, place.uri = place.uri, f"sqlite:///{shutil.copy(empty_store, tmp_path / 'new.db')}"
    place.root = str(tmp_path / "new-artifacts")
    with place.open(earlier_stores=[earlier]) as tracker:
        assert (tracker.flush(300), tracker.refused) == (0, 0)
    assert place.files() == ALL_FILES
    (model,) = Path(place.root).rglob("model.safetensors")
    assert model.read_bytes() == stored


@pytest.mark.parametrize("earlier", [[], ["sqlite:////none/mlflow.db"], ["http://127.0.0.1:9"]])
def test_files_that_no_store_has_are_named_as_missing(place: Place, tmp_path: Path, earlier: list[str]) -> None:
    shutil.rmtree(place.folder / "best")
    with place.open(earlier_stores=earlier) as tracker:
        place.fill(tracker)
        assert (tracker.flush(300), tracker.refused) == (0, 1)
        assert f"{place.folder}/best with the model is not there" in tracker.problems[0]


def _upload(part: str, trial_id: str = "a") -> Upload:
    return Upload(start=0, kind="end", trial_id=trial_id, part=part)


def test_each_waiting_upload_is_tried_once_a_round_and_rounds_come_ever_later() -> None:
    queue = UploadQueue([_upload("samples"), _upload("model")])
    tried, now_s = [], 0.0
    for _ in range(4):
        while (upload := queue.next(now_s)) is not None:
            tried.append((now_s, upload.part))
            queue.failed(upload, "full", now_s, passes=False)
        now_s += queue.due_in(now_s) or 0.0
    assert tried == [(at_s, part) for at_s in (0.0, 1.0, 3.0, 7.0) for part in ("samples", "model")]
    assert (queue.rounds, queue.stuck) == (4, "full")
    queue.hurry(now_s, 1.0)
    assert queue.due_in(now_s) is not None and queue.due_in(now_s) <= 1.0  # type: ignore[operator]


def test_a_queue_is_stuck_only_if_no_upload_may_still_succeed() -> None:
    queue = UploadQueue([_upload("samples"), _upload("model")])
    queue.failed(_upload("samples"), "full", 0.0, passes=False)
    assert queue.stuck is None
    queue.failed(_upload("model"), "no answer", 0.0, passes=True)
    assert queue.stuck is None
    assert queue.next(1.0) == _upload("samples")
    queue.stored(_upload("model"))
    assert queue.stuck == "full"
    queue.add([_upload("model", "b")])
    assert queue.stuck is None


def test_a_file_given_without_its_text_is_made_where_it_is_stored_and_lies_in_no_outbox(place: Place) -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return f"{name} of {read_sweep(place.uri, EXPERIMENT, 's').metrics['n']:g}"

    with place.open(make=make) as tracker:
        place.fill(tracker)
        tracker.end_sweep(status="done", metrics={"n": 2.0}, files={"report.html": None, "report.md": "table"})
        assert tracker.flush(60) == 0 and tracker.problems == []
    from mlflow import MlflowClient

    run_id = read_sweep(place.uri, EXPERIMENT, "s").run_id
    stored = MlflowClient(tracking_uri=place.uri).download_artifacts(run_id, "report.html", str(place.folder))
    assert Path(stored).read_text() == "report.html of 2"
    assert made == ["report.html"] and "report.html of" not in place.outbox.read_text()


def test_a_file_that_cannot_be_made_is_named_and_holds_up_nothing(place: Place) -> None:
    def make(name: str) -> str:
        raise WrongInput("no plotly")

    with place.open(make=make) as tracker:
        place.fill(tracker)
        tracker.end_sweep(status="done", metrics={}, files={"report.html": None})
        assert tracker.flush(60) == 0
        (problem,) = tracker.problems
    assert "report.html cannot be made: no plotly" in problem
    assert read_sweep(place.uri, EXPERIMENT, "s").status == "done"
