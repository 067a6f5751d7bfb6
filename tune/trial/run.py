"""One trial: data, model, engine, pruning, timing and evaluation joined; reports once an epoch.

`run_trial` knows nothing of Ray: it is given a job and a function to report to. It never raises for what can go wrong
inside a trial (no memory, NaN, a failure): it reports the status with its reason, so that one trial never ends a sweep.
"""

from __future__ import annotations

import math
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tune.common.errors import GateFailed, PublishedFault, Unsupported, disk_full
from tune.config.trial_config import TrialConfig
from tune.machine.code_identity import package_dir, packages_sha256
from tune.machine.out_of_memory import REMEDY, KernelKills, is_out_of_memory, lost_a_worker, peak_memory_gib
from tune.trial.job import ALONE, HandOver, Host, Report, TrialJob
from tune.trial.state import Timeline

PEAKS = {"final/peak_memory_gib": "GPU memory", "final/host_peak_memory_gib": "process memory"}


def run_trial(job: TrialJob, report: Report, checkpoint: Path | None = None, host: Host = ALONE) -> None:
    """Train, evaluate and report one trial; go on from `checkpoint` if there is one.

    Reports after each epoch {"epoch", "metrics", "tags"} with a checkpoint folder, and at the end
    {"status", "reason", "metrics", "tags"} with a folder holding the best model under `model/` and the
    raw samples under `samples/`; an epoch's folder has those so far. `report` owns the folder that it is given, and may
    return before it is through with an epoch's, but not with the end's. Raises BeginAnew before the first epoch where
    the job says `rehearse` and this process had to measure the gate or to compile.
    """
    spans, kills = Timeline(host.waited_s), KernelKills()

    def tell(result: dict[str, Any], folder: Path | None) -> None:
        report(result, folder)
        kills.restart()

    with tempfile.TemporaryDirectory(dir=host.scratch) as tmp:  # until the end was reported: all epochs were by then
        try:
            _run(job, tell, checkpoint, spans, host, Path(tmp))
        except HandOver:
            raise
        except Exception as error:  # reported with its reason, never hidden
            spans.work_ended()
            failure = _failure(error, kills)
            failure["tags"] |= {"spans": spans.as_tag()}  # what failed has its cost, too
            report(failure, None)


def _run(job: TrialJob, report: Report, checkpoint: Path | None, spans: Timeline, host: Host, tmp: Path) -> None:
    started_s = time.perf_counter() - host.waited_s
    from tune.trial.session import Session

    config = TrialConfig.model_validate(job.config)
    if job.packages_sha256 not in (None, packages_sha256()):
        raise RuntimeError(
            f"this node imports other code than the driver ({package_dir('tune')}): one sweep's results come from one "
            "program; update that copy, or start the sweep anew"
        )
    with (
        _compiled_code(job, config) as tags,
        Session(job, config, started_s, replace(host, tags={**host.tags, **tags})) as session,
    ):
        session.spans = spans
        if checkpoint is not None:
            session.restore(checkpoint)
        if host.rehearsed_s is not None and spans.earlier_ms is not None:
            spans.earlier_ms += round(1e3 * host.rehearsed_s)
        session.pass_gate()
        while session.progress.not_finite is None and not session.finished:
            metrics = session.run_epoch()
            session.progress.not_finite = _not_finite(metrics)
            folder = tmp / f"epoch-{session.progress.epoch}"
            session.save(folder)
            epoch = {"epoch": session.progress.epoch, "metrics": metrics, "tags": session.tags()}  # may be its last
            report(epoch, folder)
        reason = session.progress.not_finite
        final = {"status": "nan", "reason": reason, "metrics": {}} if reason else _finish(session)
        folder = tmp / "final"
        folder.mkdir()
        if config.as_published is None:  # another function than a loaded model would compute, or none to use
            session.save_best(folder / "model")
        session.samples.write(folder / "samples")
        report(final | {"tags": session.tags()}, folder)


@contextmanager
def _compiled_code(job: TrialJob, config: TrialConfig) -> Iterator[dict[str, str]]:
    """Inside, compiled code lies where the job says. Yields the tags that tell of it."""
    if job.compile_dir is None:
        yield {}
        return
    import torch

    from tune.trial import compile_cache

    device = torch.device(job.device_type)
    with compile_cache.use(Path(job.compile_dir), config, device, isolated=job.isolate) as tag:
        yield {"compile_cache": tag}


def _finish(session: Any) -> dict[str, Any]:
    from tune.trial import compile_cache

    compile_cache.begin()
    session.prove_kernels()
    metrics = session.final_metrics()
    compile_cache.end()
    return {"status": "done", "reason": None, "metrics": metrics}


def _not_finite(metrics: dict[str, float | None]) -> str | None:
    for name in ("loss/train_mse", "loss/val_mse"):
        value = metrics[name]
        if value is None or not math.isfinite(value):
            return f"{name} became {value}; try a smaller train.learning_rate"
    return None


def _failure(error: Exception, kills: KernelKills) -> dict[str, Any]:
    if isinstance(error, Unsupported):
        return {"status": "unsupported", "reason": str(error), "metrics": {}, "tags": {}}
    if isinstance(error, GateFailed):
        return {"status": "failed_gate", "reason": str(error), "metrics": error.metrics, "tags": {"gate": "failed"}}
    if isinstance(error, PublishedFault):
        reason = f"{error} (the replaced study's own error, expected: its arm never ran)"
        return {"status": "failed", "reason": reason, "metrics": {}, "tags": {"expected_failure": "true"}}
    reason = f"{type(error).__name__}: {_first_words(error)}"
    tags = {"traceback": traceback.format_exc()[-4000:]}
    killed = kills.told() if lost_a_worker(error) else None
    if killed or is_out_of_memory(error):
        peaks = peak_memory_gib()
        told = "; ".join([reason, *(f"{PEAKS[name]} peak {value:.2f} GiB" for name, value in peaks.items())])
        return {"status": "oom", "reason": f"{told}; {killed or REMEDY}", "metrics": peaks, "tags": tags}
    if disk_full(error):  # nothing is wrong with the trial: the driver stops the sweep and leaves it to do
        tags |= {"disk_full": "true"}
    return {"status": "failed", "reason": reason, "metrics": {}, "tags": tags}


def _first_words(error: Exception) -> str:
    """The error's first line, with the second where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
