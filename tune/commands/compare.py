"""`compare A B`: did an arm get slower or less accurate from one sweep to another?

Nothing pairs the times of two sweeps, which ran at other times, maybe on another GPU of the same model: an arm's
logarithms of the median epoch time, one per seed, are held against those of the arm of the same name by Welch's t, Holm
over the arms. Errors of one seed are pairs: the same weights and data order, whenever they ran.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from tune.commands.parser import Parser, add_margin, add_shared, tracking_uri
from tune.common.errors import DONE, REGRESSED, WrongInput
from tune.console.output import check_json_target, write_json
from tune.console.text import table
from tune.report.comparisons import accuracy_text, ratio_text, run_of
from tune.stats.intervals import ENOUGH
from tune.stats.pairs import SLOWER, WORSE, Comparison, Run, compare_sweeps, margin_of
from tune.tracking.store import PROJECT


def parser() -> Parser:
    text = "Did an arm get slower or less accurate? Exit code 1 if one did from A to B, 0 if not."
    parser = Parser(prog="experiments.py compare", description=text, allow_abbrev=False)
    text = "a sweep id, or a file as --json writes it"
    parser.add_argument("before", metavar="A", help=f"{text}: what is held against")
    parser.add_argument("after", metavar="B", help=text)
    add_margin(parser)
    add_shared(parser)
    return parser


Fields = Mapping[str, Any]
TASK = ("data.dataset", "data.context_length", "data.prediction_length", "train.epochs")  # alike in what is compared


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two sweeps."""

    name: str  # as given
    device: str
    arms: Mapping[str, list[Run]]
    fields: Mapping[str, Fields]  # arm -> the configuration of its trials but for the seed
    tells_alone: bool  # whether it says which trials had their device to themselves


def run(arguments: argparse.Namespace) -> int:
    """Print a row per arm of both; REGRESSED if one got slower or less accurate."""
    check_json_target(arguments.json)
    margin = margin_of(arguments.margin_pct)
    before, after = (read_side(given, tracking_uri(arguments)) for given in (arguments.before, arguments.after))
    check_comparable(before, after)
    found = compare_sweeps(before.arms, after.arms, margin=margin)
    if not any(one.interval or (one.accuracy and one.accuracy.bounds) for one in found.values()):
        raise WrongInput(
            f"no arm has {ENOUGH} done trials in both {before.name} and {after.name}, so nothing can be judged; "
            f"run both with --repeats {ENOUGH} or more"
        )
    text = sys.stderr if arguments.json == "-" else sys.stdout
    for line in lines(before, after, found):
        print(line, file=text)
    write_json(arguments.json, _as_json(before, after, found))
    return REGRESSED if slower(found) or less_accurate(found) else DONE


def slower(found: Mapping[str, Comparison]) -> list[str]:
    return [arm for arm, one in found.items() if one.verdict == SLOWER]


def less_accurate(found: Mapping[str, Comparison]) -> list[str]:
    return [arm for arm, one in found.items() if one.accuracy and one.accuracy.verdict == WORSE]


def check_comparable(before: Side, after: Side) -> None:
    """WrongInput for two models of a device, no arm in common, or an arm of both that has another task in each."""
    if before.device != after.device:
        raise WrongInput(
            f"{before.name} ran on {before.device}, {after.name} on {after.device}: their times cannot be compared; "
            "give two sweeps of one device model"
        )
    if not before.arms.keys() & after.arms.keys():
        raise WrongInput(
            f"{before.name} and {after.name} have no arm in common ({', '.join(before.arms)} and "
            f"{', '.join(after.arms)}); give two sweeps of one kind"
        )
    for arm in (arm for arm in before.arms if arm in after.arms):
        if differs := _task_changes(before.fields[arm], after.fields[arm]):
            raise WrongInput(
                f"{before.name} and {after.name} differ in the task of {arm} ({', '.join(differs)}): neither times nor "
                "errors can be compared; give two sweeps of one task"
            )


def _task_changes(old: Fields, new: Fields) -> list[str]:
    """Fields of TASK that differ, with both values. Earlier versions wrote numbers as text, or leave a field out."""
    both = {name: (old.get(name), new.get(name)) for name in TASK}
    return [
        f"{name} {one} and {other}"
        for name, (one, other) in both.items()
        if one is not None and other is not None and str(one) != str(other)
    ]


def read_side(given: str, tracking_uri: str) -> Side:
    """What a file or a sweep id holds. WrongInput or TrackingError where it cannot be read."""
    if Path(given).is_file() or given.endswith(".json"):
        return _side(given, _content(given))
    from tune.report.values import as_json
    from tune.tracking.reader import read_sweep

    return _side(given, as_json(read_sweep(tracking_uri, PROJECT, given)))


