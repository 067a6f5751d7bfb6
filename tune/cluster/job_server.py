"""A cluster's job server (Ray's HTTP API, port 8265 by default): submit a command, list, follow and stop jobs.

Every error is WrongInput with one line. A job's user is what its metadata say, which Ray does not verify.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tune.cluster.auth_token import check_token_file
from tune.common.address import redacted, redacted_text
from tune.common.errors import INTERRUPTED, WrongInput, did_you_mean, first_line
from tune.common.process import USER
from tune.common.secrets import hidden

ANSWERS_WITHIN_S = 6.0
READY_WITHIN_S = 60.0
STOP_S = 90  # from SIGINT, when a sweep stores its results, to SIGKILL
SWEEP = "sweep"  # key of a job's metadata, beside USER
ENDED = ("done", "failed", "stopped")
_STATES = {"PENDING": "pending", "RUNNING": "running", "STOPPED": "stopped", "SUCCEEDED": "done", "FAILED": "failed"}
_NOT_READY = "No available agent to submit job"
_REDIRECTING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray takes these instead of the address that it is given


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job of the server; None for what the server does not know."""

    job_id: str
    user: str | None
    sweep: str | None  # the sweep's name, such as pruning; None for a job of another program
    state: str  # pending, running, done, failed or stopped
    exit_code: int | None  # of the command, once it has ended by itself
    started_ms: int | None  # since the epoch
    message: str

    @property
    def shell_code(self) -> int:
        """The exit code that a shell would show for the command. WrongInput for a job without one."""
        if self.exit_code is not None:
            return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code
        if self.state == "done":
            return 0
        if self.state == "stopped":
            return INTERRUPTED
        raise WrongInput(f"{self.job_id} did not run to an end: {first_line(self.message)}")


class JobServer:
    """The job server at `url`, http://HOST:8265. WrongInput if none answers, or it refuses us."""

    def __init__(self, url: str, *, option: str) -> None:
        self.url, self._given = url.rstrip("/"), f"{option} {redacted(url)}"
        _check_form(url, self._given)
        _check_answers(self.url, self._given)
        check_token_file()
        with self._explained():
            from ray.job_submission import JobSubmissionClient

            with hidden(_REDIRECTING):
                self._client = JobSubmissionClient(self.url)

    def submit(self, words: list[str], *, job_id: str, folder: Path, user: str | None, sweep: str, env: Any) -> None:
        """Start `python experiments.py WORDS` in a copy of `folder`, with the variables `env` and the cluster's own.

        Ray stores all of this in clear: it must hold no secret.
        """
        from shlex import join

        settings = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}
        with self._explained(), _quiet_client():
            self._submitted(
                entrypoint=f"exec python experiments.py {join(words)}",
                submission_id=job_id,
                runtime_env={"working_dir": str(folder), "env_vars": {**env, **settings}},
                metadata={SWEEP: sweep, **({USER: user} if user else {})},
            )

    def _submitted(self, **request: Any) -> None:
        """Submit, again and again while Ray answers that no node can start jobs yet."""
        until_s = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                self._client.submit_job(**request)
                return
            except RuntimeError as error:
                if _NOT_READY not in str(error) or time.monotonic() > until_s:
                    raise
                time.sleep(0.5)

    def jobs(self) -> list[Job]:
        """Every submitted job the server knows, oldest first."""
        with self._explained():
            jobs = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(jobs, key=lambda job: job.started_ms or 0)

    def job(self, job_id: str) -> Job:
        """One job. WrongInput, with the nearest id, for an unknown one."""
        known = {job.job_id: job for job in self.jobs()}
        if job_id not in known:
            latest = ", ".join(list(known)[-3:]) or "none"
            near = did_you_mean(job_id, known)
            raise WrongInput(f"{self._given} knows no job '{job_id}'; the latest are: {latest}.{near}")
        return known[job_id]

    def logs(self, job_id: str) -> str:
        """The job's output so far, stdout and stderr together."""
        with self._explained():
            return self._client.get_job_logs(job_id)

    def follow(self, job_id: str, write: Callable[[str], Any]) -> Job:
        """Call `write` with the job's output, from its beginning, until the job ends. Returns the ended job."""

        async def tail() -> None:
            async for text in self._client.tail_job_logs(job_id):
                write(text)

        with self._explained(), _quiet_client():
            asyncio.run(tail())
        return self._until_ended(job_id, limit_s=ANSWERS_WITHIN_S)

    def stop(self, job_id: str) -> Job:
        """Interrupt a job and wait for its end. Ray kills it after STOP_S seconds."""
        with self._explained():
            self._client.stop_job(job_id)
        return self._until_ended(job_id, limit_s=STOP_S + 30.0)

    def _until_ended(self, job_id: str, *, limit_s: float) -> Job:
        """The job, once it has ended or `limit_s` seconds have passed."""
        until_s = time.monotonic() + limit_s
        while (job := self.job(job_id)).state not in ENDED and time.monotonic() < until_s:
            time.sleep(0.2)
        return job

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except WrongInput:
            raise
        except AuthenticationError:
            raise WrongInput(
                f"{self._given}: it asks for Ray's token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file "
                "that holds the cluster's"
            ) from None
        except (requests.RequestException, aiohttp.ClientError, ConnectionError, RuntimeError, ValueError) as error:
            said = first_line(str(error)) or type(error).__name__
            raise WrongInput(f"{self._given}: {redacted_text(said)}") from None


def _job(details: Any) -> Job:
    metadata: Mapping[str, str] = details.metadata or {}
    return Job(
        job_id=details.submission_id,
        user=metadata.get(USER),
        sweep=metadata.get(SWEEP),
        state=_STATES[details.status.value],
        exit_code=details.driver_exit_code,
        started_ms=details.start_time,
        message=details.message or "",
    )


def _check_form(url: str, given: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 0) >= 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment:
        raise WrongInput(f"{given}: write http://HOST:8265, the address of the cluster's job server")
    if "@" in parts.netloc:
        raise WrongInput(f"{given}: a password in it shows in the process list; Ray's token comes from a file")


def _check_answers(url: str, given: str) -> None:
    """Raises WrongInput unless Ray answers there: Ray's own client would wait for a silent server without limit."""
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=ANSWERS_WITHIN_S) as answer:  # nosec B310
            version = json.loads(answer.read(10_000))["ray_version"]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):  # the client says what is missing
            return
        problem = f"answers {error.code}, as a Ray job server does not"
    except (ValueError, KeyError, TypeError):
        problem = "answers, but is no Ray job server"
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        problem = f"nothing answers there ({getattr(reason, 'strerror', None) or reason})"
    else:
        return _check_version(str(version), given)
    raise WrongInput(f"{given}: {problem}; give the address of the cluster's dashboard, for example http://HOST:8265")


def _check_version(theirs: str, given: str) -> None:
    from importlib.metadata import version

    if theirs != version("ray"):
        raise WrongInput(f"{given}: the cluster runs Ray {theirs}, this machine {version('ray')}; install the same")


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """Ray's client announces on stderr each package it uploads, and that a job's log has ended."""
    import logging

    names = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")
    loggers = [logging.getLogger(f"ray.{name}") for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
