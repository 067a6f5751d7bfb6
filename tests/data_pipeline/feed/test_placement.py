"""A series goes where there is room for it: on the device, then in page-locked memory, then it stays in its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.errors import DataError, DataUnsupported
from data_pipeline.feed import FEEDS, open_feed, placement
from data_pipeline.feed.placement import GIB, Room, check_device_memory, choose_placement, host_free
from data_pipeline.series.arrow_file import DamagedFile, endless_zeros, map_file, private_map
from data_pipeline.series.store import open_series


@pytest.mark.parametrize(
    ("series_gib", "device_gib", "host_gib", "feed"),
    [
        (1, None, 8, "device"),  # a CPU: its memory is the device's
        (100, 140, 500, "device"),
        (110, 140, 500, "pinned"),  # 105 of 140 GiB may hold data
        (110, 140, None, "pinned"),
        (400, 140, 500, "pinned"),
        (401, 140, 500, "mapped"),
        (1, 1, 1, "mapped"),
    ],
)
def test_the_fastest_feed_with_room_is_chosen_and_the_reason_has_the_numbers(
    series_gib: float, device_gib: float | None, host_gib: float | None, feed: str
) -> None:
    room = Room(device=device_gib and int(device_gib * GIB), host=host_gib and int(host_gib * GIB))
    chosen = choose_placement(int(series_gib * GIB), room)
    assert chosen.feed == feed and feed in FEEDS
    assert f"the series takes {series_gib:.1f} GiB" in chosen.reason
    if device_gib is not None:
        assert f"{device_gib * 0.75:.1f} GiB of the GPU's free {device_gib:.1f} GiB" in chosen.reason


MEMINFO = "MemTotal: 32000000 kB\nMemAvailable: 16777216 kB\n"


def _write(files: dict[str, str], root: Path) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@dataclass(frozen=True, kw_only=True)
class Machine:
    own_cgroup: str
    files: dict[str, str]
    free_gib: float


def _v1(limit_gib: float, used_gib: float, files_gib: float) -> dict[str, str]:
    return {
        "memory.limit_in_bytes": f"{int(limit_gib * GIB)}\n",
        "memory.usage_in_bytes": f"{int(used_gib * GIB)}\n",
        "memory.stat": f"cache 1\ntotal_inactive_file {int(files_gib * GIB)}\ntotal_active_file 0\n",
    }


def _v2(limit_gib: float | None, used_gib: float, files_gib: float) -> dict[str, str]:
    return {
        "memory.max": "max\n" if limit_gib is None else f"{int(limit_gib * GIB)}\n",
        "memory.current": f"{int(used_gib * GIB)}\n",
        "memory.stat": f"anon 1\ninactive_file 0\nactive_file {int(files_gib * GIB)}\n",
    }


def _in(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{folder}{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    "machine",
    [
        Machine(own_cgroup="", files={}, free_gib=16),
        Machine(own_cgroup="0::/\n", files=_v2(None, 3, 1), free_gib=16),
        Machine(own_cgroup="0::/\n", files=_v2(8, 3, 1), free_gib=6),
        Machine(own_cgroup="0::/a/b\n", files=_in("a/", _v2(8, 3, 0)) | _in("a/b/", _v2(None, 1, 0)), free_gib=5),
        Machine(own_cgroup="0::/not/shown\n", files=_v2(4, 1, 0), free_gib=3),
        Machine(own_cgroup="3:cpu:/\n2:memory:/x\n", files=_in("memory/x/", _v1(2, 1, 0.5)), free_gib=1.5),
        Machine(own_cgroup="2:memory:/\n", files=_in("memory/", _v1(2**33, 1, 0)), free_gib=16),
        Machine(own_cgroup="0::/\n", files=_v2(2, 3, 0), free_gib=0),
    ],
    ids=["none", "v2 max", "v2", "v2 parent", "v2 of a container", "v1", "v1 unlimited", "above its limit"],
)
def test_free_memory_is_what_the_system_has_within_the_control_groups_limits(tmp_path: Path, machine: Machine) -> None:
    _write({"meminfo": MEMINFO, "own": machine.own_cgroup}, tmp_path)
    cgroup = _write(machine.files, tmp_path / "cgroup")
    assert host_free(tmp_path / "meminfo", cgroup, tmp_path / "own") == machine.free_gib * GIB


def test_free_memory_is_unknown_where_nothing_tells(tmp_path: Path) -> None:
    assert host_free(tmp_path / "a", tmp_path / "b", tmp_path / "c") is None


def test_a_series_larger_than_the_free_memory_is_refused_by_the_pinned_feed_and_read_by_the_mapped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = open_series("demo", None, tmp_path)
    options = dict(context_length=48, prediction_length=12, batch_size=8, device="cpu", seed=1)
    monkeypatch.setattr(placement, "host_free", lambda: series.scaled.nbytes - 1)
    with pytest.raises(
        DataUnsupported, match=r"'pinned' needs .* KiB of host memory .* are free: use data.feed=mapped"
    ):
        open_feed("pinned", series, **options)
    feed = open_feed("mapped", series, **options)
    assert next(feed.train_batches(1)).valid == 8
    feed.close()


def test_a_series_larger_than_the_gpus_free_memory_is_refused_by_the_device_feed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    check_device_memory(3 * GIB, torch.device("cuda"))
    with pytest.raises(DataUnsupported, match="'device' needs 4.0 GiB .* 3.0 GiB are free: use data.feed=pinned"):
        check_device_memory(4 * GIB, torch.device("cuda"))


def _memory_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("MemTotal:", "SwapTotal:")))


def test_a_file_larger_than_the_memory_can_be_mapped(tmp_path: Path) -> None:
    size = _memory_bytes() + (1 << 30)
    with open(tmp_path / "sparse", "w+b") as file:
        file.truncate(size)
        mapped = private_map(file.fileno())
        assert len(mapped) == size and mapped[size - 1] == 0
        mapped.close()
    with pytest.raises(DamagedFile):
        map_file(tmp_path / "sparse", check=False)


def test_an_arrow_file_larger_than_the_memory_can_be_laid_out() -> None:
    zeros = endless_zeros((_memory_bytes() >> 2) + (1 << 28), np.float32)
    assert zeros[-1] == 0 and zeros.dtype == np.float32
    assert len(endless_zeros(0, np.uint8)) == 0


def test_a_file_that_is_cut_during_a_trial_is_an_error_in_one_line(tmp_path: Path) -> None:
    series = open_series("demo", None, tmp_path)
    options = dict(context_length=48, prediction_length=12, batch_size=8, device="cpu", seed=1)
    feed = open_feed("mapped", series, **options)
    with open(series.path, "r+b") as file:
        file.truncate(feed._loader._reader._offset + 4096)
    with pytest.raises(DataError, match="cut during this trial: run the trial again"):
        list(feed.eval_batches("test"))
    feed.close()
