"""The command without a name: plan a sweep (`--sweep`, `--plan`), run it, print its table."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tune.cluster.probe import assumed_facts
from tune.cluster.session_folder import session_folder
from tune.commands.parser import (
    EXAMPLES,
    Parser,
    add_csv,
    add_folders,
    add_shared,
    cells,
    number,
    repeats,
    tracking_uri,
    whole_number,
)
from tune.commands.report import show_report, write_table
from tune.commands.sweep_checks import check_options
from tune.common import signals
from tune.common.address import is_server, redacted, sqlite_file
from tune.common.errors import DONE, INTERRUPTED, TRIAL_FAILED, WrongInput
from tune.common.process import started_ms
from tune.common.program import PROGRAM
from tune.common.temporary import temporary_folder
from tune.config.request import Request, build_request
from tune.config.trial_config import DataConfig
from tune.config.yaml_file import write_config
from tune.console.output import write_json
from tune.driver.budget import Budget
from tune.driver.options import Options, Outcome
from tune.machine.gpu_models import gpu_facts
from tune.plan.estimate import fits_line, time_line
from tune.plan.plan import Plan, plan_rows
from tune.plan.planner import Planner
from tune.plan.table_planner import planner_of
from tune.plan.text import print_plan
from tune.storage.check_folder import cache_note, check_storage
from tune.storage.open_sweep import check_idle, running
from tune.tracking.store import STORE_ANSWERS_WITHIN_S, check_store

Show = Callable[[str], None]
WAIT_FOR_GPUS_S = 600.0


def parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Fast and fair sweeps over PatchTST training.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("--sweep", metavar="NAME", help=f"the sweep, for example: pruning (see `{PROGRAM} list`)")
    what.add_argument(
        "--dataset",
        metavar="NAME",
        help="ETTh1 (default), ETTh2, ETTm1, ETTm2, traffic, demo, or the path of a text or Parquet file",
    )
    what.add_argument("--epochs", type=whole_number, metavar="N", help="training epochs of each trial")
    what.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a field for every arm, repeatable"
    )
    what.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="FIELD=V1,V2",
        help="run every arm at each of these values, repeatable (all combinations); ratios are to the sweep's own "
        "baseline arm at the first value of each; for the full sweep: one more dimension of the search",
    )
    text = "of a table, as benchmark has: only these data sets and cells, such as ETTh1,ETTm1-96"
    what.add_argument("--only", type=cells, metavar="NAMES", help=text)
    text = "seed of the first repeat (default 1; 2021 for benchmark)"
    what.add_argument("--seed", type=whole_number, metavar="N", help=text)
    text = "runs of each arm, each with another seed; auto: 3 to 10, until each arm's verdicts are reached (default "
    what.add_argument("--repeats", type=repeats, metavar="N", help=f"{text}auto; 1 for one arm)")
    what.add_argument(
        "--trials", type=whole_number, metavar="N", help="shapes that the full sweep's search trains (default 50)"
    )
    text = "begin nothing after this time, and nothing that would not be done by then; the same command goes on later"
    what.add_argument("--minutes", type=number, metavar="M", help=text)
    text = "end the full sweep's search once a shape's validation MSE is at most this"
    what.add_argument("--target-val-mse", type=number, metavar="X", help=text)
    text = "do not read the test set: no trial has test errors, choices go by the validation set as ever"
    what.add_argument("--no-test", action="store_true", help=text)
    text = "all of these as YAML, the path of a data file relative to it; the command line wins"
    what.add_argument("--config", type=Path, metavar="FILE", help=text)
    what.add_argument("--save-config", type=Path, metavar="FILE", help="write this sweep as such a file")
    how = parser.add_argument_group("how to run it")
    add_how(how)
    text = "send the sweep to a cluster's job server, http://HOST:8265, and follow it; Ctrl-C only stops following"
    how.add_argument("--submit", metavar="URL", help=text)
    add_csv(how)
    how.add_argument("--verbose", action="store_true", help="print all columns and notes of the report")
    add_shared(parser)
    return parser


def add_how(how: argparse._ArgumentGroup) -> None:
    """Add the options of how a sweep is run on a machine or a running cluster."""
    how.add_argument("--plan", action="store_true", help="print the trials and run nothing")
    add_folders(how)
    how.add_argument(
        "--address", metavar="ADDR", help="a running Ray cluster, or auto (default: start Ray on this machine)"
    )
    how.add_argument(
        "--gpu-model",
        metavar="NAME",
        help="the GPU model to use if a cluster has several; with --plan: the model to plan for",
    )
    how.add_argument("--gpus-per-trial", type=float, metavar="N", help="default 1 if there is a GPU; 0 runs on the CPU")
    text = "trials at a time (default: one per GPU); a cluster's autoscaler is asked for this many GPUs"
    how.add_argument("--max-concurrent", type=whole_number, metavar="N", help=text)
    text = "longest wait for a cluster's workers to start and join (default 600; 0: none)"
    how.add_argument("--wait-for-gpus", type=float, default=WAIT_FOR_GPUS_S, metavar="SECONDS", help=text)
    how.add_argument("--fresh", action="store_true", help="start a new sweep even if the same sweep is unfinished")
    how.add_argument("--resume", metavar="SWEEP_ID", help="resume this sweep, also after a change of code")
    text = "give each trial a new process and empty caches of compiled code and gate results: slower"
    how.add_argument("--isolate", action="store_true", help=text)
    text = "keep each trial's forecasts of the test set with truth and times: forecasts/test.parquet of its MLflow run"
    how.add_argument("--save-forecasts", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Plan a sweep, run it unless --plan is given, print the table; or send it to a cluster with --submit."""
    if arguments.submit is not None:
        from tune.commands.submit import submit

        return submit(arguments)
    return run_request(build_request(arguments), arguments)


