"""What each command of the command line does, from parsed arguments to an exit code."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import IO, TYPE_CHECKING, Any

from tune.cluster import assumed_facts, check_address_form, check_gpus_per_trial
from tune.config import check_value
from tune.config_file import check_new_config, write_config
from tune.errors import DONE, INTERRUPTED, TRIAL_FAILED, WrongInput
from tune.estimate import time_line
from tune.finalists import MARGIN, margin_of
from tune.gpu_models import gpu_facts
from tune.hardware import REPO_ROOT
from tune.mlflow_store import PROJECT, check_store, is_server, redacted, sqlite_file
from tune.output import (
    check_file_target,
    check_html_target,
    check_json_target,
    check_out_target,
    write_folder,
    write_json,
    write_page,
)
from tune.plan_text import print_plan
from tune.prepare import cache_dir, channels_of, check_windows, fetch_if_missing, prepare_data
from tune.report_cost import Price, parse_price
from tune.request import Request, build_request
from tune.search import Plan, plan_rows
from tune.space import plan_sweep
from tune.sweep_dir import check_idle, check_known, check_storage, running

if TYPE_CHECKING:
    from tune.tracking import SweepRecord

STORE_ANSWERS_WITHIN_S = 10.0
MOST_WAITED_S = 7 * 24 * 3600.0


def sweep(arguments: argparse.Namespace, tracking_uri: str) -> int:
    """Plan a sweep; run it unless only the plan was asked for; print the table."""
    request = build_request(arguments)
    _check_options(request, arguments)
    text: IO[str] = sys.stderr if arguments.json == "-" else sys.stdout
    if arguments.plan:
        return _show_plan(request, arguments, text)
    check_storage(arguments.storage_path)
    check_store(tracking_uri, timeout_s=STORE_ANSWERS_WITHIN_S)
    if arguments.address is None:
        _check_here(request, arguments, tracking_uri)
    return _run(request, arguments, tracking_uri, text)


def _check_options(request: Request, arguments: argparse.Namespace) -> None:
    """Raises WrongInput for what is wrong with how to run it, as far as that can be told on the spot."""
    if arguments.max_concurrent is not None and arguments.max_concurrent < 1:
        raise WrongInput(f"--max-concurrent {arguments.max_concurrent}: give 1 or more")
    if not 0 <= arguments.wait_for_gpus <= MOST_WAITED_S:
        raise WrongInput(
            f"--wait-for-gpus {arguments.wait_for_gpus:g}: give 0, which does not wait, to {MOST_WAITED_S:g} seconds"
        )
    check_gpus_per_trial(arguments.gpus_per_trial)
    if arguments.gpu_model is not None and arguments.gpus_per_trial == 0:
        raise WrongInput(f"--gpu-model {arguments.gpu_model} and --gpus-per-trial 0, which is the CPU: leave one out")
    if arguments.address is not None:
        check_address_form(arguments.address)
    if arguments.resume is not None:
        if arguments.fresh:
            raise WrongInput(f"--fresh and --resume {arguments.resume}: one starts anew, one goes on; give one")
        check_known(arguments.storage_path, arguments.resume, given=f"--resume {arguments.resume}")
    check_json_target(arguments.json)
    if arguments.save_config is not None:
        _check_new_config(request, arguments)


def _check_new_config(request: Request, arguments: argparse.Namespace) -> None:
    """Raises WrongInput for a file that --save-config should leave alone; it may replace the --config it came from."""
    target = arguments.save_config
    if str(target) == "-":
        raise WrongInput("--save-config -: name a file; stdout is for results")
    check_file_target("--save-config", str(target))
    if arguments.json not in (None, "-") and os.path.abspath(arguments.json) == os.path.abspath(target):
        raise WrongInput(f"--save-config {target} and --json {arguments.json}: the same file; name two")
    if arguments.config is None or os.path.abspath(arguments.config) != os.path.abspath(target):
        check_new_config(target, request.as_config())


def _show_plan(request: Request, arguments: argparse.Namespace, text: IO[str]) -> int:
    plan = _assumed_plan(request, arguments, channels=_channels(request))
    first = plan.trials[0].config.data
    looked_at = check_windows(first, data_dir=arguments.data_dir, storage_path=arguments.storage_path)
    _settle(request, arguments)
    print_plan(plan, text)
    if not looked_at:
        print("  data   not read yet: whether the windows fit shows when the sweep starts", file=text)
    at_a_time = _at_a_time(plan, arguments.max_concurrent)
    print(f"  time   {time_line(plan, arguments.storage_path, at_a_time=at_a_time)}", file=text)
    if arguments.address is not None:
        planned_for = "this machine" if arguments.gpu_model is None else arguments.gpu_model
        print(f"--address {arguments.address}: --plan asks no cluster; this plan is for {planned_for}", file=sys.stderr)
    write_json(arguments.json, {"sweep": request.sweep.name, "trials": plan_rows(plan.trials)})
    if not plan.runnable:
        raise WrongInput(f"no trial of this plan can run: {plan.trials[0].unsupported}")
    return DONE


def _at_a_time(plan: Plan, asked: int | None) -> int:
    """The trials that will run at a time, as far as a plan can know, which asks no cluster for its GPUs."""
    if plan.device.device_type == "cpu":
        return 1
    there = plan.device.gpus or asked or 1  # a model that was only named says nothing of how many there are
    return min(there, asked or there)


def _check_here(request: Request, arguments: argparse.Namespace, tracking_uri: str) -> None:
    """Tell wrong input, missing data and the same sweep running already before Ray starts on this machine."""
    data = _assumed_plan(request, arguments, gpu_model=None).trials[0].config.data
    storage = arguments.storage_path
    series = prepare_data(data, data_dir=arguments.data_dir, storage_path=storage, quiet=arguments.quiet)
    if not arguments.fresh and (busy := running(storage)):
        plan = _assumed_plan(request, arguments, gpu_model=None, channels=len(series.columns))
        key = plan.key(data_sha256=series.source_sha256, tracking_uri=tracking_uri)
        for sweep in busy:
            if sweep.read()["key"] == key:
                check_idle(sweep)


def _channels(request: Request) -> int | None:
    dataset, column = (request.overrides.get(f"data.{name}") for name in ("dataset", "timestamp_column"))
    known = isinstance(dataset, str) and (column is None or isinstance(column, str))
    return channels_of(str(dataset), column) if known else None  # what is of another type, the plan refuses


def _assumed_plan(request: Request, arguments: argparse.Namespace, **given: Any) -> Plan:
    """The plan for the GPU model that was named, else for this machine's own device."""
    gpu_model = given.get("gpu_model", arguments.gpu_model)
    facts = assumed_facts(arguments.gpus_per_trial) if gpu_model is None else gpu_facts(gpu_model)
    return plan_sweep(
        request.sweep,
        draws=request.trials,
        overrides=request.overrides,
        repeats=request.repeats,
        seed=request.seed,
        device=facts,
        channels=given.get("channels"),
    )


