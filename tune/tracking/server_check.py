"""Whether an MLflow server, and no other web page, answers at an address: its API is asked for one experiment.

/health alone proves nothing: login pages and other services answer every path with 200.
"""

from __future__ import annotations

import html
import http.client
import importlib.metadata
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from enum import Enum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from tune.common.address import one_line, redacted, redacted_text

_API = "/api/2.0/mlflow/experiments/get-by-name"  # in every MLflow since 1.0
_HEALTH = "/health"
_MOST_READ = 64 * 1024
_SAME_METHOD = (307, 308)  # redirects that leave a POST a POST
_PASSING = (408, 425, 429)
_GATEWAY = (502, 503, 504)  # of a proxy whose server is away
_CREDENTIALS = ("USERNAME", "PASSWORD", "TOKEN", "AUTH", "AWS_SIGV4", "CLIENT_CERT_PATH")
_PLUGINS = ("mlflow.request_header_provider", "mlflow.request_auth_provider")


class Kind(Enum):
    """What an answer is."""

    MLFLOW = "MLflow's"
    LOGIN = "a request for credentials, or for others"
    FAILING = "an error that may pass"
    FOREIGN = "not MLflow's"


class Verdict(NamedTuple):
    """What an answer is, and in words what was seen and what to do; the words of MLFLOW are empty.

    answered: False where nothing answered at all.
    """

    kind: Kind
    words: str = ""
    answered: bool = True


class _Answer(NamedTuple):
    status: int
    text: str
    location: str


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _silence(bare: str, timeout_s: float) -> str | None:
    """Why nothing answers at /health of `bare`, an address without user and query; None for any answer but a 5xx."""
    try:
        answer = _get(bare.rstrip("/") + _HEALTH, timeout_s)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _silent(error)
    return f"answers {answer.status} at {_HEALTH}" if answer.status >= 500 else None


def ask_openly(bare: str, experiment: str, timeout_s: float) -> Verdict:
    """Ask the API at `bare` without credentials, in about `timeout_s` s. Nothing but the experiment's name is sent."""
    try:
        answer = _get(_api_url(bare, experiment), timeout_s / 2)
        if answer.status in _SAME_METHOD and _same_api(answer.location):
            answer = _get(answer.location, timeout_s / 2)
    except (OSError, ValueError, http.client.HTTPException) as error:
        silent: str | None = _silent(error)
        if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
            silent = _silence(bare, timeout_s / 2)
        if silent is None:
            return Verdict(Kind.FAILING, "is slow")
        return Verdict(Kind.FOREIGN, silent, answered=False)
    return _judge(answer, bare)


def ask_as_mlflow(tracking_uri: str, experiment: str, timeout_s: float) -> Verdict:
    """Ask the API as MLflow's client does, with its credentials, headers and certificates, once. Imports mlflow."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    def ask(address: str) -> _Answer:
        response = http_request(
            get_default_host_creds(address),
            _API,
            "GET",
            max_retries=0,
            timeout=timeout_s,
            raise_on_status=False,
            allow_redirects=False,
            params={"experiment_name": experiment},
        )
        return _Answer(response.status_code, response.text[:_MOST_READ], response.headers.get("Location", ""))

    try:
        answer = ask(tracking_uri)
        if answer.status in _SAME_METHOD and _same_api(answer.location):
            answer = ask(answer.location.partition(_API)[0])
    except MlflowException as error:
        return Verdict(Kind.FAILING, f"does not answer: {one_line(error)}")
    return _judge(answer, redacted(tracking_uri))


def has_credentials(tracking_uri: str) -> bool:
    """Whether MLflow's client would send more than the bare request: then an answer to that request proves nothing."""
    if any(os.environ.get(f"MLFLOW_TRACKING_{name}") for name in _CREDENTIALS):
        return True
    if "@" in urlsplit(tracking_uri).netloc or Path("~/.mlflow/credentials").expanduser().exists():
        return True
    return any(importlib.metadata.entry_points(group=group) for group in _PLUGINS)


def _api_url(bare: str, experiment: str) -> str:
    return f"{bare.rstrip('/')}{_API}?experiment_name={quote(experiment)}"


