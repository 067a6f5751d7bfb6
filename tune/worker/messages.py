"""What an actor and a trial's process say to each other, through their pipe: (kind, content).

to the process      content         answered with
    environment     dict            nothing; its first message if it was forked
    prepare         PrepareOrder    ready, or failed
    ping            None            ready
    run             RunOrder        the messages below, up to end or hand_over

from the process    content         answered with
    pid             int             nothing; its first message
    ready           None            nothing
    failed          reason          nothing; the process ends
    wait_until_idle None            idle: the pids of our idle processes on the device
    report          report, folder  reported
    report_early    report, folder  nothing: the trial goes on while the report is stored
    catch_up        None            caught_up, once all reports are stored
    hand_over       seconds         nothing; a fresh process must train (tune.trial.job.HandOver)
    end             None            nothing; the trial has ended
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune.trial.job import TrialJob


@dataclass(frozen=True, kw_only=True)
class PrepareOrder:
    """Bring up what the trial after `job` needs too."""

    job: TrialJob
    backends: Sequence[str]  # attention of this actor's trials so far: the next one is likely among them


@dataclass(frozen=True, kw_only=True)
class RunOrder:
    """Compute `job`."""

    job: TrialJob
    folder: str  # the working directory; a checkpoint lies here until it is stored
    checkpoint: str | None  # where the trial continues; None: at the beginning
    tags: Mapping[str, str]  # for the trial's run
    cache_warmup_s: float | None  # how long an earlier process took to fill the caches; None: there was none
    received_s: float  # when the actor received the trial, by time.monotonic(): on Linux one clock for all processes