def _settle(request: Request, arguments: argparse.Namespace) -> None:
    """Once nothing is wrong with a request: say how it came about, and save it where that is asked for."""
    for note in request.notes:
        print(note, file=sys.stderr)
    if arguments.save_config is not None:
        write_config(arguments.save_config, request.as_config())


def _run(request: Request, arguments: argparse.Namespace, tracking_uri: str, text: IO[str]) -> int:
    from tune.closing import how_to_flush
    from tune.runner import Options, run_sweep

    options = Options(
        storage_path=arguments.storage_path.absolute(),
        tracking_uri=tracking_uri,
        data_dir=arguments.data_dir.absolute(),
        address=arguments.address,
        gpu_model=arguments.gpu_model,
        gpus_per_trial=arguments.gpus_per_trial,
        max_concurrent=arguments.max_concurrent,
        wait_for_gpus_s=arguments.wait_for_gpus,
        trials=request.trials,
        fresh=arguments.fresh,
        resume=arguments.resume,
        isolate=arguments.isolate,
        quiet=arguments.quiet,
    )

    def show_plan(plan: Plan) -> None:
        _settle(request, arguments)
        if not arguments.quiet:
            print_plan(plan, sys.stderr)

    outcome = run_sweep(
        request.sweep,
        overrides=request.overrides,
        repeats=request.repeats,
        seed=request.seed,
        options=options,
        show_plan=show_plan,
    )
    if outcome.pending:
        path = arguments.storage_path
        print(how_to_flush(outcome.sweep_id, path, tracking_uri, outcome.pending), file=sys.stderr)
        if outcome.interrupted:
            print(f"{outcome.sweep_id} is not finished; the same command again goes on from here", file=sys.stderr)
        return INTERRUPTED
    _show(outcome.sweep_id, tracking_uri, arguments.json, text)
    print(f"MLflow UI: {_ui(tracking_uri)}", file=text)
    if outcome.interrupted:
        print(f"{outcome.sweep_id} is not finished; the same command again goes on from here", file=sys.stderr)
        return INTERRUPTED
    return TRIAL_FAILED if outcome.failures else DONE


def _ui(tracking_uri: str) -> str:
    """Where the results can be looked at; without the password of the store, which the user knows."""
    shown = redacted(tracking_uri)
    if is_server(tracking_uri):
        return shown
    ours = shown.startswith("sqlite") and sqlite_file(tracking_uri) == REPO_ROOT / "mlflow.db"  # as the Makefile has it
    return f"mlflow ui --backend-store-uri {shlex.quote(shown)}" + ("   (or: make ui)" if ours else "")


def report(arguments: argparse.Namespace, tracking_uri: str) -> int:
    """Print the table of an earlier sweep, and write its files where that is asked for."""
    check_json_target(arguments.json)
    check_html_target(arguments.html, arguments.json)
    check_out_target(arguments.out)
    text = sys.stderr if arguments.json == "-" else sys.stdout
    margin, given = margin_of(arguments.margin_pct), arguments.price_per_gpu_hour
    price = None if given is None else parse_price(given)
    record = _show(arguments.sweep_id, tracking_uri, arguments.json, text, margin=margin, price=price)
    if arguments.out is not None:
        from tune.report_files import report_files

        write_folder(arguments.out, report_files(record, margin=margin, price=price))
    if arguments.html is not None:
        from tune.report_html import html_page

        write_page(arguments.html, html_page(record, margin=margin, price=price))
    return DONE


def show_data(arguments: argparse.Namespace) -> int:
    """Print what is in a series and whether its splits resemble each other."""
    from data_pipeline.describe import describe, render

    check_storage(arguments.storage_path)
    for name in ("context_length", "prediction_length"):
        check_value(f"data.{name}", getattr(arguments, name), given=f"--{name.replace('_', '-')}")
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


def _show(
    sweep_id: str,
    tracking_uri: str,
    json_target: str | None,
    text: IO[str],
    *,
    margin: float = MARGIN,
    price: Price | None = None,
) -> SweepRecord:
    from tune.report import as_json
    from tune.report_terminal import print_report
    from tune.tracking import read_sweep

    record = read_sweep(tracking_uri, PROJECT, sweep_id)
    print_report(record, text, margin=margin, price=price)
    write_json(json_target, as_json(record, margin=margin, price=price))
    return record
