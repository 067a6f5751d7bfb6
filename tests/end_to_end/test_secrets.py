"""One small real sweep with secrets in its environment and traps in its current folder: who has seen and run them?"""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from secret_kit import CANARIES, PLANTED, environments, files_with, found_in, plant_modules
from server_kit import Server
from sweep_kit import ROOT
from uv_kit import as_uv_run

from tune.tracking.reader import read_sweep
from tune.tracking.store import PROJECT

IN_URI, IN_ENVIRONMENT = "canary-of-the-uri", "canary-of-the-environment"
EVERY = (*CANARIES, IN_URI.encode(), IN_ENVIRONMENT.encode())
SWEEP = (  # noqa: SIM905
    "--sweep custom --dataset demo --epochs 1 --repeats 1 --set data.feed=arrow --set data.num_workers=1 "
    "--set data.context_length=96 --set data.prediction_length=24 --set model.d_model=32 --set model.ffn_dim=32"
).split()
# What a notebook, a job of another cluster and a platform around Ray leave in an environment
OF_OTHERS = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "RAY_ADDRESS": "127.0.0.1:9", "RAY_REDIS_ADDRESS": "127.0.0.1:9", "RAY_NAMESPACE": "theirs",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_0.zip"}, "metadata": {}}),
    "RAY_RUNTIME_ENV_HOOK": "nowhere.hook", "RAY_TUNE_CALLBACKS": "nowhere.Callback", "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_RUNTIME_ENV_PLUGINS": '[{"class": "nowhere.Plugin"}]', "RAY_OVERRIDE_RESOURCES": '{"CPU": 0}',
}  # fmt: skip
TRAPS = (
    "model", "tune", "data_pipeline/__init__.py", "launcher/__init__.py", "numpy", "yaml", "torch", "ray", "mlflow",
    "pandas/__init__.py", "triton", "json", "argparse", "multiprocessing/__init__.py", "experiments",
)  # fmt: skip


@dataclass
class Watched:
    """A sweep that has ended, and what could be seen of its processes while it ran."""

    folder: Path
    server: Server
    executed: Path  # holds the names of those traps that were run
    code: int
    commands: set[str] = field(default_factory=set)
    inherited: dict[str, set[str]] = field(default_factory=dict)  # command line -> secrets in its environment
    core_limits: dict[str, int] = field(default_factory=dict)  # command line -> bytes
    listening: set[tuple[str, str, int]] = field(default_factory=set)  # process name, address, port
    sessions: dict[str, int] = field(default_factory=dict)  # name and mode of each folder that Ray was given

    @property
    def sweep_dir(self) -> Path:
        (found,) = (self.folder / "runs").glob("custom-*")
        return found


def _look(watched: Watched, driver: psutil.Process) -> None:
    try:
        started = driver.children(recursive=True)
    except psutil.Error:  # it has just ended
        return
    for command, environment in environments(started):
        if "experiments.py" in command or command.startswith("git "):  # the driver's own: about to become another
            continue
        watched.inherited[command] = watched.inherited.get(command, set()) | found_in(environment, EVERY)
    for process in [driver, *started]:
        try:
            command = " ".join(process.cmdline())
            watched.commands.add(command)
            if process is not driver or watched.inherited:  # it has begun
                watched.core_limits[command] = process.rlimit(resource.RLIMIT_CORE)[0]
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    watched.listening.add((process.name(), connection.laddr.ip, connection.laddr.port))
        except psutil.Error:  # it has just ended
            continue


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("secret")
    server = Server(folder)
    server.start()
    try:
        yield _run_watched(folder, server)
    finally:
        server.kill()


def _run_watched(folder: Path, server: Server) -> Watched:
    host = server.uri.removeprefix("http://")
    seen = Watched(folder, server, folder / "executed", code=-1)
    for place in (folder, folder / "relative"):
        plant_modules(place, seen.executed, TRAPS)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as sockets:  # Ray's sockets need a short path
        secrets = {"MLFLOW_TRACKING_URI": f"http://ann:{IN_URI}@{host}", "MLFLOW_TRACKING_PASSWORD": IN_ENVIRONMENT}
        environment = {**os.environ, **PLANTED, **secrets, "MLFLOW_TRACKING_USERNAME": "ann", "RAY_TMPDIR": sockets}
        environment |= {**OF_OTHERS, "PYTHONPATH": f":relative:{ROOT}"}
        with (folder / "driver.log").open("wb") as log:
            launcher = subprocess.Popen(
                as_uv_run(folder, sys.executable, str(ROOT / "experiments.py"), *SWEEP), executable=sys.executable,
                cwd=folder, env=environment, stdout=log, stderr=log, preexec_fn=_allow_cores, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 540
        try:
            while launcher.poll() is None and time.monotonic() < deadline:
                for driver in psutil.Process(launcher.pid).children():
                    _look(seen, driver)
                _keep(folder, Path(sockets))
                time.sleep(0.5)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)
        seen.code = launcher.wait()
        seen.sessions = {path.name: stat.S_IMODE(path.stat().st_mode) for path in Path(sockets).iterdir()}
    return seen


