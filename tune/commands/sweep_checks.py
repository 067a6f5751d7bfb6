"""Options of how a sweep is run, checked before anything starts."""

from __future__ import annotations

import argparse
import os

from tune.cluster.connect import check_address_form
from tune.cluster.share import check_gpus_per_trial
from tune.common.errors import WrongInput
from tune.config.request import Request
from tune.config.trial_config import READ_TEST
from tune.config.yaml_file import check_new_config
from tune.console.output import check_csv_target, check_file_target, check_json_target
from tune.storage.open_sweep import find_known

MOST_WAITED_S = 7 * 24 * 3600.0


def check_options(request: Request, arguments: argparse.Namespace) -> None:
    """Raises WrongInput for a wrong option of how to run it, as far as this machine can know."""
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
        given = f"--resume {arguments.resume}"
        arguments.resume = find_known(arguments.storage_path, arguments.resume, given=given)
    if arguments.save_forecasts and request.overrides.get(READ_TEST) is False:
        raise WrongInput("--save-forecasts and --no-test: forecasts of the test set need it to be read; give one")
    check_json_target(arguments.json)
    if arguments.csv is not None and not request.sweep.table:
        raise WrongInput(f"--csv {arguments.csv}: the {request.sweep.name} sweep is no table; use --json FILE")
    check_csv_target(arguments.csv, arguments.json, arguments.save_config)
    if arguments.save_config is not None:
        _check_new_config(request, arguments)


def _check_new_config(request: Request, arguments: argparse.Namespace) -> None:
    """Raises WrongInput for an existing file with other content; the --config that was read may be replaced."""
    target = arguments.save_config
    if str(target) == "-":
        raise WrongInput("--save-config -: name a file; stdout is for results")
    check_file_target("--save-config", str(target))
    if arguments.json not in (None, "-") and os.path.abspath(arguments.json) == os.path.abspath(target):
        raise WrongInput(f"--save-config {target} and --json {arguments.json}: the same file; name two")
    if arguments.config is None or os.path.abspath(arguments.config) != os.path.abspath(target):
        check_new_config(target, request.as_config(target.parent))