def run_request(request: Request, arguments: argparse.Namespace, show: Show | None = None) -> int:
    """Plan a sweep, run it unless --plan is given, show its results. The exit code of the command.

    arguments: those of "how to run it". show: prints the results of a sweep, by its id; None: the report.
    """
    budget = Budget(request.minutes)
    check_options(request, arguments)
    planner = planner_of(request)
    text: IO[str] = sys.stderr if arguments.json == "-" else sys.stdout
    if arguments.plan:
        return _show_plan(request, planner, arguments, text)
    temporary_folder() if arguments.address is not None else session_folder()  # is there one that can be used?
    check_storage(arguments.storage_path)
    if note := cache_note(arguments.storage_path):
        print(note, file=sys.stderr)
    store = tracking_uri(arguments)
    check_store(store, timeout_s=STORE_ANSWERS_WITHIN_S)
    if arguments.address is None:
        _check_here(planner, arguments, store)
    return _run_sweep(request, planner, arguments, store, text, budget, show)


def _show_plan(request: Request, planner: Planner, arguments: argparse.Namespace, text: IO[str]) -> int:
    model = arguments.gpu_model
    here = assumed_facts(arguments.gpus_per_trial)
    device = planner.with_compilers(here, arguments.storage_path) if model is None else gpu_facts(model)
    plan = planner.plan(device)
    planner.look_up(plan, data_dir=arguments.data_dir, storage_path=arguments.storage_path)
    plan = planner.plan(device)
    _settle(request, arguments)
    folders = {"data_dir": arguments.data_dir, "storage_path": arguments.storage_path}
    protocol = planner.protocol(plan, **folders)
    plan = planner.plan(device)  # now that the size of the data may be known
    print_plan(plan, text, protocol)
    at_a_time = _at_a_time(plan, arguments.max_concurrent)
    print(f"  time   {time_line(plan, arguments.storage_path, at_a_time=at_a_time)}", file=text)
    if request.minutes is not None:
        print(f"  fits   {fits_line(plan, arguments.storage_path, request.minutes, at_a_time=at_a_time)}", file=text)
    if arguments.address is not None:
        planned_for = "this machine" if arguments.gpu_model is None else arguments.gpu_model
        print(f"--address {arguments.address}: --plan asks no cluster; this plan is for {planned_for}", file=sys.stderr)
    write_json(arguments.json, {"sweep": request.sweep.name, "trials": plan_rows(plan.trials)})
    if not plan.runnable:
        raise WrongInput(f"no trial of this plan can run: {plan.why_not(plan.trials[0])}")
    return DONE


def _at_a_time(plan: Plan, asked: int | None) -> int:
    """How many trials will run at a time, as far as a plan knows: it asks no cluster for its GPUs."""
    if plan.device.device_type == "cpu":
        return 1
    gpus = plan.device.gpus or asked or 1  # --gpu-model names a model, not a number
    return min(gpus, asked or gpus)


def _check_here(planner: Planner, arguments: argparse.Namespace, store: str) -> None:
    """Find wrong input, missing data and the same sweep already running before Ray starts on this machine."""
    facts, storage = assumed_facts(arguments.gpus_per_trial), arguments.storage_path
    data = planner.prepare(
        planner.plan(facts), data_dir=arguments.data_dir, storage_path=storage, quiet=arguments.quiet
    )
    if not arguments.fresh and (busy := running(storage)):
        key = planner.plan(facts).key(data_sha256=data.sha256, tracking_uri=store)
        for sweep in busy:
            if sweep.read()["key"] == key:
                check_idle(sweep)


