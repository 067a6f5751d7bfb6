"""`compare A B`: did an arm get slower or worse in error from one sweep to another?

Nothing pairs the times of two sweeps: they ran at other times, maybe on another GPU of the same model. So the
logarithms of an arm's times per trained window, one per seed, are compared with those of the arm of the same name by
Welch's t, with Holm over the arms. Errors of one seed are pairs: the same weights and data order, whenever they ran.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from tune.commands.parser import SWEEP_HELP, Parser, add_margin, add_shared, tracking_uri
from tune.common.errors import DONE, REGRESSED, WrongInput
from tune.common.program import PROGRAM
from tune.console.output import check_json_target, write_json
from tune.console.text import table
from tune.report.comparisons import OF_SEARCH, accuracy_text, comparison_json, ratio_text, speed_text, trial_result
from tune.report.looks import grouped
from tune.report.work import completed, is_timed, works
from tune.stats.intervals import MIN_PAIRS
from tune.stats.pairs import Comparison, TrialResult, compare_sweeps, margin_of
from tune.stats.verdicts import ACCURACY_WORDS, SLOWER, SPEED_WORDS, WORSE
from tune.tracking.store import PROJECT

Fields = Mapping[str, Any]
TASK = ("data.dataset", "data.context_length", "data.prediction_length", "train.epochs")  # equal in both sweeps


def parser() -> Parser:
    text = "Did an arm get slower or worse in error? Exit code 1 if one did from A to B, 0 if not."
    parser = Parser(prog=f"{PROGRAM} compare", description=text, allow_abbrev=False)
    text = f"{SWEEP_HELP}; or a file as --json writes it"
    parser.add_argument("before", metavar="A", help=f"the reference: {text}")
    parser.add_argument("after", metavar="B", help=text)
    add_margin(parser)
    add_shared(parser)
    return parser


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two sweeps."""

    name: str  # a file as given, or the sweep's id
    device: str
    arms: Mapping[str, list[TrialResult]]
    fields: Mapping[str, Fields]  # arm -> the configuration of its trials, without the seed
    tells_alone: bool  # whether it says which trials had their device to themselves
    windows: Mapping[str, int]  # arm -> all training windows, which its times are of
    refused: Mapping[str, str]  # arm -> why it is not compared
    stopped: Mapping[str, str]  # arm -> where a look of --repeats auto ended it, and why; empty without looks


def run(arguments: argparse.Namespace) -> int:
    """Print a row for each arm of both sweeps; REGRESSED if one got slower or worse in error."""
    check_json_target(arguments.json)
    margin = margin_of(arguments.margin_pct)
    before, after = (read_side(given, tracking_uri(arguments)) for given in (arguments.before, arguments.after))
    check_comparable(before, after)
    before, after = _of_equal_windows(before, after), _of_equal_windows(after, before)
    arms = compare_sweeps(before.arms, after.arms, margin=margin)
    if not any(arm.interval or (arm.accuracy and arm.accuracy.bounds) for arm in arms.values()):
        raise WrongInput(
            f"no arm has {MIN_PAIRS} done trials in both {before.name} and {after.name}, so there is no verdict; "
            f"run both with --repeats {MIN_PAIRS} or more"
        )
    text = sys.stderr if arguments.json == "-" else sys.stdout
    for line in lines(before, after, arms):
        print(line, file=text)
    write_json(arguments.json, _as_json(before, after, arms))
    return REGRESSED if slower(arms) or worse(arms) else DONE


def slower(arms: Mapping[str, Comparison]) -> list[str]:
    return [name for name, arm in arms.items() if arm.verdict == SLOWER]


def worse(arms: Mapping[str, Comparison]) -> list[str]:
    return [name for name, arm in arms.items() if arm.accuracy and arm.accuracy.verdict == WORSE]


def check_comparable(before: Side, after: Side) -> None:
    """WrongInput for two device models, no arm in common, or a common arm whose task differs."""
    if before.device != after.device:
        raise WrongInput(
            f"{before.name} ran on {before.device}, {after.name} on {after.device}: their times cannot be compared; "
            "give two sweeps of one device model"
        )
    if not before.arms.keys() & after.arms.keys():
        refused = [*_refusals(before), *_refusals(after)]
        why = f" ({'; '.join(refused)})" if refused else f" ({', '.join(before.arms)} and {', '.join(after.arms)})"
        raise WrongInput(f"{before.name} and {after.name} have no arm in common{why}; give two sweeps of one kind")
    for arm in (arm for arm in before.arms if arm in after.arms):
        if differs := _task_changes(before.fields[arm], after.fields[arm]):
            raise WrongInput(
                f"{before.name} and {after.name} differ in the task of {arm} ({', '.join(differs)}): neither times nor "
                "errors can be compared; give two sweeps of one task"
            )


