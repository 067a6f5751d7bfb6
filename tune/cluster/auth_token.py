"""Ray's token: one of our own for a Ray that we start; for a cluster, whether its token is ours, and nobody else's."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tune.common.errors import WrongInput
from tune.common.temporary import own_folder

MODE, TEXT, FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"  # variables that Ray reads
ANSWERS_WITHIN_S = 4.0


@contextmanager
def own_token() -> Iterator[None]:
    """Inside, a Ray that we start has a token in our private folder: HOME need not be writable, or hold a token.

    A cluster's token is not used for it, but RAY_AUTH_MODE=disabled is obeyed. WrongInput as `own_folder`.
    """
    before = {name: os.environ.pop(name) for name in (MODE, TEXT, FILE) if name in os.environ}
    try:
        mode = before.get(MODE, "token")
        os.environ[MODE] = mode
        if mode.lower() == "token":
            os.environ[FILE] = str(_token_file(own_folder()))
        _read_anew()
        yield
    finally:
        for name in (MODE, TEXT, FILE):
            os.environ.pop(name, None)
        os.environ.update(before)
        _read_anew()


def _token_file(folder: Path) -> Path:
    """The file with our token, made if it is missing. Of two processes that make it at once, one wins."""
    path = folder / "token"
    if not path.exists():
        draft = folder / f".token-{secrets.token_hex(8)}"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path


def _read_anew() -> None:
    """Make Ray, where it is imported, look at these variables again."""
    raylet: Any = sys.modules.get("ray._raylet")
    if raylet is not None:
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def check_token_file() -> None:
    """Make sure that only its owner can read the file with Ray's token.

    Raises WrongInput if others can read the file that the user named. Ray writes its default file readable by all:
    its mode is corrected.
    """
    named, path = os.environ.get(FILE), _users_file()
    try:
        status = path.stat()
    except OSError:  # no file: Ray says so if it needs one
        return
    if not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return
    if named or status.st_uid != os.getuid():
        raise WrongInput(f"RAY_AUTH_TOKEN_PATH {path}: others can read the token; do: chmod 600 {path}")
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def _users_file() -> Path:
    return Path(os.path.expanduser(os.environ.get(FILE) or "~/.ray/auth_token"))


def check_cluster_token(given: str, target: tuple[str, int] | None) -> None:
    """Raises WrongInput if the cluster at `target` (host, port) asks for a token that we do not send.

    given: the words of the command line; target: None: the cluster that Ray finds on this machine. Ray itself would
    repeat its question for 20 s and then say that no cluster runs there. What does not answer as a head is left to Ray.
    """
    found = target is None
    address = _cluster_here() if target is None else _as_address(*target)
    mode = os.environ.get(MODE, "").lower()
    sent = _users_token() if mode == "token" or (found and not mode) else None  # as Ray does it
    if address is None or not _refuses(address, sent):
        return
    if sent is None and mode != "token":
        how = f"RAY_AUTH_MODE=token (and RAY_AUTH_TOKEN_PATH, if its token is not in {_users_file()})"
        raise WrongInput(f"{given}: the cluster asks for a token: {how}")
    place = TEXT if os.environ.get(TEXT) else _users_file()
    wrong = "holds another" if sent else "holds none"
    how = "name a file of mode 600 with the cluster's token in RAY_AUTH_TOKEN_PATH"
    raise WrongInput(f"{given}: the cluster asks for a token, and {place} {wrong}: {how}")


def _cluster_here() -> str | None:
    """The address of the cluster that Ray would find by itself."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        address: str | None = canonicalize_bootstrap_address("auto")
    except Exception:  # Ray says what is wrong when it joins
        return None
    return address


def _as_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _users_token() -> str | None:
    """The token that the user's settings name."""
    if text := os.environ.get(TEXT):
        return text
    try:
        return _users_file().read_text().strip() or None
    except (OSError, ValueError):
        return None


def _refuses(address: str, token: str | None) -> bool:
    """Whether a cluster's head answers that this token, or none, is not enough."""
    import grpc  # comes with ray[default]

    headers = [("authorization", f"Bearer {token}")] if token else None

    def as_it_is(message: bytes) -> bytes:
        return message

    channel: Any
    with grpc.insecure_channel(address) as channel:
        method = "/ray.rpc.NodeInfoGcsService/GetClusterId"
        ask = channel.unary_unary(method, request_serializer=as_it_is, response_deserializer=as_it_is)
        try:
            ask(b"", timeout=ANSWERS_WITHIN_S, metadata=headers)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False