def _settle(request: Request, arguments: argparse.Namespace) -> None:
    """Print the notes of a valid request, and write it if --save-config asks for it."""
    for note in request.notes:
        print(note, file=sys.stderr)
    if arguments.save_config is not None:
        write_config(arguments.save_config, request.as_config(arguments.save_config.parent))


def _run_sweep(
    request: Request,
    planner: Planner,
    arguments: argparse.Namespace,
    store: str,
    text: IO[str],
    budget: Budget,
    show: Show | None,
) -> int:
    if not arguments.quiet:  # before anything slow is imported
        ray = "starting Ray" if arguments.address is None else f"joining Ray at {arguments.address}"
        print(f"{ray} ...", file=sys.stderr, flush=True)
    from tune.driver.finish import how_to_flush, what_was_refused
    from tune.driver.run import run_sweep

    options = Options(
        storage_path=arguments.storage_path.absolute(),
        tracking_uri=store,
        data_dir=arguments.data_dir.absolute(),
        address=arguments.address,
        gpu_model=arguments.gpu_model,
        gpus_per_trial=arguments.gpus_per_trial,
        max_concurrent=arguments.max_concurrent,
        wait_for_gpus_s=arguments.wait_for_gpus,
        fresh=arguments.fresh,
        resume=arguments.resume,
        budget=budget,
        isolate=arguments.isolate,
        save_forecasts=arguments.save_forecasts,
        quiet=arguments.quiet,
        began_ms=started_ms(),
    )

    def show_plan(plan: Plan) -> None:
        _settle(request, arguments)
        if not arguments.quiet:
            folders = {"data_dir": options.data_dir, "storage_path": options.storage_path}
            print_plan(plan, sys.stderr, planner.protocol(plan, **folders))

    def report(sweep_id: str) -> None:
        record = show_report(sweep_id, store, arguments.json, text, verbose=arguments.verbose)
        write_table(arguments.csv, record)

    show = show or report
    outcome = run_sweep(planner, options=options, show_plan=show_plan)
    path = arguments.storage_path
    if outcome.refused:
        print(what_was_refused(outcome.sweep_id, path, outcome.refused), file=sys.stderr)
    if outcome.pending:
        if not outcome.unsent and signals.received() in (None, signal.SIGINT):
            show(outcome.sweep_id)
        print(how_to_flush(outcome.sweep_id, path, store, outcome.pending, outcome.blocked), file=sys.stderr)
        if outcome.interrupted:
            print(_goes_on(outcome.sweep_id), file=sys.stderr)
        return INTERRUPTED
    if signals.received() in (None, signal.SIGINT):  # who sends another one does not wait for a table
        show(outcome.sweep_id)
        print(f"MLflow UI: {_ui(store, outcome.sweep_id)}", file=text)
        plain = show is report and not request.sweep.table and not arguments.verbose and arguments.json != "-"
        if plain and not (outcome.interrupted or outcome.stopped):
            _print_next_steps(outcome, request, arguments, text)
    if outcome.stopped:
        print(f"{outcome.sweep_id}: {outcome.stopped}; the same command again goes on from here", file=sys.stderr)
    elif outcome.interrupted:
        print(_goes_on(outcome.sweep_id), file=sys.stderr)
        return INTERRUPTED
    return TRIAL_FAILED if outcome.failures or outcome.refused else DONE


def _print_next_steps(outcome: Outcome, request: Request, arguments: argparse.Namespace, text: IO[str]) -> None:
    """Commands to copy, where a trial's result is there to look at."""
    from tune.commands.next_steps import next_steps

    if "done" in outcome.statuses.values():
        several = "data.dataset" in request.axes
        dataset = None if several else request.overrides.get("data.dataset", DataConfig().dataset)
        print(*next_steps(outcome.sweep_id, arguments.words, dataset), sep="\n", file=text)


def _goes_on(sweep_id: str) -> str:
    stopped = f" (interrupted{signals.because()})" if signals.received() else ""
    return f"{sweep_id} is not finished{stopped}; the same command again goes on from here"


def _ui(tracking_uri: str, sweep_id: str) -> str:
    """The sweep's view in the MLflow UI, and how to start the UI of a store that is no server; without passwords."""
    from tune.commands.next_steps import program_words
    from tune.tracking.ui_links import ui_link

    link = ui_link(tracking_uri, sweep_id)
    if is_server(tracking_uri):
        return link
    usual = tracking_uri.startswith("sqlite") and sqlite_file(tracking_uri) == Path("mlflow.db").absolute()
    option = "" if usual else f" --tracking-uri {shlex.quote(redacted(tracking_uri))}"
    return f"{link} after {program_words()} ui{option}"
