"""Two simulated machines for `ray up`: one sshd each, on 127.0.0.10 and 127.0.0.11, isolated from this machine.

Both live in one network and process namespace. Its first process ends when this process ends or closes its stdin; the
kernel then ends everything inside. Each machine has its own process namespace, so that `ray stop` sees only its own
node, its own home, and its own folder as /tmp/ray. No connection crosses the namespace's border, in or out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from system_kit import skip_for_want_of

ROOT = Path(__file__).resolve().parents[2]
ADDRESSES = ("127.0.0.10", "127.0.0.11")

SSHD = """\
ListenAddress {address}:22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""

# $1 is the folder, the rest are addresses. sshd reads the home from /etc/passwd; so does ssh, for the key on the head.
MACHINES = """\
set -eu
folder=$1; shift
ip link set lo up
mount --bind "$folder/here" /tmp/ray
for address in "$@"; do
  unshare --mount --pid --fork --mount-proc --kill-child sh -c '
    mount --bind "$1/$2/ray" /tmp/ray
    mount --bind "$1/$2/passwd" /etc/passwd
    exec "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f "$1/$2/sshd_config"' sh "$folder" "$address" \\
    2> "$folder/$address/sshd.log" < /dev/null &
done
touch "$folder/ready"
read -r _ || true
"""


def need_system(*problems: str) -> None:
    """Skip with what this machine lacks. With REQUIRE_SYSTEM=1 (CI) that is a failure."""
    if problems:
        skip_for_want_of("; ".join(problems))


def lacking() -> list[str]:
    """What this machine lacks of what the simulated machines need."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    packages = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client", "rsync": "rsync"}
    packages |= {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "make": "make", "curl": "curl"}
    missing = [f"no {name} (install {pack})" for name, pack in packages.items() if not shutil.which(name, path=path)]
    if missing:
        return missing
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return [] if tried.returncode == 0 else [f"unshare makes no namespaces here ({tried.stderr.strip()}): run as root"]


@dataclass
class Machines:
    """Use as a context. `run` runs a command on the user's own machine, which reaches the others by ssh."""

    folder: Path

    def __enter__(self) -> Machines:
        self._prepare()
        (self.folder / "machines.sh").write_text(MACHINES)
        options = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        command = ["unshare", *options, "bash", str(self.folder / "machines.sh"), str(self.folder), *ADDRESSES]
        self._log = open(self.folder / "machines.log", "wb")  # noqa: SIM115  closed by __exit__
        self._outer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log)
        self._until(lambda: (self.folder / "ready").exists(), 30)
        (first,) = psutil.Process(self._outer.pid).children()
        self._enter = ["nsenter", "--target", str(first.pid), "--net", "--mount", "--pid", f"--wd={ROOT}"]
        self._until(lambda: all("listening" in self.log(address) for address in ADDRESSES), 30)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._outer.stdin is not None
        inside = self.processes()
        self._outer.stdin.close()
        try:
            self._outer.wait(timeout=20)
        finally:
            self._outer.kill()
            self._outer.wait()
            self._log.close()
        left = psutil.wait_procs(inside, timeout=20)[1]
        assert not left, f"still there: {[process.cmdline() for process in left]}"

    def processes(self) -> list[psutil.Process]:
        """All processes inside: what a machine starts stays a descendant of its sshd."""
        return psutil.Process(self._outer.pid).children(recursive=True)

    def home(self, address: str) -> Path:
        return self.folder / address / "home"

    def log(self, address: str) -> str:
        return (self.folder / address / "sshd.log").read_text()

    def run(self, *command: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        bin_dir = str(Path(sys.executable).parent)
        environment = {"HOME": str(self.folder / "user"), "PATH": f"{bin_dir}:{os.environ['PATH']}", "TERM": "dumb"}
        environment["TMPDIR"] = str(self.folder / "user")  # Ray caches a cluster's state there
        return subprocess.run(
            [*self._enter, *command],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip

    def _prepare(self) -> None:
        Path("/tmp/ray").mkdir(exist_ok=True)  # a place to mount on
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's empty folder for its unprivileged child
        for name in ("here", "user", "shared"):
            (self.folder / name).mkdir()
        for name in ("key", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)], check=True)
        for address in ADDRESSES:
            self._prepare_machine(address)

    def _prepare_machine(self, address: str) -> None:
        folder, home = self.folder / address, self.home(address)
        for path in (folder / "ray", home / "patchtst-sweeps"):
            path.mkdir(parents=True)
        (home / ".bashrc").touch()  # Ray sources it without looking whether it exists
        users = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
        lines = [":".join([*user[:5], str(home), "/bin/bash"] if user[0] == "root" else user) for user in users]
        (folder / "passwd").write_text("\n".join(lines) + "\n")
        (folder / "sshd_config").write_text(SSHD.format(address=address, folder=self.folder))
        _share_packages(home / "patchtst-sweeps" / ".venv")

    def _until(self, happened: Callable[[], bool], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not happened():
            if self._outer.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the machines did not start: {(self.folder / 'machines.log').read_text()}")
            time.sleep(0.05)


def _share_packages(environment: Path) -> None:
    """A virtual environment with this one's packages, which `make setup` takes for complete."""
    environment.mkdir()
    for name in ("bin", "lib"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    if (settings := Path(sys.prefix) / "pyvenv.cfg").exists():
        shutil.copy(settings, environment)
    (environment / ".runtime").touch()
