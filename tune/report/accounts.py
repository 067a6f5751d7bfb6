"""Where the wall time of a sweep went, in parts that sum to all of it.

    training     epochs' steps, as each epoch measured them
    validation   after each epoch
    probes       trials with the tag stage=probe, from their process's start to their last work
    warm-up      all arms together before the first timed trial; a trial's gate, and its compiling unless it only loaded
                 what another process had compiled
    gaps         a device between two trials, or between an epoch and the next: the end of one trial (test set, model),
                 the process of the next, its data, loading compiled code, capturing
    rest         starting and closing the sweep; a device that has no trial left

On several devices the parts are shares of the device time: wall time x devices that ran a trial. The time between two
runs of a command counts nowhere. Everything comes from what MLflow has of the trials (`spans`, epochs, final metrics)
and of the driver.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tune.report.cost import GPUS
from tune.storage.trial_log import DRIVER
from tune.tracking.reader import SweepRecord, TrialRecord
from tune.tracking.spans import WARM_UP
from tune.tracking.store import ACCOUNTS

PARTS = ("training", "validation", "probes", "warm-up", "gaps", "rest")
PROBE = "probe"  # the tag `stage` of a trial that only times steps
Span = tuple[float, float]  # (begin, end) in ms of the wall clock


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """The wall time of a sweep and its parts."""

    wall_s: float  # of all runs of the command
    devices: int  # that ran a trial, at least 1
    runs: int  # of the command
    whole: bool  # False: the driver's own time is not on record; from the first trial's start to the last one's end
    parts_s: Mapping[str, float]  # by name in PARTS; sums to wall_s x devices

    @property
    def shares_pct(self) -> dict[str, int]:
        """Each part in percent, rounded so that they sum to 100. Empty for a sweep without time."""
        return rounded_pct(self.parts_s)

    def with_wall(self, wall_s: float) -> Accounts:
        """The same for a longer wall time: what is more is rest."""
        more_s = max(0.0, wall_s - self.wall_s)
        rest_s = self.parts_s["rest"] + more_s * self.devices
        parts_s = {**self.parts_s, "rest": rest_s}
        return Accounts(
            wall_s=self.wall_s + more_s, devices=self.devices, runs=self.runs, whole=self.whole, parts_s=parts_s
        )


@dataclass(frozen=True, kw_only=True)
class _Worked:
    """When a trial had its device, and what of that time was which part."""

    device: str
    work: Span | None  # first epoch's start to last work; None: it never trained
    all: Span  # with what was before its first epoch
    parts_s: Mapping[str, float]
    earlier_ms: float  # of processes that were lost before it

    @property
    def with_earlier(self) -> Span:
        """As if those processes had worked just before."""
        return self.all[0] - self.earlier_ms, self.all[1]


def accounts(record: SweepRecord) -> Accounts | None:
    """The accounts of a sweep; None where no trial's times and no run of the command are on record."""
    on_cpu = record.tags.get(GPUS) == "0"  # one trial at a time, wherever it runs
    worked = [found for trial in record.trials if (found := _worked(trial, on_cpu=on_cpu)) is not None]
    recorded = sorted(record.spans.get(DRIVER, ()))
    runs: list[Span] = [*recorded]
    last_ms = max((end for _, end in runs), default=float("-inf"))
    if later := [each.all for each in worked if each.all[0] >= last_ms]:  # by a run that goes on, or recorded no span
        runs.append((min(begin for begin, _ in later), max(end for _, end in later)))
    if not runs:
        return None
    devices = sorted({each.device for each in worked})
    wall_s = sum(end - begin for begin, end in runs) / 1e3
    whole_s = wall_s * max(1, len(devices))
    common = [part for span in record.spans.get(WARM_UP, ()) for run in runs if (part := _both(span, run))]
    parts_s = dict.fromkeys(PARTS, 0.0)
    parts_s["warm-up"] = _length_s(common) * max(1, len(devices))
    for device in devices:
        on_it = [each for each in worked if each.device == device]
        for name, seconds in _of_device(on_it, runs, common).items():
            parts_s[name] += seconds
    for trial in record.trials:
        if "spans" not in trial.tags:  # one that a run of the command did not finish: its epochs are on record
            parts_s["training"] += _sum(trial, "time/train_s")
            parts_s["validation"] += _sum(trial, "time/validation_s")
    spent_s = sum(parts_s.values())
    if spent_s > whole_s > 0:  # clocks of several machines: no more than there was
        parts_s = {name: seconds * whole_s / spent_s for name, seconds in parts_s.items()}
    parts_s["rest"] = max(0.0, whole_s - sum(parts_s.values()))
    return Accounts(
        wall_s=wall_s,
        devices=max(1, len(devices)),
        runs=len(runs),
        whole=bool(recorded) and len(recorded) == len(runs),
        parts_s=parts_s,
    )


