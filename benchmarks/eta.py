"""How far the time left that a sweep shows is from the truth: recorded sweeps, replayed through the real Progress.

    python benchmarks/eta.py runs/*/outbox.jsonl --json eta.json            # sweeps on disk, by their own time stamps
    python benchmarks/eta.py docs/results/2026-11-27-*-h100.json            # reports as JSON: their times are rebuilt
    python benchmarks/eta.py SWEEP.json --together --earlier OTHER.json     # as today, and with a sweep before it

An outbox says when each epoch was reported and when each trial began and ended. A report's JSON has no time stamps: its
trials are laid one after another on each GPU, block by block, by the durations that it has, with GAP_S and END_S where
it has none. So a rebuilt sweep has no scatter of epochs and gaps. --together: what a process compiled for a trial
before it handed over is one warm-up of all arms before the first trial, as long as the longest of them. --earlier: the
epochs of this sweep's arms are known before, as from an earlier sweep in the storage folder.

The clock of the replay ticks a hundred times during the sweep, from the start of the command, if that is on record, to
the last trial's end. At each tick the error is |ETA - time left| / time left. Ticks before FROM and after UNTIL of the
sweep do not count: at its end little is left to be relative to. A sweep that was interrupted ends with its last record;
its other trials are no part of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GAP_S, END_S = 1.5, 0.5  # of a rebuilt sweep: from a trial's end to the next one's start; test set and model
FROM, UNTIL = 0.2, 0.95  # of a sweep
TICKS = 100
WITHIN = 0.25


@dataclass(frozen=True, kw_only=True, order=True)
class Event:
    """Something that Progress is told of. kind: began, epoch or ended; epoch_s and compiled_s where they belong."""

    at_s: float
    kind: str
    trial: str
    epoch_s: float = 0.0
    compiled_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One sweep: what happened when, in seconds since its start."""

    name: str
    events: tuple[Event, ...]  # in order
    blocks: tuple[tuple[str, ...], ...]  # ids of trials, in the order in which they ran
    at_a_time: int
    epochs: int
    rebuilt: bool


@dataclass(frozen=True, kw_only=True)
class Tick:
    """What Progress said at a moment, and what was true. eta_s: None: unknown."""

    share: float  # of the sweep that has passed
    left_s: float
    eta_s: float | None

    @property
    def error(self) -> float | None:
        return None if self.eta_s is None else abs(self.eta_s - self.left_s) / self.left_s


