"""What each command of the command line does, from parsed arguments to an exit code."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from data_pipeline.datasets import FILE_ENDINGS
from tune.cluster import assumed_facts, check_gpus_per_trial
from tune.config import check_field
from tune.errors import DONE, INTERRUPTED, TRIAL_FAILED, WRONG_INPUT, WrongInput
from tune.mlflow_store import is_server, redacted
from tune.prepare import cache_dir, fetch_if_missing, prepare_data
from tune.search import Plan, PlannedTrial, make_plan, plan_rows
from tune.sweep_dir import check_storage, write_atomically
from tune.sweeps import SweepConfig, get_sweep

if TYPE_CHECKING:
    from tune.runner import Outcome

DRAWN, MOST_DRAWN = 50, 100_000  # trials of a sweep with a space: without --trials, and at most
FINAL_REPEATS = 3  # pairs of each arm in the final of such a sweep, without --repeats
GOOD = ("done", "stopped", "unsupported")
PATCHING = frozenset({"data.context_length", "model.patch_length", "model.patch_stride"})  # they decide num_patches


def sweep(arguments: argparse.Namespace, tracking_uri: str) -> int:
    """Plan a sweep; run it unless only the plan was asked for; print the table."""
    chosen, overrides = get_sweep(arguments.sweep), _overrides(arguments)
    if arguments.repeats is None:
        arguments.repeats = FINAL_REPEATS if chosen.space else 1
    if arguments.repeats < 1:
        raise WrongInput(f"--repeats {arguments.repeats}: give 1 or more")
    if arguments.max_concurrent is not None and arguments.max_concurrent < 1:
        raise WrongInput(f"--max-concurrent {arguments.max_concurrent}: give 1 or more")
    _check_trials(chosen, arguments)
    check_gpus_per_trial(arguments.gpus_per_trial)
    check_json_target(arguments.json)
    stdout_is_json = arguments.json == "-"
    text: IO[str] = sys.stderr if stdout_is_json else sys.stdout
    if arguments.plan:
        plan = _assumed_plan(chosen, overrides, arguments)
        print_plan(plan, text)
        _write_json(arguments.json, {"sweep": chosen.name, "trials": plan_rows(plan.trials)})
        return DONE if plan.runnable else WRONG_INPUT
    check_storage(arguments.storage_path)
    if arguments.address is None:  # wrong input and missing data are told before Ray starts
        data = _assumed_plan(chosen, overrides, arguments).trials[0].config.data
        prepare_data(data, data_dir=arguments.data_dir, storage_path=arguments.storage_path, quiet=arguments.quiet)
    return _run(chosen, overrides, arguments, tracking_uri, text)


def _check_trials(chosen: SweepConfig, arguments: argparse.Namespace) -> None:
    """--trials becomes DRAWN for a sweep with a space where it is not given. WrongInput where it does not fit."""
    if arguments.trials is None:
        arguments.trials = DRAWN if chosen.space else None
    elif not chosen.space:
        count = len(chosen.arms) * arguments.repeats
        raise WrongInput(
            f"--trials {arguments.trials}: for a sweep that draws its trials, as full does; the {chosen.name} sweep "
            f"has {count}; leave it out"
        )
    elif not 1 <= arguments.trials <= MOST_DRAWN:
        raise WrongInput(f"--trials {arguments.trials}: give 1 to {MOST_DRAWN}")


def _run(
    chosen: SweepConfig, overrides: dict[str, Any], arguments: argparse.Namespace, tracking_uri: str, text: IO[str]
) -> int:
    from tune.runner import Options, run_sweep

    options = Options(
        storage_path=arguments.storage_path.absolute(),
        tracking_uri=tracking_uri,
        data_dir=arguments.data_dir.absolute(),
        address=arguments.address,
        gpus_per_trial=arguments.gpus_per_trial,
        max_concurrent=arguments.max_concurrent,
        trials=arguments.trials,
        fresh=arguments.fresh,
        resume=arguments.resume,
        quiet=arguments.quiet,
    )
    outcome = run_sweep(
        chosen,
        overrides=overrides,
        repeats=arguments.repeats,
        seed=arguments.seed,
        options=options,
        show_plan=lambda plan: None if arguments.quiet else print_plan(plan, sys.stderr),
    )
    if outcome.pending:
        _say_pending(outcome, options.storage_path)
        return INTERRUPTED
    _show(outcome.sweep_id, tracking_uri, arguments.json, text)
    print(f"MLflow UI: {_ui(tracking_uri)}", file=text)
    if outcome.interrupted:
        print(f"{outcome.sweep_id} is not finished; the same command again goes on from here", file=sys.stderr)
        return INTERRUPTED
    return DONE if all(status in GOOD for status in outcome.statuses.values()) else TRIAL_FAILED


def _say_pending(outcome: Outcome, storage_path: Path) -> None:
    """Nothing is lost while MLflow does not answer; no table either, since its numbers are MLflow's."""
    print(
        f"MLflow lacks {outcome.pending} records of {outcome.sweep_id}, which wait in "
        f"{storage_path / outcome.sweep_id}; the same command sends them and prints the table",
        file=sys.stderr,
    )


def _ui(tracking_uri: str) -> str:
    """Where the results can be looked at; without the password of the store, which the user knows."""
    shown = redacted(tracking_uri)
    if is_server(tracking_uri):
        return shown
    return f"mlflow ui --backend-store-uri {shown}" + ("   (or: make ui)" if shown.startswith("sqlite") else "")