def _of_device(worked: Sequence[_Worked], runs: Sequence[Span], common: Sequence[Span]) -> dict[str, float]:
    """The parts on one device, without `rest` and the warm-up of all arms together."""
    parts_s = dict.fromkeys(PARTS, 0.0)
    for cluster in _overlapping(worked):
        used_s = sum(each.parts_s["training"] + each.parts_s["validation"] for each in cluster)
        shared = _shared(cluster, used_s)
        for each in cluster:
            for name, seconds in each.parts_s.items():
                parts_s[name] += seconds * (shared if name in ("training", "validation") else 1.0)
    extents = [extent for run in runs if (extent := _extent(worked, run, runs)) is not None]
    free_s = _length_s(extents) - _length_s([both for a in extents for b in common if (both := _both(a, b))])
    busy_s = sum(parts_s.values())
    if busy_s > free_s > 0:  # several trials at once on the device: each counts by its share
        parts_s = {name: seconds * free_s / busy_s for name, seconds in parts_s.items()}
    parts_s["gaps"] = max(0.0, free_s - busy_s)
    return parts_s


def _shared(cluster: Sequence[_Worked], used_s: float) -> float:
    """The share of its epochs' time that a trial had the device, where several trained there at once; else 1."""
    spans = [each.work for each in cluster if each.work is not None]
    if len(spans) < 2 or used_s <= 0:
        return 1.0
    here_s = (max(end for _, end in spans) - min(begin for begin, _ in spans)) / 1e3
    return min(1.0, here_s / used_s)


def _overlapping(worked: Iterable[_Worked]) -> list[list[_Worked]]:
    """Trials in groups: those whose epochs overlap in time are in one."""
    groups: list[list[_Worked]] = []
    until = float("-inf")
    for each in sorted(worked, key=lambda each: (each.work or each.all)[0]):
        begin, end = each.work or each.all
        if begin >= until:
            groups.append([])
        groups[-1].append(each)
        until = max(until, end)
    return groups


def _extent(worked: Sequence[_Worked], run: Span, runs: Sequence[Span]) -> Span | None:
    """From the first to the last moment in which a trial had the device within one run of the command."""
    parts = [part for each in worked if (part := _both(each.all, run))]
    if run == min(runs):  # a process that was lost in it can only have been of this run
        parts += [part for each in worked if (part := _both(each.with_earlier, run)) and _both(each.all, run)]
    after = next((other for other in runs if other[0] >= run[1]), None)
    if after is not None:
        here = sorted((each for each in worked if _both(each.all, after)), key=lambda each: each.all[0])
        if here and here[0].earlier_ms:  # the trial that this run did not finish
            parts.append((max(run[0], run[1] - here[0].earlier_ms), run[1]))
    return (min(begin for begin, _ in parts), max(end for _, end in parts)) if parts else None


