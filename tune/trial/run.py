"""One trial: data, model, engine, pruning, timing and evaluation joined. It reports once an epoch.

`run_trial` knows nothing of Ray: it is given a job and a function to report to. It never raises for what can go wrong
inside a trial (out of memory, NaN, a failure). It reports the status with its reason, so one trial never ends a sweep.
"""

from __future__ import annotations

import math
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tune.common.errors import GateFailed, Unsupported, disk_full
from tune.common.published import PublishedFault
from tune.machine.code_identity import package_dir, packages_sha256
from tune.machine.compilers import broken_compilers
from tune.machine.out_of_memory import REMEDY, KernelKills, is_out_of_memory, lost_a_worker, peak_memory_gib
from tune.trial.job import ALONE, HandOver, Host, TrialJob
from tune.trial.report import EpochReport, Report, Reporter, TrialEnd
from tune.trial.state import Timeline

if TYPE_CHECKING:
    from tune.trial.session import Session

PEAKS = {"final/peak_memory_gib": "GPU memory", "final/host_peak_memory_gib": "process memory"}


def run_trial(job: TrialJob, report: Reporter, checkpoint: Path | None = None, host: Host = ALONE) -> None:
    """Train, evaluate and report one trial; continue from `checkpoint` if there is one.

    Reports an EpochReport with a checkpoint folder after each epoch, which holds the raw samples so far under
    `samples/`, and a TrialEnd with the folder of the best model. `report` owns the folder that it is given. It may
    return before it has stored an epoch's folder, but not before it has stored the end's.

    Raises HandOver before the first epoch if `job.may_hand_over` and this process had to run the gate, to compile or to
    time kernels, and always if `job.warm_up`. With `job.probe_steps` it times steps instead of training, and
    reports a TrialEnd alone (tune.trial.probe).
    """
    timeline, kills = Timeline(host.waited_s), KernelKills()

    def send(content: Report, folder: Path | None) -> None:
        report(content, folder)
        kills.restart()

    with tempfile.TemporaryDirectory(dir=host.scratch) as tmp:  # until the end is reported: all epochs are by then
        try:
            _run(job, send, checkpoint, timeline, host, Path(tmp))
        except HandOver:
            raise
        except Exception as error:  # reported with its reason, never hidden
            timeline.work_ended()
            end = _failure(error, kills, job)
            report(replace(end, tags={**end.tags, "spans": timeline.as_tag()}), None)  # a failure has its cost, too


def _run(job: TrialJob, report: Reporter, checkpoint: Path | None, timeline: Timeline, host: Host, tmp: Path) -> None:
    started_s = time.perf_counter() - host.waited_s
    from tune.engine import kernel_threads, timed_choices
    from tune.trial import compile_cache
    from tune.trial.cache_warmup import must_hand_over, warm_up_beside_others
    from tune.trial.probe import probe
    from tune.trial.session import Session
    from tune.trial.summary import save_series_errors, trial_tags

    if job.packages_sha256 not in (None, packages_sha256()):
        raise RuntimeError(
            f"this node imports other code than the driver ({package_dir('tune')}): one sweep's results come from one "
            "program; update that copy, or start the sweep anew"
        )
    with (
        timed_choices.postponed() if _compiles_beside_others(job) else nullcontext(),
        kernel_threads.compiling_ahead() if job.error_only else nullcontext(),
        _compiled_code(job) as tags,
        Session(job, started_s, replace(host, tags={**host.tags, **tags}), timeline) as session,
    ):
        if checkpoint is not None:
            session.restore(checkpoint)
        if host.cache_warmup_s is not None and timeline.earlier_ms is not None:
            timeline.earlier_ms += round(1e3 * host.cache_warmup_s)
        if job.warm_up is not None:
            warm_up_beside_others(session)
            raise HandOver(time.perf_counter() - started_s)
        session.pass_gate()
        may_hand_over, first = job.may_hand_over and host.cache_warmup_s is None, True
        if job.probe_steps:
            return report(probe(session, started_s, may_hand_over=may_hand_over), None)
        while not session.finished:
            session.prepare_epoch()
            if first:
                if may_hand_over and must_hand_over(session):
                    raise HandOver(time.perf_counter() - started_s)
                session.wait_until_idle()
                first = False
            compile_cache.end()
            metrics = session.train_epoch()
            session.progress.not_finite = _not_finite(metrics)
            epoch, folder = session.progress.epoch, tmp / f"epoch-{session.progress.epoch}"
            session.save(folder)
            report(EpochReport(epoch=epoch, metrics=metrics, tags=trial_tags(session)), folder)
        folder = tmp / "final"
        folder.mkdir()
        session.forecasts_to = folder / "forecasts" if job.save_forecasts else None
        end = _end(session)
        if job.config.rules.keeps_model:  # else a loaded model would compute another function than this arm
            session.save_best(folder / "model")
        session.state.samples.write(folder / "samples")
        save_series_errors(session, folder / "samples")
        report(replace(end, tags=trial_tags(session)), folder)