def main() -> None:
    """Replay, print a line for each sweep, write the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="an outbox.jsonl, or a report's JSON")
    parser.add_argument("--together", action="store_true", help="of a report: all arms are warmed up together")
    parser.add_argument("--earlier", type=Path, help="another such file, whose arms' epochs are known")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    earlier = options.earlier and read(options.earlier)
    weights = {} if earlier is None else epochs_s(earlier)
    content = []
    print(f"{'sweep':54}{'trials':>7}{'s':>7}{'within 25 %':>13}{'median':>8}{'worst':>8}{'at':>6}{'unknown':>9}")
    for file in options.files:
        recorded = read(file, together=options.together)
        if recorded is None:
            print(f"{str(file):54} holds no trial that ended")
            continue
        ticks = replay(recorded, weights=weights)
        told = summary(ticks)
        print_line(recorded, told)
        how = {"rebuilt": recorded.rebuilt, "together": options.together, "earlier": earlier and earlier.name}
        content.append({"sweep": recorded.name, **how, **told})
    if options.json:
        options.json.write_text(json.dumps(content, indent=1))


def read(file: Path, *, together: bool = False) -> Recorded | None:
    """A recorded sweep; None if no trial of it ended after an epoch."""
    if file.suffix == ".jsonl":
        return from_outbox(file.parent.name, [json.loads(line) for line in file.read_text().splitlines()])
    return from_result(file.stem, json.loads(file.read_text())["trials"], together=together)


def from_outbox(name: str, records: Iterable[Mapping[str, Any]]) -> Recorded | None:
    """By the time stamps of the records, and of the trials' processes."""
    from tune.console.eta import compiled_s

    events: list[Event] = []
    plans: dict[str, Mapping[str, Any]] = {}
    epochs: dict[str, int] = {}
    devices: set[str] = set()
    first_ms: float | None = None
    for record in records:
        first_ms = first_ms or record.get("driver_began_ms") or record["time_ms"]
        trial, at_s = record.get("trial_id", ""), (record["time_ms"] - first_ms) / 1e3
        if record["kind"] == "plan":
            plans[trial] = record
        elif record["kind"] == "epoch":
            epochs[trial] = epochs.get(trial, 0) + 1
            epoch_s = record["metrics"].get("time/epoch_s", 0.0)
            events.append(Event(at_s=at_s, kind="epoch", trial=trial, epoch_s=epoch_s))
        elif record["kind"] == "end" and "spans" in record["tags"]:
            tags, metrics = record["tags"], record["metrics"]
            began_ms = json.loads(tags["spans"])["started_ms"] - 1e3 * metrics.get("final/rehearsal_s", 0.0)
            events.append(Event(at_s=(began_ms - first_ms) / 1e3, kind="began", trial=trial))
            given_s = compiled_s(metrics, tags)
            events.append(Event(at_s=at_s, kind="ended", trial=trial, compiled_s=given_s))
            devices.add(tags.get("gpu_uuid") or tags.get("hostname", ""))
    ended = {event.trial for event in events if event.kind == "ended"}
    blocks: dict[str, list[str]] = {}
    for trial in (trial for trial in plans if trial in ended):
        blocks.setdefault(plans[trial]["tags"]["seed"] if len(devices) > 1 else "", []).append(trial)
    return _recorded(name, [event for event in events if event.trial in ended], blocks, devices, epochs, rebuilt=False)


def epochs_s(recorded: Recorded) -> dict[str, float]:
    """The median epoch of each arm."""
    from tune.console.eta import arm_of

    by_arm: dict[str, list[float]] = {}
    for event in recorded.events:
        if event.kind == "epoch":
            by_arm.setdefault(arm_of(event.trial), []).append(event.epoch_s)
    return {arm: statistics.median(values) for arm, values in by_arm.items()}


def from_result(name: str, trials: Sequence[Mapping[str, Any]], *, together: bool = False) -> Recorded | None:
    """By the durations that a report's JSON has."""
    from tune.console.eta import arm_of

    events: list[Event] = []
    epochs: dict[str, int] = {}
    blocks: dict[str, list[str]] = {}
    now_s: dict[str, float] = {}  # by device
    warm_up_s = max([0.0, *(trial["metrics"].get("final/rehearsal_s") or 0.0 for trial in trials)]) if together else 0.0
    seen: set[str] = set()
    for trial in trials:
        metrics, name_of = trial["metrics"], trial["trial_id"]
        if trial["status"] != "done" or "final/train_total_s" not in metrics or "time/epoch_s" not in metrics:
            continue
        arm, device = arm_of(name_of), trial.get("gpu_uuid") or ""
        count = epochs[name_of] = int(trial["params"]["train.epochs"])
        blocks.setdefault(str(trial["params"]["train.seed"]), []).append(name_of)
        once_s = {part: metrics.get(f"final/{part}_s") or 0.0 for part in ("rehearsal", "startup", "gate", "compile")}
        if together:
            once_s["rehearsal"] = 0.0
        given_s = once_s["rehearsal"] + (once_s["gate"] if arm not in seen else 0.0)
        seen.add(arm)
        began_s = now_s.get(device, warm_up_s) + (GAP_S if device in now_s else 0.0)
        events.append(Event(at_s=began_s, kind="began", trial=name_of))
        at_s = began_s + sum(once_s.values())
        epoch_s = metrics["final/train_total_s"] / count + metrics["time/validation_s"]
        for _ in range(count):
            at_s += epoch_s
            events.append(Event(at_s=at_s, kind="epoch", trial=name_of, epoch_s=epoch_s))
        now_s[device] = at_s + END_S
        events.append(Event(at_s=now_s[device], kind="ended", trial=name_of, compiled_s=given_s))
    return _recorded(name, events, blocks, set(now_s), epochs, rebuilt=True)


