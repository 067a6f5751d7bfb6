"""Who runs a sweep: user, machine, process, and the Ray job if the command was submitted as one.

A submitted command runs under the cluster's account, so the user is taken from the submission. Ray does not verify it:
it tells people apart and grants no access.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tune.common.errors import printable


def alive(pid: int) -> bool:
    """Whether a process with this number runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        threads = len(os.listdir(f"/proc/{pid}/task"))  # its memory is freed when the last of them ends
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X") or threads > 1


JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # how Ray hands a submitted job's metadata to its process
JOB_ID, USER = "job_submission_id", "user"  # keys of that metadata: Ray's own, and ours
PROCESS_TAG = "process"  # of a sweep's run in MLflow: its latest process, as JSON
_LONGEST = 64


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """One process that runs a sweep; unknown values are None."""

    user: str | None
    host: str | None
    pid: int | None
    since: str | None  # UTC, to the second
    job: str | None = None  # its Ray job, as `experiments.py status` shows it
    boot: str | None = None  # the start of its machine
    pids: str | None = None  # what its number is a number in: the machine's processes, or a container's
    ticks: int | None = None  # its own start, since the machine's: with its number no other process has it

    @property
    def runs(self) -> bool | None:
        """Whether it still runs; None if that cannot be seen from here: on another machine, or in a container."""
        if None in (self.pid, self.boot, self.pids, self.ticks) or self.host != socket.gethostname():
            return None
        if self.boot != _boot():
            return False
        if self.pids != _pids():
            return None
        return alive(self.pid or 0) and _ticks(self.pid or 0) == self.ticks

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ProcessInfo:
        """What `as_json` wrote. From a text that is broken or of another kind, all values are None."""
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        content = content if isinstance(content, Mapping) else {}
        texts = {name: _printable(content.get(name)) for name in ("user", "host", "since", "job", "boot", "pids")}
        pid, ticks = (value if isinstance(value := content.get(name), int) else None for name in ("pid", "ticks"))
        return cls(pid=pid, ticks=ticks, **texts)

    def __str__(self) -> str:
        words = ["another process" if self.pid is None else f"process {self.pid}"]
        words += [f"on {self.host}"] if self.host else []
        words += [f"of {self.user}"] if self.user else []
        words += [f"since {self.since}"] if self.since else []
        words += [f"(job {self.job})"] if self.job else []
        return " ".join(words)


def this_process() -> ProcessInfo:
    """This process, from now on."""
    submitted = job_metadata()
    return ProcessInfo(
        user=_printable(submitted.get(USER)) or user_name(),
        host=socket.gethostname(),
        pid=os.getpid(),
        since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        job=_printable(submitted.get(JOB_ID)),
        boot=_boot(),
        pids=_pids(),
        ticks=_ticks(os.getpid()),
    )


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


def _pids() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _ticks(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None if there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def started_ms() -> int | None:
    """When this process started, in ms of the wall clock; None where the system does not say."""
    try:
        boot_s = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if "btime" in line)
    except (OSError, StopIteration, ValueError):
        return None
    ticks = _ticks(os.getpid())
    return None if ticks is None else round(1e3 * (boot_s + ticks / os.sysconf("SC_CLK_TCK")))


def job_metadata() -> dict[str, str]:
    """The metadata with which this process was submitted as a Ray job; empty if it was not."""
    try:
        metadata = json.loads(os.environ.get(JOB_CONFIG, "{}"))["metadata"]
    except (ValueError, KeyError, TypeError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def user_name() -> str | None:
    """The account that this process runs under; None if it has no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # in a container an account may have a number only
        return None


def _printable(value: object) -> str | None:
    """The first _LONGEST printable characters of a text; None if there are none, or if it is not a text."""
    return (printable(value)[:_LONGEST] or None) if isinstance(value, str) else None