def _task_changes(old: Fields, new: Fields) -> list[str]:
    """Fields of TASK that differ, with both values. Earlier versions wrote numbers as text, or left a field out."""
    values = {name: (old.get(name), new.get(name)) for name in TASK}
    return [
        f"{name} {first} and {second}"
        for name, (first, second) in values.items()
        if first is not None and second is not None and str(first) != str(second)
    ]


def read_side(given: str, tracking_uri: str) -> Side:
    """Read a file or a sweep by its id. WrongInput or TrackingError where it cannot be read."""
    if Path(given).is_file() or given.endswith(".json"):
        return _side(given, _content(given))
    from tune.report.values import as_json
    from tune.tracking.reader import read_sweep

    record = read_sweep(tracking_uri, PROJECT, given)
    return _side(record.sweep_id, as_json(record))


def _refusals(side: Side) -> list[str]:
    """Each refused arm with the reason."""
    return [f"{arm} of {side.name} is refused: {why}" for arm, why in side.refused.items()]


def _of_equal_windows(side: Side, other: Side) -> Side:
    """The side with its times for as many windows as the other's, where one does not know all training windows."""
    arms = dict(side.arms)
    for arm, windows in side.windows.items():
        factor = max(windows, other.windows.get(arm, 0)) / windows
        arms[arm] = [
            each if each.time_s is None else replace(each, time_s=each.time_s * factor) for each in side.arms[arm]
        ]
    return replace(side, arms=arms)


def _content(given: str) -> Any:
    try:
        return json.loads(Path(given).read_text())
    except OSError as error:
        raise WrongInput(f"{given}: {error.strerror}; give a sweep id, or a file as --json writes it") from None
    except ValueError:  # no JSON, or no text
        raise WrongInput(f"{given} is not JSON; give a sweep id, or a file as --json writes it") from None


def _side(name: str, content: Any) -> Side:
    arms: dict[str, list[TrialResult]] = {}
    fields: dict[str, Fields] = {}
    windows: dict[str, int] = {}
    refused: dict[str, str] = {}
    try:
        device = content.get("device") or content["environment"]["device"]["name"]
        trials = [trial for trial in content["trials"] if trial.get("stage") not in OF_SEARCH]
        looked = _looks(content)
        tells_alone = all("timing_valid" in trial for trial in trials)
        metrics = [{name: value for name, value in trial["metrics"].items() if value is not None} for trial in trials]
        found = works([(trial["params"], values) for trial, values in zip(trials, metrics, strict=True)])
        for trial, values, work in zip(trials, metrics, found, strict=True):
            seed = trial.get("seed") or trial["params"].get("train.seed")
            arm = trial.get("arm") or _arm_of(trial["trial_id"], content["sweep"], seed)
            arms.setdefault(arm, []).append(_result(trial, seed, completed(values, work)))
            if is_timed(values) and work.refusal:
                refused[arm] = work.refusal
            elif work.windows:
                windows[arm] = work.windows
            fields.setdefault(arm, {key: value for key, value in trial["params"].items() if key != "train.seed"})
    except (AttributeError, KeyError, TypeError) as error:
        raise WrongInput(
            f"{name} is not a result that says its device and its trials ({type(error).__name__}: {error}); "
            "give a sweep id, or a file as --json writes it"
        ) from None
    return Side(
        name=name,
        device=str(device),
        arms={arm: results for arm, results in arms.items() if arm not in refused},
        fields=fields,
        tells_alone=tells_alone,
        windows={arm: count for arm, count in windows.items() if arm not in refused},
        refused=refused,
        stopped={arm: looks["stopped"] for arm, looks in looked.items() if arm not in refused},
    )


def _looks(content: Any) -> dict[str, Any]:
    """What the looks made of each arm, if the sweep had some."""
    compared = (content.get("comparisons") or {}).items()
    return {arm: looks for arm, comparison in compared if (looks := comparison.get("looks"))}