def _get(url: str, timeout_s: float) -> _Answer:
    # Nothing secret is sent here, so any certificate will do: MLflow itself may be set to accept this one.
    context = ssl._create_unverified_context()  # nosec B323
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect())
    # Firewalls know MLflow's client by its name and may refuse Python's.
    headers = {"Accept": "application/json", "User-Agent": "mlflow-python-client"}
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s) as reply:
            return _answer(reply.status, reply)
    except urllib.error.HTTPError as error:
        with error:
            return _answer(error.code, error)


def _answer(status: int, reply: http.client.HTTPResponse | urllib.error.HTTPError) -> _Answer:
    text = reply.read(_MOST_READ).decode("utf-8", "replace")
    return _Answer(status, text, reply.headers.get("Location", ""))


def _silent(error: Exception) -> str:
    return f"does not answer ({getattr(error, 'reason', None) or error}): start it or correct the tracking URI"


def _same_api(location: str) -> bool:
    return urlsplit(location).path.endswith(_API)


def _judge(answer: _Answer, bare: str) -> Verdict:
    """What an answer of the API is. MLflow's are an experiment, or an error with a code and a message."""
    content = _json_object(answer.text)
    experiment = content.get("experiment")
    if answer.status == 200 and isinstance(experiment, dict) and "experiment_id" in experiment:
        return Verdict(Kind.MLFLOW)
    code = content.get("error_code") if isinstance(content.get("message"), str) else None
    if code == "RESOURCE_DOES_NOT_EXIST":
        return Verdict(Kind.MLFLOW)
    seen = _seen(answer, content)
    if answer.status in (401, 403):
        return Verdict(Kind.LOGIN, f"refuses access: {seen}; {_how_to_log_in(answer)}")
    if answer.status in _GATEWAY and code is None:
        return Verdict(Kind.FOREIGN, f"does not answer: a proxy before it answers {seen}; start it")
    if answer.status >= 500 or answer.status in _PASSING or (code is not None and code != "ENDPOINT_NOT_FOUND"):
        return Verdict(Kind.FAILING, f"answers {seen}")
    return Verdict(Kind.FOREIGN, f"answers {seen} at {_API}, which is not MLflow's answer; {_what_to_do(answer, bare)}")


def _json_object(text: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _seen(answer: _Answer, content: dict[str, object]) -> str:
    """An answer in a few words, without anything that could be a secret."""
    if 300 <= answer.status < 400:
        return f"{answer.status}, a redirect to {redacted(answer.location) or 'nowhere'}"
    if isinstance(content.get("message"), str):
        return f"{answer.status} {redacted_text(' '.join(str(content['message']).split()))[:200]}"
    if answer.text.lstrip()[:1] == "<":
        title = re.search(r"<title[^>]*>(.*?)</title>", answer.text, re.DOTALL | re.IGNORECASE)
        called = " ".join(html.unescape(title[1]).split())[:80] if title else ""
        return f"{answer.status} with a web page" + (f" '{called}'" if called else "")
    what = "JSON of another service: " if content or answer.text.lstrip()[:1] in ("[", "{") else ""
    start = redacted_text(" ".join(answer.text.split()))[:120]
    return f"{answer.status} with {what}{start!r}" if start else f"{answer.status} with nothing"


def _how_to_log_in(answer: _Answer) -> str:
    if "host header" in answer.text.lower():
        return "start that server with this name in --allowed-hosts, or use a name that it allows"
    names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    return f"set {names}, as the server knows them"


def _what_to_do(answer: _Answer, bare: str) -> str:
    if 300 <= answer.status < 400 and _same_api(answer.location):
        other = redacted(answer.location).partition(_API)[0]
        return f"give {other} itself, as a redirect turns what MLflow writes into reads"
    if answer.status in (404, 405) and urlsplit(bare).path.strip("/"):
        return "give the address up to where /api begins, without a page's path"
    if 300 <= answer.status < 400 or answer.text.lstrip()[:1] == "<":
        return (
            "give the address of MLflow itself; if this is a login page before it, set MLFLOW_TRACKING_TOKEN, or "
            "MLFLOW_TRACKING_USERNAME and _PASSWORD"
        )
    return "give the address of an MLflow server, such as http://HOST:5000"