def report(arguments: argparse.Namespace, tracking_uri: str) -> int:
    """Print the table of an earlier sweep."""
    check_json_target(arguments.json)
    _show(arguments.sweep_id, tracking_uri, arguments.json, sys.stderr if arguments.json == "-" else sys.stdout)
    return DONE


def show_data(arguments: argparse.Namespace) -> int:
    """Print what is in a series and whether its splits resemble each other."""
    from data_pipeline.describe import describe, render

    check_storage(arguments.storage_path)
    fetch_if_missing(arguments.name, arguments.data_dir, quiet=arguments.quiet)
    found = describe(
        arguments.name,
        arguments.data_dir,
        cache_dir(arguments.storage_path),
        arguments.context_length,
        arguments.prediction_length,
        timestamp_column=arguments.timestamp_column,
    )
    print(render(found))
    return DONE


def _show(sweep_id: str, tracking_uri: str, json_target: str | None, text: IO[str]) -> None:
    from tune.report import as_json, print_report
    from tune.runner import PROJECT
    from tune.tracking import read_sweep

    record = read_sweep(tracking_uri, PROJECT, sweep_id)
    print_report(record, text)
    _write_json(json_target, as_json(record))


def check_json_target(target: str | None) -> None:
    """Raises WrongInput unless --json names a file, there or not, in a folder that can be written."""
    if target in (None, "-"):
        return
    folder = os.path.dirname(target) or "."
    if not os.path.basename(target) or os.path.exists(target) and not os.path.isfile(target):
        problem = "not a file"
    elif not os.path.isdir(folder):
        problem = f"there is no folder {folder}"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"the folder {folder} is not writable"
    else:
        return
    raise WrongInput(f"--json {target}: {problem}; name a file in a folder that exists and is writable")


def _write_json(target: str | None, content: dict[str, Any]) -> None:
    if target is None:
        return
    text = json.dumps(_strict(content), indent=1, allow_nan=False)
    if target == "-":
        print(text)
        return
    try:
        write_atomically(Path(target), text + "\n")
    except OSError as error:
        raise WrongInput(f"--json {target}: {error.strerror}; use `report SWEEP_ID --json FILE`") from None


def _strict(content: Any) -> Any:
    """The same with null for every number that JSON cannot write: NaN and the infinities."""
    if isinstance(content, dict):
        return {name: _strict(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """--dataset, --epochs and --set as one mapping by field name."""
    found: dict[str, Any] = {}
    if arguments.dataset is not None:
        found["data.dataset"] = arguments.dataset
    if arguments.epochs is not None:
        found["train.epochs"] = arguments.epochs
    for item in arguments.set:
        name, separator, value = item.partition("=")
        if not separator:
            raise WrongInput(f"--set {item}: write FIELD=VALUE, for example --set model.d_model=64")
        if check_field(name) in found:
            raise WrongInput(f"--set {item}: {name} is given twice")
        found[name] = _value(value)
    dataset = found.get("data.dataset")
    if isinstance(dataset, str) and dataset.endswith(FILE_ENDINGS):  # a trial has another current directory
        found["data.dataset"] = str(Path(os.path.expanduser(dataset)).absolute())
    return found


def _value(text: str) -> Any:
    """A number, list, true, false or null as JSON writes it; anything else is a name."""
    try:
        return json.loads(text)
    except ValueError:  # also of a number with thousands of digits
        return text


def _assumed_plan(chosen: SweepConfig, overrides: dict[str, Any], arguments: argparse.Namespace) -> Plan:
    facts = assumed_facts(arguments.gpus_per_trial)
    return make_plan(chosen, overrides=overrides, repeats=arguments.repeats, seed=arguments.seed, device=facts)


def print_plan(plan: Plan, stream: IO[str]) -> None:
    """The trials of a plan, what cannot run and why, and what computes the same as another."""
    first = plan.trials[0].config
    fields = first.flat() | dict.fromkeys(plan.sweep.swept, "(swept)")
    patches = "" if PATCHING & plan.sweep.swept else f" ({first.num_patches} patches)"
    assumed = " (assumed: this machine's)" if plan.device.assumed else ""
    lines = [
        f"{plan.sweep.name}: {plan.sweep.question}",
        f"  data   {fields['data.dataset']}, {fields['data.context_length']} -> {fields['data.prediction_length']} "
        f"steps, feed {fields['data.feed']}",
        f"  model  preset {fields['model.preset']}, patch {fields['model.patch_length']}{patches}, "
        f"d_model {fields['model.d_model']}, {fields['model.num_heads']} heads, {fields['model.num_layers']} layers, "
        f"attention {fields['model.attention']}",
        f"  train  {fields['train.epochs']} epochs, batch {fields['train.batch_size']}, {fields['train.precision']}, "
        f"engine {fields['train.engine']}",
        f"  device {plan.device.name}{assumed}",
        f"  {len(plan.trials)} trials, {len(plan.runnable)} can run:",
        *(f"    {trial.trial_id}{_remark(trial)}" for trial in plan.trials),
    ]
    print("\n".join(lines), file=stream)


def _remark(trial: PlannedTrial) -> str:
    if trial.unsupported:
        return f"  UNSUPPORTED: {trial.unsupported}"
    if trial.same_as:
        return f"  (same removals as {trial.same_as} at {trial.config.train.epochs} epochs)"
    return ""
