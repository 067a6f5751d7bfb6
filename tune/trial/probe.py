"""A probe: how long a trial's steps take, from a few hundred of them. It trains nothing, and evaluates nothing.

It measures as an epoch does (`Session.time_steps`): gate, capture, feed and process are the trial's. Heads that a trial
removes later are removed at once, as an epoch's time counts from the last removal on (design rule 7).

Short epochs are run whole, at least LEAST_EPOCHS of them. Of a longer epoch the first steps are run. There a step's
time is its share of the wall time on the device's timeline, waits for data included: the median over SEGMENTS equal
parts of the run, so that one stall does not count. The time of an epoch adds the measured head and tail of the run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from tune.measure.metrics import all_windows_s
from tune.trial import compile_cache
from tune.trial.cache_warmup import measured_or_compiled
from tune.trial.job import HandOver
from tune.trial.report import TrialEnd
from tune.trial.summary import trial_tags

if TYPE_CHECKING:
    from tune.measure.timer import EpochTimes
    from tune.trial.session import Session

UNCOUNTED = 0.1  # of the steps that are asked for, to warm up and to see how long a step takes
LONGEST_S = 10.0  # fewer steps are timed if they would take longer
LEAST_STEPS = 20
LEAST_EPOCHS = 3
SEGMENTS = 10


def probe(session: Session, started_s: float, *, may_hand_over: bool) -> TrialEnd:
    """Time about `session.job.probe_steps` steps with the trial's last number of heads.

    Raises HandOver as `tune.trial.run.run_trial` does: if this process had to compile, a fresh one must probe.

    started_s: when the trial began, by time.perf_counter.
    """
    session.prune_before(session.pruner.final_from_epoch)
    if may_hand_over and measured_or_compiled(session):
        raise HandOver(time.perf_counter() - started_s)
    session.wait_until_idle()
    compile_cache.end()
    step_s, epoch_s, spread_pct, steps = _timed(session)
    session.state.timeline.work_ended()
    feed = session.feed
    metrics = {
        "final/probe_step_s": step_s,
        "final/probe_steps": steps,
        "final/probe_spread_pct": spread_pct,
        "final/epoch_all_windows_s": all_windows_s(
            epoch_s, windows=feed.num_windows("train"), trained=feed.windows_per_epoch
        ),
        "final/windows_per_epoch": feed.windows_per_epoch,
        "final/steps_per_epoch": feed.steps_per_epoch,
        "final/compile_s": session.progress.compile_s,
        "final/gate_s": session.progress.gate_s,
        "final/startup_s": session.startup_s,
        "final/rehearsal_s": session.host.cache_warmup_s,
        **session.proof.metrics,
        **{name.replace("model/", "final/"): value for name, value in session.size_metrics().items()},
    }
    return TrialEnd(status="done", metrics=metrics, tags=trial_tags(session))


def _timed(session: Session) -> tuple[float, float, float, int]:
    """Seconds of a step and of an epoch, the spread of what they are the median of, in percent, and the steps timed."""
    asked, per_epoch = session.job.probe_steps, session.feed.steps_per_epoch
    first = session.time_steps(1, most=max(2, round(UNCOUNTED * asked)))
    first_s = first.train_s / len(first.step_ms)
    steps = min(asked, max(LEAST_STEPS, int(LONGEST_S / first_s)))
    if steps < per_epoch:
        times = session.time_steps(_epoch(session, 2), most=steps)
        steps_s = segments_s(times)
        step_s = median(steps_s)
        return step_s, (times.start_ms[0] + times.tail_ms) / 1e3 + per_epoch * step_s, _spread_pct(steps_s), steps
    numbers = range(2, 2 + max(LEAST_EPOCHS, steps // per_epoch))
    epochs_s = [session.time_steps(_epoch(session, number)).train_s for number in numbers]
    epoch_s = median(epochs_s)
    return epoch_s / per_epoch, epoch_s, _spread_pct(epochs_s), per_epoch * len(epochs_s)


def _epoch(session: Session, number: int) -> int:
    """One of the trial's epochs: learning rates are known for these only."""
    return 1 + (number - 1) % session.config.train.epochs


def segments_s(times: EpochTimes) -> list[float]:
    """Seconds of a step, from its start to the next one's, as a mean over each of at most SEGMENTS parts of a run.

    times: of at least two steps. The last step counts in no part, as none follows it.
    """
    last = len(times.start_ms) - 1
    parts = min(SEGMENTS, last)
    edges = [part * last // parts for part in range(parts + 1)]
    return [(times.start_ms[end] - times.start_ms[begin]) / (end - begin) / 1e3 for begin, end in pairwise(edges)]


def _spread_pct(values: Sequence[float]) -> float:
    """Half the range, in percent of the median."""
    return 50 * (max(values) - min(values)) / median(values)