def _recorded(
    name: str,
    events: list[Event],
    blocks: Mapping[str, list[str]],
    devices: set[str],
    epochs: Mapping[str, int],
    *,
    rebuilt: bool,
) -> Recorded | None:
    if not any(event.kind == "epoch" for event in events):
        return None
    order = {event.trial: event.at_s for event in events if event.kind == "began"}
    in_order = [sorted(block, key=lambda trial: order[trial]) for block in blocks.values()]
    return Recorded(
        name=name,
        events=tuple(sorted(events)),
        blocks=tuple(tuple(block) for block in sorted(in_order, key=lambda block: order[block[0]])),
        at_a_time=max(1, len(devices)),
        epochs=max(epochs.values()),
        rebuilt=rebuilt,
    )


def replay(recorded: Recorded, *, weights: Mapping[str, float] | None = None, ticks: int = TICKS) -> list[Tick]:
    """What Progress says at each of so many moments of the sweep. weights: by arm, of epochs that are known before."""
    from tune.console.progress import Progress

    now_s = [0.0]
    progress = Progress(total=0, epochs=recorded.epochs, quiet=True, clock=lambda: now_s[0])
    progress.expect_blocks(recorded.blocks, recorded.at_a_time, weights=weights)
    waiting, end_s = list(recorded.events), recorded.events[-1].at_s
    said = []
    for number in range(1, ticks):
        at_s = end_s * number / ticks
        while waiting and waiting[0].at_s <= at_s:
            event = waiting.pop(0)
            now_s[0] = event.at_s
            if event.kind == "began":
                progress.started(event.trial, seed=0, epochs=recorded.epochs)
            elif event.kind == "epoch":
                metrics = {"loss/val_mse": 0.0, "time/train_s": event.epoch_s, "time/epoch_s": event.epoch_s}
                progress.epoch(event.trial, 0, metrics | {"speed/windows_per_s": 0.0})
            else:
                progress.ended(event.trial, "done", None, compiled_s=event.compiled_s)
        now_s[0] = at_s
        said.append(Tick(share=number / ticks, left_s=end_s - at_s, eta_s=progress.left_s()))
    return said


def summary(ticks: Iterable[Tick]) -> dict[str, float | None]:
    """Of the ticks that count: the share within WITHIN, median and worst error, where the worst is, share unknown."""
    counted = [tick for tick in ticks if FROM <= tick.share <= UNTIL]
    known = [(error, tick.share) for tick in counted if (error := tick.error) is not None]
    if not known:
        return {"within": None, "median_error": None, "worst_error": None, "worst_at": None, "unknown": 1.0}
    worst, at = max(known)
    return {
        "within": sum(error <= WITHIN for error, _ in known) / len(known),
        "median_error": statistics.median(error for error, _ in known),
        "worst_error": worst,
        "worst_at": at,
        "unknown": 1 - len(known) / len(counted),
    }


def print_line(recorded: Recorded, told: Mapping[str, float | None]) -> None:
    """One line of the table, in percent."""
    trials = sum(len(block) for block in recorded.blocks)
    name = f"{recorded.name}{' (rebuilt)' if recorded.rebuilt else ''}"
    cells = [("within", 13), ("median_error", 8), ("worst_error", 8), ("worst_at", 6), ("unknown", 9)]
    shown = "".join(
        f"{'-' if (value := told[key]) is None else f'{100 * value:.0f} %':>{width}}" for key, width in cells
    )
    print(f"{name:54}{trials:>7}{recorded.events[-1].at_s:7.0f}{shown}")


if __name__ == "__main__":
    main()