def _content(given: str) -> Any:
    try:
        return json.loads(Path(given).read_text())
    except OSError as error:
        raise WrongInput(f"{given}: {error.strerror}; give a sweep id, or a file as --json writes it") from None
    except ValueError:  # no JSON, or no text
        raise WrongInput(f"{given} is not JSON; give a sweep id, or a file as --json writes it") from None


def _side(name: str, content: Any) -> Side:
    arms: dict[str, list[Run]] = {}
    fields: dict[str, Fields] = {}
    try:
        device = content.get("device") or content["environment"]["device"]["name"]
        trials = [trial for trial in content["trials"] if trial.get("stage") != "search"]
        tells_alone = all("timing_valid" in trial for trial in trials)
        for trial in trials:
            seed = trial.get("seed") or trial["params"].get("train.seed")
            arm = trial.get("arm") or _arm_of(trial["trial_id"], content["sweep"], seed)
            arms.setdefault(arm, []).append(_run(trial, seed))
            fields.setdefault(arm, {key: value for key, value in trial["params"].items() if key != "train.seed"})
    except (AttributeError, KeyError, TypeError) as error:
        raise WrongInput(
            f"{name} is not a result that says its device and its trials ({type(error).__name__}: {error}); "
            "give a sweep id, or a file as --json writes it"
        ) from None
    return Side(name=name, device=str(device), arms=arms, fields=fields, tells_alone=tells_alone)


def _arm_of(trial_id: str, sweep: str, seed: Any) -> str:
    """The arm that a trial's id names: files of earlier versions say it nowhere else."""
    return trial_id.removeprefix(f"{sweep}-").removesuffix(f"-s{seed}")


def _run(trial: Mapping[str, Any], seed: Any) -> Run:
    known = {"timing_valid": trial.get("timing_valid", "true") or "unknown", "seed": str(seed)}
    metrics = {name: value for name, value in trial["metrics"].items() if value is not None}
    return run_of(trial["status"], known, metrics)


def lines(before: Side, after: Side, found: Mapping[str, Comparison]) -> list[str]:
    """The table and what a reader must know of it."""
    rows = [
        {
            "arm": arm,
            "A s/epoch": _seconds(before.arms[arm]),
            "B s/epoch": _seconds(after.arms[arm]),
            "B's speed": ratio_text(one),
            "speed": one.verdict,
            "accuracy": accuracy_text(one.accuracy),
        }
        for arm, one in found.items()
    ]
    text = [f"A {before.name}, B {after.name}, on {before.device}", *table(list(rows[0]), rows)]
    text.append(
        "'B's speed' is A's epoch time over B's, geometric means over seeds, with Welch's t interval (95 %, Holm over "
        "the arms), unpaired; 'accuracy' is B's validation MSE beside A's, seed by seed."
    )
    unpaired = [arm for arm, one in found.items() if one.accuracy and one.accuracy.unit == "trial"]
    if unpaired:
        few = f"fewer than {ENOUGH} seeds in common"
        text.append(f"{', '.join(unpaired)}: {few}, so 'accuracy' is by Welch's t on logarithms, unpaired.")
    text += [f"Only in {side.name}: {', '.join(only)}." for side, only in _unmatched(before, after) if only]
    text += [
        f"{side.name} does not say which trials had their device to themselves; all are taken."
        for side in (before, after)
        if not side.tells_alone
    ]
    text += [f"{arm} is configured differently: {what}." for arm in found if (what := _changed(arm, before, after))]
    return [*text, _conclusion(found)]


def _seconds(runs: list[Run]) -> str:
    times = [run.time_s for run in runs if run.time_s is not None]
    return f"{geometric_mean(times):.3f} ({len(times)})" if times else "- (0)"


def _unmatched(before: Side, after: Side) -> list[tuple[Side, list[str]]]:
    pairs = ((before, after), (after, before))
    return [(one, [arm for arm in one.arms if arm not in other.arms]) for one, other in pairs]


def _changed(arm: str, before: Side, after: Side) -> str:
    old, new = before.fields[arm], after.fields[arm]
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} in A, {new.get(name)} in B" for name in names)


def _conclusion(found: Mapping[str, Comparison]) -> str:
    lost = [("slower", slower(found)), ("less accurate", less_accurate(found))]
    told = [f"{what}: {', '.join(arms)}" for what, arms in lost if arms]
    unjudged = [arm for arm, one in found.items() if one.interval is None]
    rest = f" (speed not judged: {', '.join(unjudged)})" if unjudged else ""
    return (f"B is {'; '.join(told)}" if told else "No arm is shown to be slower or less accurate") + rest + "."


def _as_json(before: Side, after: Side, found: Mapping[str, Comparison]) -> dict[str, Any]:
    return {
        "before": before.name,
        "after": after.name,
        "device": before.device,
        "slower": slower(found),
        "less_accurate": less_accurate(found),
        "arms": {arm: asdict(one) | {"verdict": one.verdict} for arm, one in found.items()},
    }
