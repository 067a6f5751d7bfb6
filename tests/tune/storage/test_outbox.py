import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tune.storage.outbox import Outbox, beside
from tune.storage.trial_log import OutboxIndex
from tune.tracking.position import Position, Upload

REPO_ROOT = Path(__file__).resolve().parents[3]
APPEND_FOR_EVER = """
import sys
from pathlib import Path
from tune.storage.outbox import Outbox, beside
outbox = Outbox(Path(sys.argv[1]))
for epoch in range(1, 1_000_000):
    outbox.append({"kind": "epoch", "epoch": epoch, "padding": "x" * 3000})
    print(epoch, flush=True)
"""


def epoch(number: int) -> dict[str, object]:
    return {"kind": "epoch", "trial_id": "t", "epoch": number, "starts": number == 1}


def records(path: Path) -> list[dict[str, object]]:
    outbox = Outbox(path)
    try:
        return [record for record, _ in outbox.read()]
    finally:
        outbox.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "outbox.jsonl"


def test_a_record_is_on_disk_when_append_returns(path: Path) -> None:
    outbox = Outbox(path)
    outbox.append(epoch(1))
    assert json.loads(path.read_text()) == epoch(1)
    outbox.close()


def test_reopening_goes_on_after_the_last_record(path: Path) -> None:
    for number in (1, 2, 3):
        outbox = Outbox(path)
        outbox.append(epoch(number))
        outbox.close()
    assert records(path) == [epoch(1), epoch(2), epoch(3)]


def test_reading_goes_on_from_any_offset_it_gave(path: Path) -> None:
    outbox = Outbox(path)
    for number in range(5):
        outbox.append(epoch(number))
    ends = [end for _, end in outbox.read()]
    for done, end in enumerate(ends, start=1):
        assert [record["epoch"] for record, _ in outbox.read(end)] == list(range(done, 5))
    assert [record["epoch"] for record, _ in outbox.read(ends[0], 2)] == [1, 2]
    outbox.close()


def test_a_file_cut_at_any_byte_keeps_every_complete_record_and_takes_new_ones(path: Path) -> None:
    outbox = Outbox(path)
    ends = [outbox.append(epoch(number)) for number in (1, 2)]
    outbox.close()
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        outbox = Outbox(path)
        outbox.append(epoch(9))
        outbox.close()
        survivors = sum(end <= cut for end in ends)
        assert [record["epoch"] for record in records(path)] == [1, 2][:survivors] + [9]


def test_a_torn_line_longer_than_a_block_is_cut_off(path: Path) -> None:
    outbox = Outbox(path)
    outbox.append(epoch(1))
    outbox.close()
    with path.open("ab") as stream:
        stream.write(b'{"kind": "end_sweep", "files": "' + b"x" * 200_000)
    assert records(path) == [epoch(1)]


def test_a_killed_writer_loses_nothing_that_append_returned_for(path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", APPEND_FOR_EVER, str(path)], cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(50)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in writer.communicate()[0].split()]
    stored = [record["epoch"] for record in records(path)]
    assert stored[: len(acknowledged)] == acknowledged
    assert len(stored) - len(acknowledged) <= 1


def test_a_full_disk_leaves_no_half_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(path)
    outbox.append(epoch(1))
    write = os.write

    def half_then_full(fd: int, data: bytes) -> int:
        if len(data) > 20:
            return write(fd, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(OSError, match="No space left"):
        outbox.append(epoch(2))
    monkeypatch.undo()
    outbox.append(epoch(3))
    outbox.close()
    assert records(path) == [epoch(1), epoch(3)]


def test_a_broken_line_in_the_middle_is_shown_as_unreadable(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(f"{json.dumps(epoch(1))}\nnot json\n[1]\n{json.dumps(epoch(2))}\n")
    assert [record["kind"] for record in records(path)] == ["epoch", "unreadable", "unreadable", "epoch"]


def test_a_second_opener_learns_which_process_has_the_outbox_open(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", APPEND_FOR_EVER, str(path)], cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        with pytest.raises(ValueError, match=f"in use by process {holder.pid} on .* since "):
            Outbox(path)
    finally:
        holder.kill()
        holder.communicate()
    Outbox(path).close()


def test_one_process_cannot_open_an_outbox_twice(path: Path) -> None:
    outbox = Outbox(path)
    with pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
        Outbox(path)
    outbox.close()
    outbox.close()
    Outbox(path).close()


def test_the_index_knows_the_state_of_every_trial() -> None:
    index = OutboxIndex()
    index.absorb({"kind": "begin_sweep", "sweep_id": "s"})
    for trial_id in ("a", "b", "c"):
        index.absorb({"kind": "plan", "trial_id": trial_id, "tags": {"status": "planned"}})
    index.absorb({"kind": "epoch", "trial_id": "a", "epoch": 1, "starts": True})
    index.absorb({"kind": "epoch", "trial_id": "b", "epoch": 1, "starts": True})
    index.absorb({"kind": "end", "trial_id": "b", "status": "oom"})
    assert index.trials == {"a": "running", "b": "ended", "c": "planned"}
    index.absorb({"kind": "end_sweep", "open_trials": ["a", "c"]})
    assert index.trials == {"a": "planned", "b": "ended", "c": "planned"}
    assert index.statuses == {"b": "oom"}
    assert (index.sweep_id, index.epochs, index.records) == ("s", {("a", 1), ("b", 1)}, 8)


def test_each_store_has_a_position_of_its_own(path: Path) -> None:
    path.parent.mkdir()
    upload = Upload(start=3, kind="end", trial_id="t", part="model")
    first = Position.load(path, store="here", size=10)
    first.offset, first.runs, first.uploads, first.refused_noted = 10, {"t": "run"}, [upload], 2
    first.save()
    other = Position.load(path, store="there", size=10)
    assert (other.offset, other.runs, other.uploads, other.refused_noted) == (0, {}, [], 0)
    other.offset = 5
    other.save()
    again = Position.load(path, store="here", size=10)
    assert (again.offset, again.runs, again.uploads, again.refused_noted) == (10, {"t": "run"}, [upload], 2)
    assert Position.load(path, store="there", size=10).offset == 5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"store": "here"}', '{"store": "here", "offset": 11, "runs": {}}'])
def test_a_position_that_makes_no_sense_is_the_beginning(path: Path, content: str) -> None:
    path.parent.mkdir()
    beside(path, "position").write_text(content)
    position = Position.load(path, store="here", size=10)
    assert (position.offset, position.runs) == (0, {})


def test_a_position_of_an_earlier_version_has_no_files_that_wait(path: Path) -> None:
    path.parent.mkdir()
    beside(path, "position").write_text('{"store": "here", "offset": 7, "runs": {"t": "run"}}')
    position = Position.load(path, store="here", size=10)
    assert (position.offset, position.runs, position.uploads) == (7, {"t": "run"}, [])
