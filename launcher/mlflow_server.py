"""An MLflow server for several people: accounts, allowed hosts, proxied artifacts; SQLite or PostgreSQL behind it.

    make mlflow-server                                                       # SQLite, this machine only
    BACKEND_STORE_URI=postgresql+psycopg2://USER:PASSWORD@DB/mlflow HOST=0.0.0.0 \\
        MLFLOW_SERVER_ALLOWED_HOSTS=mlflow.example.org make mlflow-server

`read_settings` reads the environment. `prepare` makes SERVER_DIR, which only its owner can read: it holds the
administrator's password, the session key and the accounts. `main` then becomes `mlflow server`. Secrets travel in the
environment and in these files, never on a command line, which `ps` shows to everybody.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from tune.common.address import redacted, settled_uri
from tune.common.errors import WRONG_INPUT, WrongInput
from tune.common.files import make_private
from tune.common.process_setup import keep_to_absolute_paths, no_core_dumps
from tune.tracking.store import STORE_ANSWERS_WITHIN_S, TrackingError, check_store

ADMIN = "admin"
AUTH_CACHE_S = 60  # a right password is not hashed again for so long: a request takes 20 ms instead of 258
EVERY_ADDRESS = ("0.0.0.0", "::")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server is started with."""

    folder: Path  # absolute; holds passwords, accounts, and by default runs and artifacts
    backend_store_uri: str
    artifacts_destination: str
    host: str
    port: int
    allowed_hosts: str  # Host headers that the server answers, comma-separated
    workers: int

    @property
    def password_file(self) -> Path:
        """Holds the administrator's first password."""
        return self.folder / "admin-password"

    @property
    def auth_config(self) -> Path:
        return self.folder / "basic-auth.ini"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in these variables. An empty variable counts as not given. Raises WrongInput for a wrong one."""
    folder = Path(environment.get("SERVER_DIR") or "mlflow-server").absolute()
    host = environment.get("HOST") or "127.0.0.1"
    port = _whole_number(environment, "PORT", 5000, 1, 65535)
    return Settings(
        folder=folder,
        backend_store_uri=_backend(environment.get("BACKEND_STORE_URI") or f"sqlite:///{folder / 'mlflow.db'}"),
        artifacts_destination=_absolute(environment.get("ARTIFACTS_DESTINATION") or str(folder / "artifacts")),
        host=host,
        port=port,
        allowed_hosts=environment.get("MLFLOW_SERVER_ALLOWED_HOSTS") or _own_names(host, port),
        workers=_whole_number(environment, "WORKERS", 2, 1, 64),
    )


def _whole_number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    given = environment.get(name) or str(default)
    if not given.isdecimal() or not least <= int(given) <= most:
        raise WrongInput(f"{name}={given}: give a whole number from {least} to {most} (default {default})")
    return int(given)


def _backend(uri: str) -> str:
    """`uri`, absolute. Raises WrongInput unless it is a SQLite file or PostgreSQL with the driver that we install."""
    if uri.startswith("sqlite:///"):
        return settled_uri(uri)
    if not uri.startswith("postgresql+psycopg2://"):
        raise WrongInput(
            f"BACKEND_STORE_URI={redacted(uri)}: give sqlite:///FILE or "
            "postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE"
        )
    return uri


def _absolute(destination: str) -> str:
    return destination if urlsplit(destination).scheme else str(Path(destination).absolute())


def _own_names(host: str, port: int) -> str:
    """This machine's names for itself. Raises WrongInput for a host that others reach: we cannot know their names."""
    if host in EVERY_ADDRESS:
        raise WrongInput(
            f"HOST={host} lets other machines in, whose name for this one is not known here: give it as "
            f"MLFLOW_SERVER_ALLOWED_HOSTS, such as mlflow.example.org or mlflow.example.org:{port}"
        )
    names = dict.fromkeys((f"[{host}]" if ":" in host else host, "localhost", "127.0.0.1"))
    return ",".join(f"{name}:{port}" for name in names)


def prepare(settings: Settings) -> dict[str, str]:
    """Make the folder and its secrets if they are missing. Returns the variables that the server is started with.

    Raises WrongInput if others can write to the folder, or if MLflow's packages for accounts are missing, and
    TrackingError if the store does not answer.
    """
    if find_spec("flask_wtf") is None:
        raise WrongInput("MLflow's accounts need the package Flask-WTF: pip install -r requirements.txt")
    try:
        make_private(settings.folder, "passwords")
    except (OSError, RuntimeError) as error:
        raise WrongInput(f"SERVER_DIR={settings.folder}: {error}") from None
    check_store(settings.backend_store_uri, timeout_s=STORE_ANSWERS_WITHIN_S)
    password = _secret(settings.password_file)
    _write_private(settings.auth_config, _auth_config(settings, password))
    return {
        "MLFLOW_BACKEND_STORE_URI": settings.backend_store_uri,
        "MLFLOW_AUTH_CONFIG_PATH": str(settings.auth_config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _secret(settings.folder / "session-key"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": settings.allowed_hosts,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # no sweep needs its seven processes
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONSAFEPATH": "1",
    }


def _auth_config(settings: Settings, password: str) -> str:
    accounts = str(settings.folder / "accounts.db").replace("%", "%%")  # a percent sign is special in an INI file
    return (
        "[mlflow]\n"
        "default_permission = EDIT\n"  # all sweeps share one experiment, which its creator owns
        f"database_uri = sqlite:///{accounts}\n"
        f"admin_username = {ADMIN}\n"
        f"admin_password = {password}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        f"auth_cache_ttl_seconds = {AUTH_CACHE_S}\n"
    )


def _secret(file: Path) -> str:
    """The secret in `file`, made first if there is none."""
    if not file.exists():
        _write_private(file, secrets.token_urlsafe(24) + "\n")
    file.chmod(0o600)
    return file.read_text().strip()


def _write_private(file: Path, text: str) -> None:
    """Write a file in one step. From its first byte on, only its owner can read it."""
    draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    draft.replace(file)


def command(settings: Settings) -> list[str]:
    """The command line of the server. Nothing in it is secret."""
    return [
        sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth",
        "--host", settings.host, "--port", str(settings.port), "--workers", str(settings.workers),
        "--serve-artifacts", "--artifacts-destination", settings.artifacts_destination,
    ]  # fmt: skip


def how_to_use(settings: Settings) -> str:
    """How a person uses the server, without the password itself."""
    shown = "127.0.0.1" if settings.host in EVERY_ADDRESS else settings.host
    return (
        f"MLflow server at http://{shown}:{settings.port}, store {redacted(settings.backend_store_uri)}\n"
        f"allowed Host headers: {settings.allowed_hosts}\n"
        f"user {ADMIN}, first password in {settings.password_file}; for a sweep:\n"
        f"  export MLFLOW_TRACKING_URI=http://{shown}:{settings.port} MLFLOW_TRACKING_USERNAME={ADMIN}\n"
        f'  export MLFLOW_TRACKING_PASSWORD="$(cat {shlex.quote(str(settings.password_file))})"'
    )


def main() -> NoReturn:
    """Become `mlflow server`, or print in one line what is wrong."""
    try:
        settings = read_settings(os.environ)
        variables = prepare(settings)
    except (WrongInput, TrackingError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT)
    print(how_to_use(settings), file=sys.stderr, flush=True)
    os.umask(0o077)  # others may read neither the databases nor the artifacts
    no_core_dumps()
    keep_to_absolute_paths(os.environ)
    os.chdir(settings.folder)  # the web server imports from the current folder before anything else
    os.execve(sys.executable, command(settings), os.environ | variables)


if __name__ == "__main__":
    main()