def _keep(folder: Path, sockets: Path) -> None:
    """Link every file that Ray has by now, for the search: the sweep removes them at its end."""
    (folder / "ray-logs").mkdir(exist_ok=True)
    for file in [*sockets.rglob("*"), *folder.glob("runs/*/attempt-*/*")]:
        with suppress(OSError):  # it is gone, or linked already
            if file.is_file() and not file.is_symlink():
                os.link(file, folder / "ray-logs" / f"{file.stat().st_ino}-{file.name}")


def _allow_cores() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)


def test_the_sweep_with_secrets_traps_and_variables_of_others_runs_to_its_end_under_uv_run(watched: Watched) -> None:
    assert watched.code == 0, (watched.folder / "driver.log").read_text()
    assert len(PLANTED) >= 25


def test_no_file_of_the_sweep_of_mlflow_or_of_ray_holds_a_secret(watched: Watched) -> None:
    for name in ("*tuner.pkl", "*runtime_env_agent*"):
        assert list((watched.folder / "ray-logs").glob(name))
    assert files_with(watched.folder, EVERY) == {}  # storage, MLflow's database and artifacts, logs of driver and Ray


def test_the_search_for_secrets_finds_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "tuner.pkl").write_bytes(b"\x80\x04" + CANARIES[0])
    assert list(files_with(tmp_path).values()) == [{CANARIES[0].decode()}]


def test_no_process_shows_a_secret_in_its_command_line(watched: Watched) -> None:
    assert any("raylet" in command for command in watched.commands)
    assert not [command for command in watched.commands if found_in(command.encode(), EVERY)]


def test_no_process_that_the_driver_starts_inherits_a_secret(watched: Watched) -> None:
    for part in ("raylet/raylet", "gcs_server", "runtime_env/agent", "tune.worker.", "multiprocessing"):
        assert any(part in command for command in watched.inherited), part  # they were looked at
    assert {command: names for command, names in watched.inherited.items() if names} == {}


def test_no_process_may_leave_a_core_dump(watched: Watched) -> None:
    assert any("experiments.py" in command for command in watched.core_limits)
    assert {command: limit for command, limit in watched.core_limits.items() if limit not in (0, 1)} == {}


def test_no_process_runs_a_module_of_the_current_folder_or_a_relative_import_path(watched: Watched) -> None:
    assert (watched.folder / "model.py").exists() and (watched.folder / "relative" / "numpy.py").exists()
    assert not watched.executed.exists(), watched.executed.read_text()


def test_nothing_of_the_current_folder_is_sent_to_workers(watched: Watched) -> None:
    sent = {file.name.partition("-")[2] for file in (watched.folder / "ray-logs").iterdir()}
    assert "connect.py" in sent and not sent & {"numpy.py", "yaml.py", "experiments.py"}


def test_no_worker_is_started_with_uv(watched: Watched) -> None:
    workers = [command for command in watched.commands if "default_worker.py" in command or "ray::" in command]
    assert workers and not [command for command in watched.commands if command.startswith("uv ")]


def test_no_param_or_tag_in_mlflow_holds_a_secret(watched: Watched) -> None:
    sweep = read_sweep(watched.server.uri, PROJECT, watched.sweep_dir.name)
    assert len(sweep.trials) == 1
    assert found_in(str(sweep).encode(), EVERY) == set()


def test_a_sweep_without_address_listens_on_loopback_only(watched: Watched) -> None:
    assert {name for name, *_ in watched.listening} & {"raylet", "gcs_server"}
    loopback = ("127.", "::1", "::ffff:127.")
    assert not [address for address in watched.listening if not address[1].startswith(loopback)]


def test_no_other_account_reaches_the_code_and_sockets_of_a_local_ray(watched: Watched) -> None:
    assert watched.sessions == {f"ray-{os.getuid()}": 0o700}


def test_what_is_believed_later_is_its_owners_alone(watched: Watched) -> None:
    private = [watched.sweep_dir, *(watched.folder / "runs" / name for name in ("gate", "compile", ".opening"))]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in private if path.exists()} == {
        path.name: 0 for path in private if path.exists()
    }
    assert stat.S_IMODE((watched.sweep_dir / "outbox.jsonl").stat().st_mode) == 0o600