def _compiles_beside_others(job: TrialJob) -> bool:
    """Whether a trial compiles while others use its device: what compilers choose by timing must wait."""
    return job.error_only and job.config.compiles


@contextmanager
def _compiled_code(job: TrialJob) -> Iterator[dict[str, str]]:
    """Inside, compiled code lies where the job says. Yields the tags that tell of it."""
    if job.compile_dir is None:
        yield {}
        return
    import torch

    from tune.trial import compile_cache

    device = torch.device(job.device_type)
    with compile_cache.use(Path(job.compile_dir), job.config, device, isolated=job.isolate) as tag:
        yield {"compile_cache": tag}


def _end(session: Session) -> TrialEnd:
    """After the last epoch: check the kernels and read the test set, unless a loss was not finite."""
    from tune.trial import compile_cache
    from tune.trial.summary import final_metrics

    if session.progress.not_finite is not None:
        return TrialEnd(status="nan", reason=session.progress.not_finite)
    compile_cache.begin()
    session.prove_kernels()
    metrics = final_metrics(session)
    compile_cache.end()
    return TrialEnd(status="done", metrics=metrics)


def _not_finite(metrics: dict[str, float | None]) -> str | None:
    for name in ("loss/train_mse", "loss/val_mse"):
        value = metrics[name]
        if value is None or not math.isfinite(value):
            return f"{name} became {value}; try a smaller train.learning_rate"
    return None


def _failure(error: Exception, kills: KernelKills, job: TrialJob) -> TrialEnd:
    if isinstance(error, Unsupported):
        return TrialEnd(status="unsupported", reason=str(error))
    if isinstance(error, GateFailed):
        return TrialEnd(status="failed_gate", reason=str(error), metrics=error.metrics, tags={"gate": "failed"})
    if isinstance(error, PublishedFault):
        reason = f"{error} (the replaced study's own error, expected: its arm never ran)"
        return TrialEnd(status="failed", reason=reason, tags={"expected_failure": "true"})
    reason = f"{type(error).__name__}: {_first_words(error)}"
    tags = {"traceback": traceback.format_exc()[-4000:]}
    killed = kills.in_words() if lost_a_worker(error) else None
    if killed or is_out_of_memory(error):
        peaks = peak_memory_gib()
        with_peaks = "; ".join([reason, *(f"{PEAKS[name]} peak {value:.2f} GiB" for name, value in peaks.items())])
        remedy = REMEDY + (", or model.recompute=always" if _may_recompute(job) else "")
        return TrialEnd(status="oom", reason=f"{with_peaks}; {killed or remedy}", metrics=peaks, tags=tags)
    if disk_full(error):  # the trial itself is sound: the driver stops the sweep, and a later run repeats the trial
        tags |= {"disk_full": "true"}
    elif reason_here := _no_compiler(job):
        return TrialEnd(status="unsupported", reason=reason_here, tags=tags)
    return TrialEnd(status="failed", reason=reason, tags=tags)


def _may_recompute(job: TrialJob) -> bool:
    return job.device_type == "cuda" and job.config.model.recompute != "always"


def _no_compiler(job: TrialJob) -> str | None:
    """Why this node compiles nothing, for a trial that failed: its compiler is tried only then, as that takes time."""
    from tune.plan.support import compiler_needed, compiler_reason

    needed = compiler_needed(job.config, job.device_type)
    folder = Path(job.compile_dir or tempfile.gettempdir())
    broken = broken_compilers([] if needed is None else [needed], folder)
    return compiler_reason(job.config, job.device_type, broken)


def _first_words(error: Exception) -> str:
    """The error's first line, with the second where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
