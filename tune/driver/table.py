"""Runs trials for their errors only: the cells of a table, or arms of a sweep that asks for no times.

Several share a GPU. On a CPU they run one after another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from data_pipeline.series.protocol import Protocol
from tune.common.words import counted
from tune.console.progress import Progress
from tune.driver import error_trials
from tune.driver.collector import Collector
from tune.driver.launcher import Launcher
from tune.driver.warm_ups import warm_up_together
from tune.plan.plan import Plan
from tune.plan.table import TablePlan
from tune.report.data import TAG, protocol_params, protocol_tag
from tune.report.table import MISSING, SET
from tune.report.table import TAG as TABLE
from tune.tracking.spans import WARM_UP, span
from tune.tracking.tracker import Tracker


def run_for_errors(plan: Plan, launcher: Launcher, tracker: Tracker, progress: Progress, collector: Collector) -> None:
    """Train what is left of the trials that can run. The tracker knows them."""
    ended = tracker.ended
    left = [trial for trial in plan.runnable if trial.trial_id not in ended]
    if not left:
        return
    at_a_time = error_trials.at_a_time(launcher, plan)
    progress.expect(len(left), ended, at_a_time=at_a_time)
    if ended:
        progress.say(f"{len(ended)} trials have ended, {len(left)} are left")
    if not launcher.budget.allows():
        return
    if at_a_time == 1:
        launcher.run(left, collector)
        return
    with span(tracker, WARM_UP):
        warm_up_together(launcher, plan, left, progress.say)
    error_trials.train(launcher, collector, plan, left, None)


def waits_for_files(plan: Plan, ended: Mapping[str, str]) -> str | None:
    """What there is where all has ended but the cells whose file is not at hand; None otherwise."""
    if not isinstance(plan, TablePlan) or any(trial.trial_id not in ended for trial in plan.runnable):
        return None
    cells = {trial.arm for trial in plan.trials if trial.config.data.dataset in plan.missing}
    return f"not run: {counted(len(cells), 'cell')} of {', '.join(plan.missing)}, whose file is not at hand"


def data_tags(content: Mapping[str, Any]) -> dict[str, str]:
    """The tags of the parent run with how the data were read: of one data set, or of each of a table."""
    if TAG not in content:
        return {}
    return {name: protocol_tag(protocol) for name, protocol in _by_tag(content[TAG]).items()}


def data_params(content: Mapping[str, Any]) -> dict[str, str]:
    """The params of the parent run likewise; of a table none, as a resumed one may read more."""
    return protocol_params(content[TAG]) if "split" in content.get(TAG, {}) else {}


def _by_tag(protocol: Protocol) -> Mapping[str, Protocol]:
    return {TAG: protocol} if "split" in protocol else {f"{TAG}.{name}": each for name, each in protocol.items()}


def table_tags(plan: Plan) -> dict[str, str]:
    """The tag of a table's parent run; none of another sweep."""
    return (
        {TABLE: json.dumps({MISSING: dict(plan.missing), SET: dict(plan.overrides)})}
        if isinstance(plan, TablePlan)
        else {}
    )
