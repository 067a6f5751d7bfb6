"""A sweep in surroundings like a container's: a uid without account, read-only root and HOME, 64 MiB of shared memory,
no network, storage on a mount where chmod changes nothing. TMPDIR and the current folder are all that is set."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_kit import UID, bound, environment, in_container, need
from sweep_kit import ROOT, Ran

pytestmark = pytest.mark.cluster
SWEEP = (  # noqa: SIM905
    "--sweep custom --over train.learning_rate=0.001 --dataset demo --epochs 1 --repeats 1 "
    "--set data.context_length=48 --set data.prediction_length=12 --set model.d_model=16 --set model.num_heads=4 "
    "--set model.ffn_dim=16 --set train.batch_size=256"
).split()
LONG = "x" * 60  # the name of a folder


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    """The container's only writable folder; `storage` in it is a mount that shows 0777 for everything."""
    need("bindfs")
    folder = Path(tempfile.mkdtemp(prefix="w", dir="/tmp"))  # short, for sockets
    for name in ("t", LONG):
        (folder / name).mkdir()
    with bound(folder / "disk", folder / "storage", "--perms=a+rwX", "--chmod-ignore", "--chown-ignore"):
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


def in_it(work: Path, *arguments: str, cwd: str | None = None, **variables: str | None) -> Ran:
    """The command in the container; cwd: there, by default the writable folder."""
    moved = [] if cwd is None else ["env", f"--chdir={cwd}"]
    command = [*in_container(work), *moved, sys.executable, str(ROOT / "experiments.py"), *arguments]
    done = subprocess.run(
        command, env=environment(**{"HOME": "/usr", **variables}), capture_output=True, text=True, timeout=540
    )
    return Ran(work, done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def ran(work: Path) -> Ran:
    return in_it(work, *SWEEP, "--storage-path", "storage/runs", TMPDIR=str(work / "t"))


def test_the_sweep_runs_to_its_end(ran: Ran) -> None:
    assert ran.code == 0, ran.err
    (trial,) = ran.record().trials
    assert trial.status == "done"


def test_the_sweep_says_where_it_keeps_what_its_storage_cannot_keep_private(ran: Ran, work: Path) -> None:
    (line,) = [line for line in ran.err.splitlines() if "keeps no permissions or owners" in line]
    assert f"{work}/t/ray-{UID}/caches/" in line


def test_nothing_is_written_beside_storage_store_and_temporary_folder(ran: Ran, work: Path) -> None:
    assert {path.name for path in work.iterdir()} <= {
        "t", LONG, "disk", "storage", "mlflow.db", "mlflow-artifacts", "mlruns", "mlartifacts", "data", ".root",
    }  # fmt: skip


# What cannot be written -> the command's own folder, its arguments, TMPDIR in the writable folder, what the line says
REFUSED = {
    "the current folder": ("/usr", (), "t", "--storage-path runs: /usr is not writable"),
    "the store": ("/usr", ("--storage-path", "{work}/runs"), "t", "mlflow.db"),
    "any temporary folder": (
        "/usr", ("--storage-path", "{work}/runs", "--tracking-uri", "sqlite:///{work}/mlflow.db"), None,
        "'/usr']: set TMPDIR to a folder that can be written",
    ),
    "a folder for sockets": (None, (), LONG, "its path is too long for Ray's sockets, at most"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_named_in_one_line_before_ray_starts(work: Path, name: str) -> None:
    cwd, arguments, temporary, said = REFUSED[name]
    given = [text.replace("{work}", str(work)) for text in arguments]
    done = in_it(work, *SWEEP, *given, cwd=cwd, TMPDIR=temporary and str(work / temporary))
    assert done.code == 2, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "Traceback" not in done.err