def _arm_of(trial_id: str, sweep: str, seed: Any) -> str:
    """The arm that a trial's id names; files of earlier versions name it nowhere else."""
    return trial_id.removeprefix(f"{sweep}-").removesuffix(f"-s{seed}")


def _result(trial: Mapping[str, Any], seed: Any, metrics: Mapping[str, float]) -> TrialResult:
    tags = {"timing_valid": trial.get("timing_valid", "true") or "unknown", "seed": str(seed)}
    return trial_result(trial["status"], tags, metrics)


def lines(before: Side, after: Side, arms: Mapping[str, Comparison]) -> list[str]:
    """The table and what a reader must know of it."""
    rows = [
        {
            "arm": name,
            "A s/epoch": _seconds(before.arms[name]),
            "B s/epoch": _seconds(after.arms[name]),
            "B's speed": ratio_text(arm),
            "speed": speed_text(arm),
            "accuracy": accuracy_text(arm.accuracy),
        }
        for name, arm in arms.items()
    ]
    text = [f"A {before.name}, B {after.name}, on {before.device}", *table(list(rows[0]), rows)]
    text.append(
        "'B's speed' is A's time of an epoch of all training windows over B's, geometric means over seeds, with "
        "Welch's t interval (95 %, Holm over the arms), unpaired; 'accuracy' is B's validation MSE relative to A's, "
        "seed by seed."
    )
    unpaired = [name for name, arm in arms.items() if arm.accuracy and arm.accuracy.unit == "trial"]
    if unpaired:
        few = f"fewer than {MIN_PAIRS} seeds in common"
        text.append(f"{', '.join(unpaired)}: {few}, so 'accuracy' is by Welch's t on logarithms, unpaired.")
    text += [
        f"{side.name} ran with --repeats auto, so its results decided how many seeds its arms have. Beside its own "
        f"baseline: {grouped(side.stopped)}."
        for side in (before, after)
        if side.stopped
    ]
    text += [f"{line}." for side in (before, after) for line in _refusals(side)]
    text += [f"Only in {side.name}: {', '.join(only)}." for side, only in _unmatched(before, after) if only]
    text += [
        f"{side.name} does not say which trials had their device to themselves, so all of them count."
        for side in (before, after)
        if not side.tells_alone
    ]
    text += [f"{name} is configured differently: {what}." for name in arms if (what := _changed(name, before, after))]
    return [*text, _conclusion(arms)]


def _seconds(results: list[TrialResult]) -> str:
    times = [result.time_s for result in results if result.time_s is not None]
    return f"{geometric_mean(times):.3f} ({len(times)})" if times else "- (0)"


def _unmatched(before: Side, after: Side) -> list[tuple[Side, list[str]]]:
    sides = ((before, after), (after, before))
    return [(side, [arm for arm in side.arms if arm not in {**other.arms, **other.refused}]) for side, other in sides]


def _changed(arm: str, before: Side, after: Side) -> str:
    old, new = before.fields[arm], after.fields[arm]
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} in A, {new.get(name)} in B" for name in names)


def _conclusion(arms: Mapping[str, Comparison]) -> str:
    regressions = [(SPEED_WORDS[SLOWER], slower(arms)), (f"{ACCURACY_WORDS[WORSE]} in error", worse(arms))]
    regressed = [f"{what}: {', '.join(names)}" for what, names in regressions if names]
    no_verdict = [name for name, arm in arms.items() if arm.verdict is None]
    rest = f" (no verdict on the speed of {', '.join(no_verdict)})" if no_verdict else ""
    result = f"B is {'; '.join(regressed)}" if regressed else "No arm is shown to be slower or worse in error"
    return f"{result}{rest}."


def _as_json(before: Side, after: Side, arms: Mapping[str, Comparison]) -> dict[str, Any]:
    return {
        "before": before.name,
        "after": after.name,
        "device": before.device,
        "slower": slower(arms),
        "less_accurate": worse(arms),  # programs know it by this name
        "refused": {side.name: dict(side.refused) for side in (before, after)},
        "stopped": {side.name: dict(side.stopped) for side in (before, after)},
        "arms": {name: comparison_json(arm) for name, arm in arms.items()},
    }
