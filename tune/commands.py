"""What each command of the command line does, from parsed arguments to an exit code."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import IO, Any

from tune.cluster import assumed_facts, check_gpus_per_trial
from tune.config import check_field
from tune.errors import WrongInput
from tune.search import Plan, make_plan, plan_rows
from tune.sweep_dir import write_atomically
from tune.sweeps import SweepConfig, get_sweep

DONE, TRIAL_FAILED, INTERRUPTED = 0, 1, 130
GOOD = ("done", "stopped", "unsupported")


def sweep(arguments: argparse.Namespace, tracking_uri: str) -> int:
    """Plan a sweep; run it unless only the plan was asked for; print the table."""
    chosen, overrides = get_sweep(arguments.sweep), _overrides(arguments)
    if arguments.repeats < 1:
        raise WrongInput(f"--repeats {arguments.repeats}: give 1 or more")
    if arguments.max_concurrent is not None and arguments.max_concurrent < 1:
        raise WrongInput(f"--max-concurrent {arguments.max_concurrent}: give 1 or more")
    check_gpus_per_trial(arguments.gpus_per_trial)
    stdout_is_json = arguments.json == "-"
    text: IO[str] = sys.stderr if stdout_is_json else sys.stdout
    if arguments.plan:
        plan = _assumed_plan(chosen, overrides, arguments)
        print_plan(plan, text)
        _write_json(arguments.json, {"sweep": chosen.name, "trials": plan_rows(plan.trials)})
        return DONE if plan.runnable else 2
    if arguments.address is None:
        _assumed_plan(chosen, overrides, arguments)  # wrong input is told before Ray starts
    return _run(chosen, overrides, arguments, tracking_uri, text)


def _run(
    chosen: SweepConfig, overrides: dict[str, Any], arguments: argparse.Namespace, tracking_uri: str, text: IO[str]
) -> int:
    from data_pipeline.store import source_hash
    from tune.runner import Options, run_sweep

    source_hash(overrides.get("data.dataset", "ETTh1"), arguments.data_dir)  # missing data is told before Ray starts
    options = Options(
        storage_path=arguments.storage_path.absolute(),
        tracking_uri=tracking_uri,
        data_dir=arguments.data_dir.absolute(),
        address=arguments.address,
        gpus_per_trial=arguments.gpus_per_trial,
        max_concurrent=arguments.max_concurrent,
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
        print(f"{outcome.pending} records wait in the outbox; the same command sends them", file=sys.stderr)
    _show(outcome.sweep_id, tracking_uri, arguments.json, text)
    if tracking_uri.startswith("sqlite"):
        print(f"MLflow UI: mlflow ui --backend-store-uri {tracking_uri}   (or: make ui)", file=text)
    else:
        print(f"MLflow UI: {tracking_uri}", file=text)
    if outcome.interrupted:
        print(f"{outcome.sweep_id} is not finished; the same command again goes on from here", file=sys.stderr)
        return INTERRUPTED
    return DONE if all(status in GOOD for status in outcome.statuses.values()) else TRIAL_FAILED


def report(arguments: argparse.Namespace, tracking_uri: str) -> int:
    """Print the table of an earlier sweep."""
    _show(arguments.sweep_id, tracking_uri, arguments.json, sys.stderr if arguments.json == "-" else sys.stdout)
    return DONE


def _show(sweep_id: str, tracking_uri: str, json_target: str | None, text: IO[str]) -> None:
    from tune.hardware import environment
    from tune.report import as_json, print_report
    from tune.runner import PROJECT
    from tune.tracking import read_sweep

    record = read_sweep(tracking_uri, PROJECT, sweep_id)
    print_report(record, text)
    _write_json(json_target, as_json(record, environment()))


def _write_json(target: str | None, content: dict[str, Any]) -> None:
    if target is None:
        return
    text = json.dumps(content, indent=1)
    if target == "-":
        print(text)
        return
    try:
        write_atomically(Path(target), text + "\n")
    except OSError as error:
        raise WrongInput(
            f"--json {target}: {error.strerror}; name a file in a folder that exists and is writable"
        ) from None


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
    return found


def _value(text: str) -> Any:
    """A number, list, true, false or null as JSON writes it; anything else is a name."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assumed_plan(chosen: SweepConfig, overrides: dict[str, Any], arguments: argparse.Namespace) -> Plan:
    facts = assumed_facts(arguments.gpus_per_trial)
    return make_plan(chosen, overrides=overrides, repeats=arguments.repeats, seed=arguments.seed, device=facts)


def print_plan(plan: Plan, stream: IO[str]) -> None:
    """The trials of a plan, what cannot run and why."""
    first, device = plan.trials[0].config, plan.device
    data, model, train = first.data, first.model, first.train
    assumed = " (assumed: this machine's)" if device.assumed else ""
    lines = [
        f"{plan.sweep.name}: {plan.sweep.question}",
        f"  data   {data.dataset}, {data.context_length} steps -> {data.prediction_length}, feed {data.feed}",
        f"  model  preset {model.preset}: {first.num_patches} patches, d_model {model.d_model}, "
        f"{model.num_heads} heads, {model.num_layers} layers, attention {model.attention}",
        f"  train  {train.epochs} epochs, batch {train.batch_size}, {train.precision}, engine {train.engine}",
        f"  device {device.name}{assumed}",
        f"  {len(plan.trials)} trials, {len(plan.runnable)} can run:",
    ]
    lines += [
        f"    {trial.trial_id}" + (f"  UNSUPPORTED: {trial.unsupported}" if trial.unsupported else "")
        for trial in plan.trials
    ]
    print("\n".join(lines), file=stream)