def _worked(trial: TrialRecord, *, on_cpu: bool) -> _Worked | None:
    """None where the trial never ran, or its times are not on record."""
    try:
        spans = json.loads(trial.tags["spans"])
        began_ms, ended_ms = float(spans["started_ms"]), float(spans["work_ended_ms"])
        first_ms, earlier_ms = spans.get("first_epoch_ms"), float(spans.get("earlier_ms") or 0)
    except (KeyError, ValueError, TypeError):
        return None
    own = trial.metrics
    rehearsal_s = own.get("final/rehearsal_s", 0.0)
    everything = (began_ms - 1e3 * rehearsal_s, ended_ms)
    seconds = (everything[1] - everything[0]) / 1e3
    if trial.tags.get("stage") == PROBE:
        parts_s = {"probes": seconds}
    elif first_ms is None:  # it ended before it could be timed
        parts_s = {"training": 0.0, "validation": 0.0, "warm-up": seconds}
    else:
        compiled = trial.tags.get("compiled_afresh") == "true"
        parts_s = {
            "training": _sum(trial, "time/train_s"),
            "validation": _sum(trial, "time/validation_s"),
            "warm-up": rehearsal_s
            + own.get("final/gate_s", 0.0)
            + (own.get("final/compile_s", 0.0) if compiled else 0.0),
        }
    usual = {"training": 0.0, "validation": 0.0}
    return _Worked(
        device="" if on_cpu else _device(trial),
        work=None if first_ms is None else (float(first_ms), ended_ms),
        all=everything,
        parts_s=usual | parts_s,
        earlier_ms=earlier_ms,
    )


def _device(trial: TrialRecord) -> str:
    """The GPU on which the trial ended; where its name is not known, the machine."""
    return trial.tags.get("gpu_uuid", "").rpartition(" then ")[2] or trial.tags.get("hostname", "")


def _sum(trial: TrialRecord, name: str) -> float:
    return sum(value for _, value in trial.history.get(name, []))


def _both(one: Span, other: Span) -> Span | None:
    """What two spans have in common."""
    begin, end = max(one[0], other[0]), min(one[1], other[1])
    return (begin, end) if begin < end else None


def _length_s(spans: Iterable[Span]) -> float:
    """The length of the union of spans, in seconds."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total / 1e3


def rounded_pct(parts: Mapping[str, float]) -> dict[str, int]:
    """Whole percents that sum to 100: those cut off most are rounded up. Empty if all parts are 0."""
    whole = sum(parts.values())
    if whole <= 0:
        return {}
    exact = {name: 100 * value / whole for name, value in parts.items()}
    pct = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: pct[name] - exact[name])[: 100 - sum(pct.values())]:
        pct[name] += 1
    return pct


def accounts_line(found: Accounts | None) -> str:
    """The accounts in one line, such as "8 min 12 s: training 58 %, validation 6 %, warm-up 11 %, gaps 20 %, rest 5 %".

    Probes are named where there were any.
    """
    if found is None:
        return "Wall time: not on record."
    shares = found.shares_pct
    named = [f"{name} {pct} %" for name, pct in shares.items() if name != "probes" or found.parts_s[name] > 0]
    on = f" on {found.devices} GPUs" if found.devices > 1 else ""
    line = f"Wall time {duration_words(found.wall_s)}{on}: {', '.join(named) or 'nothing ran'}"
    if found.devices > 1:
        line += f"; shares of {duration_words(found.wall_s * found.devices)} of GPU time"
    if found.runs > 1:
        line += f"; {found.runs} runs of the command, without the time between them"
    if not found.whole:
        line += "; counted from the first trial to the last, as more is not on record"
    return f"{line}."


def duration_words(seconds: float) -> str:
    """12 s, 8 min 12 s, or 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def accounts_json(found: Accounts | None) -> dict[str, object] | None:
    """The accounts for programs; None where they are not known."""
    if found is None:
        return None
    return {
        "wall_s": found.wall_s,
        "devices": found.devices,
        "runs": found.runs,
        "driver_recorded": found.whole,
        "parts_s": dict(found.parts_s),
        "shares_pct": found.shares_pct,
    }


def accounts_metrics(found: Accounts | None) -> dict[str, float]:
    """The accounts as metrics of the sweep's run; none where they are not known."""
    if found is None:
        return {}
    shares = {f"{ACCOUNTS}{name.replace('-', '_')}_pct": float(pct) for name, pct in found.shares_pct.items()}
    return {f"{ACCOUNTS}wall_s": found.wall_s} | shares
