"""Opens a sweep: probes the cluster, plans, and opens the sweep's folder and outbox."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from tune.cluster import probe
from tune.cluster import share as cluster_share
from tune.cluster.shared_folders import check_nodes
from tune.common import signals
from tune.common.address import redacted, settled_uri
from tune.common.errors import WrongInput
from tune.driver.entry import Entry, trial_entry
from tune.driver.finish import open_tracker
from tune.driver.launcher import Launcher
from tune.driver.options import Options
from tune.machine.code_identity import code_identity
from tune.plan.data import cache_dir, file_fields
from tune.plan.placement import FIELD
from tune.plan.plan import Plan, plan_rows
from tune.plan.planner import Planner
from tune.report.data import TAG
from tune.storage import open_sweep
from tune.storage.check_folder import cache_place
from tune.storage.moved import Command
from tune.storage.sweep_dir import SweepDir
from tune.tracking.reader import ask_store, summaries
from tune.tracking.store import PROJECT, STORE_ANSWERS_WITHIN_S, TrackingError
from tune.tracking.tracker import Tracker
from tune.worker.node_forkserver import NodeForkServers


def command_key(planner: Planner, options: Options) -> str:
    """Identity of what a command asks for, whatever the device: two users of one command get the same."""
    sweep, choices = planner.sweep, {name: getattr(planner, name) for name in ("overrides", "repeats", "seed")}
    arms = [(arm.label, dict(arm.changes)) for arm in sweep.arms]
    content = [sweep.name, arms, choices, planner.draws, options.gpus_per_trial, redacted(options.tracking_uri)]
    content += [] if planner.target_val_mse is None else [planner.target_val_mse]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def open_sweep_run(
    ray: Any,
    planner: Planner,
    options: Options,
    show_plan: Callable[[Plan], None],
    asked: str,
    entry: Entry,
) -> tuple[Plan, Launcher, Tracker]:
    """The plan, the launcher of its trials and the tracker of its folder. `asked`: the command_key."""
    share = cluster_share.choose_share(
        ray,
        gpus_per_trial=options.gpus_per_trial,
        max_concurrent=options.max_concurrent,
        joined=options.address is not None,
        gpu_model=options.gpu_model,
        wait_s=options.wait_for_gpus_s,
    )
    forking = entry is trial_entry and not options.isolate
    fork_servers = NodeForkServers(ray, share) if forking else None  # they import while the rest is prepared
    device, environment = probe.probe(ray, share, cache_place(options.storage_path))
    plan = planner.plan(device)
    data = planner.prepare(plan, data_dir=options.data_dir, storage_path=options.storage_path, quiet=options.quiet)
    if options.address is not None:
        folders = {"storage": options.storage_path, "data_dir": options.data_dir}
        for dataset in dict.fromkeys(trial.config.data.dataset for trial in plan.runnable or plan.trials):
            check_nodes(ray, share, **folders, dataset=dataset)
    plan = planner.plan(device)  # the same, unless the data turned out to have other channels
    show_plan(plan)
    if not plan.runnable:
        raise WrongInput(f"no trial of this plan can run here: {plan.why_not(plan.trials[0])}")
    key = plan.key(data_sha256=data.sha256, tracking_uri=options.tracking_uri)
    command = Command(
        key=key,
        asked=asked,
        tracking_uri=options.tracking_uri,
        key_of=lambda store, paths: plan.key(data_sha256=data.sha256, tracking_uri=store, paths=paths),
        holds=lambda sweep_id: _holds(options.tracking_uri, sweep_id),
        paths=file_fields(plan.trials[0].config.data),
    )
    with open_sweep.sweep_lock(options.storage_path, key), signals.deferred(patient=False):
        folder = open_folder(plan, command, environment, options, data.protocol)
        plan = _as_begun(planner, plan, folder)
        tracker = open_tracker(folder, options.tracking_uri)
    launcher = Launcher(
        folder=folder,
        share=share,
        device_type=device.device_type,
        gpu_name=device.name if device.device_type == "cuda" else None,
        data_dir=options.data_dir,
        cache_dir=cache_dir(options.storage_path),
        data_sha256=data.sha256,
        data_sha256_of=data.sha256_of,
        wait_s=options.wait_for_gpus_s,
        save_forecasts=options.save_forecasts,
        isolate=options.isolate,
        budget=options.budget,
        fork_servers=fork_servers,
        entry=entry,
    )
    return plan, launcher, tracker


def _holds(tracking_uri: str, sweep_id: str) -> bool:
    def ask(client: Any) -> bool:
        return any(summary.sweep_id == sweep_id for summary in summaries(client, PROJECT))

    try:
        return ask_store(tracking_uri, STORE_ANSWERS_WITHIN_S, ask)
    except TrackingError:  # no such experiment yet
        return False


def _as_begun(planner: Planner, plan: Plan, folder: SweepDir) -> Plan:
    """`plan` with the feed that the sweep in `folder` began with: other memory may be free now."""
    begun = folder.read()["trials"][0]["params"].get(FIELD)
    if plan.placement is None or begun in (None, plan.placement.feed):
        return plan
    planner.keep_feed(begun)
    plan = planner.plan(plan.device)
    assert plan.placement is not None
    print(f"feed {begun}: {plan.placement.reason}", file=sys.stderr)
    return plan


def open_folder(
    plan: Plan,
    command: Command,
    environment: dict[str, Any],
    options: Options,
    protocol: dict[str, Any] | None = None,
) -> SweepDir:
    """The folder of the unfinished sweep that the command fits, or a new one."""
    code = code_identity()
    environment = {"device": plan.device.as_dict(), **environment, **code}
    folder, why = open_sweep.choose_sweep(
        options.storage_path, command=command, environment=environment, fresh=options.fresh, resume=options.resume
    )
    moved = None if folder is None else command.move(folder)
    if not options.quiet:
        print(*filter(None, (why, moved)), sep="\n", file=sys.stderr)
    if folder is not None:
        folder.run_on(environment)
        if plan.sweep.table:  # of more data sets than before, where files have come
            folder.update(**{TAG: protocol})
        return folder
    content = {
        "sweep": plan.sweep.name,
        "key": command.key,
        "asked": command.asked,
        "paths": command.paths,
        "created_s": time.time(),
        "code": code,
        "environment": environment,
        "tracking_uri": redacted(settled_uri(options.tracking_uri)),
        "storage": str(options.storage_path.absolute()),
        **({} if protocol is None else {TAG: protocol}),
        "trials": plan_rows(plan.trials),
    }
    return open_sweep.create(options.storage_path, plan.sweep.name, content)
