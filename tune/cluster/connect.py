"""Join a Ray cluster, or start Ray on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tune.cluster.auth_token import check_cluster_token, check_token_file, own_token
from tune.cluster.bash_on_path import bash_on_path
from tune.cluster.old_sessions import clear_dead_sessions, keep_own_session, remove_own_session
from tune.cluster.session_folder import object_store, on_loopback, session_folder
from tune.common import signals
from tune.common.errors import WrongInput, first_line
from tune.common.process import JOB_CONFIG
from tune.common.secrets import hidden, secret_names
from tune.common.temporary import own_folder
from tune.machine.code_identity import CODE, REPO_ROOT
from tune.machine.device import available_cpus

CONNECT_S = 4.0  # an address where nothing answers within this is refused
PACKAGE_DIRS = [str(REPO_ROOT / entry) for entry in CODE if not entry.endswith(".py")]
# Variables of another Ray: of the job that this process is part of, of a cluster's store, of its nodes, its extensions
OF_ANOTHER_RAY = (
    JOB_CONFIG, "RAY_ADDRESS", "RAY_NAMESPACE", "RAY_REDIS_ADDRESS", "RAY_OVERRIDE_JOB_RUNTIME_ENV",
    "RAY_OVERRIDE_RESOURCES", "RAY_OVERRIDE_LABELS", "RAY_OVERRIDE_NODE_ID_FOR_TESTING", "RAY_RUNTIME_ENV_PLUGINS",
    "RAY_RUNTIME_ENV_PLUGIN_SCHEMAS", "RAY_GCS_SERVER_PORT", "RAY_CLIENT_MODE",
)  # fmt: skip


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, joined at `address` or started on this machine, and shut down at the end. Workers get our packages.

    Raises WrongInput if nothing answers at `address`, or Ray can neither join nor start.
    """
    with own_token() if address is None else nullcontext(), _connected(address) as ray:
        yield ray


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the outbox has the results
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "inf")  # Tune's state of all trials, which we never read
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints to stdout even at verbose=0
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is not None:
        _check_address(address)  # Ray itself retries for minutes where nothing listens
    check_token_file()
    if address is not None:
        check_cluster_token(*_parse(address))
    import ray

    sweeping = nullcontext() if address is not None else signals.sweeping_up(_remove_session)
    try:
        with sweeping:
            if address is None:
                with bash_on_path(own_folder() / "bin"):
                    _start(ray)
            else:
                _join(ray, address)
            yield ray
    finally:
        _leave(ray, started=address is None)


def _leave(ray: Any, *, started: bool) -> None:
    """Disconnect from Ray. Where we have started it, nothing of it stays, also if a signal comes meanwhile."""
    try:
        if not (started and signals.received()):  # else Ray would wait for processes that may have got the signal too
            with signals.calls_into_library():
                ray.shutdown()
    finally:
        if started:
            with signals.deferred():
                if signals.received():
                    signals.kill_children()
                _remove_session()


def _remove_session() -> None:
    remove_own_session(own_folder() / "s")


def _start(ray: Any) -> None:
    """Start Ray on this machine. Its processes get no secret of this one, and another current folder."""
    folder = session_folder().absolute()
    clear_dead_sessions(folder)
    # "local", or Ray would join what somebody's `ray start` on this machine left
    options = {"address": "local", "num_cpus": available_cpus(), "include_dashboard": False, "_temp_dir": str(folder)}
    try:
        with hidden([*OF_ANOTHER_RAY, *secret_names(os.environ)]), chdir(folder.parent), on_loopback():
            _init(ray, **object_store(folder), **options)
    except Exception as error:  # Ray raises ConnectionError, ValueError, plain Exception, ...
        problem = f"Ray did not start on this machine: {first_line(error)}"
        keep_own_session(folder)
        raise WrongInput(f"{problem}; its logs are in {folder}/session_latest/logs") from error


def _join(ray: Any, address: str) -> None:
    try:
        _init(ray, address=address)
    except Exception as error:  # as above, and RuntimeError (versions)
        raise WrongInput(f"--address {address}: {first_line(error)}; is a Ray cluster running there?") from error


def _init(ray: Any, **options: Any) -> None:
    """Connect to Ray, whose workers then import from our packages and their own Python only.

    Without a working_dir Ray puts this process's current folder, and that of its script, before everything else that
    its workers import. A submitted job has one already: our sources.
    """
    runtime_env: dict[str, Any] = {"py_modules": PACKAGE_DIRS}
    with signals.calls_into_library(), TemporaryDirectory(prefix="sweep-") as empty:
        if JOB_CONFIG not in os.environ:
            runtime_env["working_dir"] = str(Path(empty).absolute())
        ray.init(runtime_env=runtime_env, log_to_driver=False, logging_level="ERROR", **options)


def _check_address(address: str) -> None:
    """Raises WrongInput within CONNECT_S seconds if nothing listens. Ray itself finds the cluster of `auto`."""
    given, target = _parse(address)
    if target is None:
        return
    try:
        socket.create_connection(target, timeout=CONNECT_S).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise WrongInput(
            f"{given}: nothing answers there ({reason}); is a Ray cluster running? Without --address Ray starts here"
        ) from None


def check_address_form(address: str) -> None:
    """Raises WrongInput for a malformed address, without connecting."""
    _parse(address)


def _parse(address: str) -> tuple[str, tuple[str, int] | None]:
    """The address as it was given, and its host and port; None for `auto`. WrongInput for a malformed one."""
    target = address if address != "auto" else os.environ.get("RAY_ADDRESS") or "auto"
    given = f"--address {address}" if target == address else f"--address {address} (RAY_ADDRESS={target})"
    if target == "auto":
        return given, None
    host, _, port = target.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise WrongInput(f"{given}: write HOST:PORT, ray://HOST:PORT or auto; without --address Ray starts here")
    return given, (host.strip("[]"), int(port))
