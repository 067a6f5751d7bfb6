"""The live state of one trial: its data, model, optimizer, timers, and what one epoch does with them.

Shapes: B batch, C channels, L context, H horizon.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from model.flops import StepShape
from model.patchtst import build_model, count_parameters, heads_per_layer
from tune.common.errors import Unsupported
from tune.config.trial_config import TrialConfig
from tune.engine import ENGINES
from tune.engine.compiled import compiled_afresh
from tune.engine.lr import Rates, ScheduleSpan
from tune.engine.optimizer import make_optimizer, make_scaler
from tune.engine.step import Stepper
from tune.gate.proof import Proof
from tune.machine.device import missing_packages, node_facts
from tune.measure.accuracy import evaluate, naive_forecasts
from tune.measure.bottleneck import NEEDED, STEP_BUSY, diagnose_epochs
from tune.measure.metrics import step_shape, time_metrics
from tune.measure.published_timer import StudyClock, study_metrics
from tune.measure.raw_samples import RawSamples
from tune.measure.recorder import EpochRecorder
from tune.plan.support import unsupported_reason
from tune.trial import checkpoint, compile_cache
from tune.trial.cache_warmup import rehearse
from tune.trial.data import open_data, open_feed
from tune.trial.forecaster import save_forecaster
from tune.trial.host_copy import HostCopy
from tune.trial.job import ALONE, HandOver, Host, TrialJob, check_gpu
from tune.trial.pruner import TAYLOR_BATCHES, Pruner
from tune.trial.state import Timeline, TrialState, median_after


class Session:
    """One trial while it runs. Use as a context manager: it closes the feed."""

    def __init__(self, job: TrialJob, config: TrialConfig, started_s: float, host: Host = ALONE) -> None:
        # Beside a GPU one thread: sixteen made the gather of a batch slower, not faster (docs/measurements.md)
        torch.set_num_threads(max(1, job.cpus) if job.device_type == "cpu" else 1)
        self.job, self.config, self._started_s, self._host = job, config, started_s, host
        self._began_s = started_s
        self.spans = Timeline()
        self._idle: Sequence[int] | None = None  # processes of ours that wait beside this one; None: not asked yet
        self._standby_wait_s = 0.0
        self.device = torch.device(job.device_type)
        self.samples = RawSamples(job.trial_id, epochs=config.train.epochs)
        self.observer = EpochRecorder(self.device, self.samples, sample=job.sample_device)
        self.meter = self.observer.meter
        self.progress = TrialState()
        self.best_state: dict[str, Tensor] | None = None
        self.host_copy = HostCopy(self.device)
        self._last_epoch_s: tuple[float, float] | None = None  # of this process: began, by perf_counter; how long
        self._startup_s: float | None = None
        self._stepper: Stepper | None = None
        self.pruner = Pruner(config.pruning, epochs=config.train.epochs, seed=config.train.seed)
        self._series = series = open_data(job, config)
        self._step_minutes = series.step_minutes
        self._check_support(len(series.columns))
        torch.manual_seed(config.train.seed)
        self.model = build_model(**config.builder_fields(len(series.columns))).to(self.device)
        self.optimizer = make_optimizer(self.model, learning_rate=config.train.learning_rate)
        self.scaler = make_scaler(job.device_type, config.train.precision)
        self.proof = Proof(job.gate_dir, self.device)
        self.feed = open_feed(series, config, self.device)  # last: from here on there is something to close

    def __enter__(self) -> Self:
        self.observer.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.observer.close()
        self.feed.close()

    def _check_support(self, channels: int) -> None:
        """The plan was made from a probe; the device that the trial got has the last word."""
        missing = missing_packages([self.config.model.attention], importing=True)
        self._facts = replace(node_facts(use_gpu=self.device.type == "cuda"), missing=missing)
        check_gpu(self.job, self._facts)
        reason = unsupported_reason(self.config, self._facts, channels)
        if reason:
            raise Unsupported(reason)

    def pass_gate(self) -> None:
        """Raises GateFailed unless the arm is the same function as the reference, at its first and last shapes.

        An arm as published need not be: how far off it is gets measured and told.
        """
        with self._proving():
            self.proof.pass_gate(
                self.config.builder_fields(self.feed.channels),
                self.config.train,
                heads=self.pruner.heads_at_ends(self.config.model.num_heads),
                batch_size=min(self.config.train.batch_size, self.feed.num_windows("train")),
                enforced=self.config.as_published is None,
            )

    def prove_kernels(self) -> None:
        """Raises GateFailed unless a step of the finished training runs the backend's kernels. After the last epoch."""
        if self._stepper is None:
            self._build_stepper()
        assert self._stepper is not None
        with self._proving():
            batch = next(iter(self._stepper.batches(self.feed, 1))).arrived()
            self.proof.prove_kernels(self._stepper, batch, self.config.model.attention, self.config.train.engine)

    @contextmanager
    def _proving(self) -> Iterator[None]:
        """Its time counts as the gate's, and neither as start-up nor as anything else."""
        began_s = time.perf_counter()
        yield
        took_s = time.perf_counter() - began_s
        self.progress.gate_s += took_s
        self._started_s += took_s

    @property
    def finished(self) -> bool:
        """All epochs are done, or patience has run out."""
        done, patience = self.progress.epoch, self.config.train.patience
        if done >= self.config.train.epochs:
            return True
        return bool(patience and self.progress.best_epoch and done - self.progress.best_epoch >= patience)

    def run_epoch(self) -> dict[str, float | None]:
        """Prune what is due, train one epoch, validate. Returns the epoch's metrics by MLflow name."""
        epoch = self.progress.epoch + 1
        self.prune_before(epoch)
        assert self._stepper is not None
        self._leave_the_epochs_to_another(epoch)
        self._settle()
        clock = StudyClock()
        self._train(epoch)
        times = self.observer.times
        train_mse, skipped = self._stepper.take_train_mse(), self._stepper.take_skipped_steps()
        validated_s = time.perf_counter()
        errors = self._evaluate("validation")["model"]
        validation_s, study_epoch_s = time.perf_counter() - validated_s, clock.epoch_s()
        self.progress.epoch = epoch
        self.progress.epoch_train_s.append(times.train_s)
        if epoch >= self.pruner.final_from_epoch and errors.mse < self.progress.best_val_mse:
            self.progress.best_val_mse, self.progress.best_epoch = errors.mse, epoch
            self.best_state = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        losses = {"loss/train_mse": train_mse, "loss/val_mse": errors.mse, "loss/val_mae": errors.mae}
        losses |= {"train/learning_rate": self._stepper.last_learning_rate, "train/skipped_steps": skipped}
        self.spans.work_ended()
        gpu_name, precision = self.meter.name, self.config.train.precision
        costs = time_metrics(times, validation_s, self.step_shape(), gpu=gpu_name, precision=precision)
        told = {} if self.config.as_published is None else study_metrics(study_epoch_s, times)
        costs["time/between_s"] = self._between_s(times.began_s, times.train_s + validation_s)
        metrics = losses | costs | self.observer.gpu | self._memory | told | self._size_metrics()
        self.progress.accounts.append({name: metrics[name] for name in NEEDED})
        return metrics

    def prune_before(self, epoch: int) -> None:
        """Let the heads go that are due, and get ready for the shapes that are left."""
        began_s = time.perf_counter()
        pruned = self.pruner.prune_before(epoch, self.model, self.optimizer, self._training_losses)
        self.progress.prune_s += time.perf_counter() - began_s
        if pruned or self._stepper is None:
            self._build_stepper()

    def _between_s(self, began_s: float, epoch_s: float) -> float | None:
        """Since the epoch before began, without its training and validation; None for a process's first epoch."""
        before, self._last_epoch_s = self._last_epoch_s, (began_s, epoch_s)
        return None if before is None else began_s - sum(before)

    def _build_stepper(self) -> None:
        """Compile and warm up for the present shapes, timed apart from the epochs."""
        if self._startup_s is None:
            self._startup_s = time.perf_counter() - self._started_s
        compile_cache.begin()
        began_s = time.perf_counter()
        train = self.config.train
        if self._stepper is not None:
            self._stepper.close()
        self._stepper = ENGINES[train.engine].build(
            self.model,
            self.optimizer,
            precision=train.precision,
            rate=Rates(schedule=train.schedule, course=self._course()),
            first_step=self.progress.epoch * self.feed.steps_per_epoch,
            scaler=self.scaler,
        )
        first = next(iter(self._stepper.batches(self.feed, 1))).arrived()
        other = next(iter(self.feed.eval_batches("validation"))).arrived()
        self._stepper.warm_up(first, other.past)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.progress.compile_s += time.perf_counter() - began_s

    def _course(self) -> ScheduleSpan:
        train = self.config.train
        return ScheduleSpan(
            learning_rate=train.learning_rate,
            steps_per_epoch=self.feed.steps_per_epoch,
            epochs=train.epochs,
            pct_start=train.pct_start,
        )

    def _train(self, epoch: int) -> None:
        assert self._stepper is not None
        self.model.train()
        self._note_neighbours()
        self.spans.epoch_began()
        with self.observer.epoch(epoch) as timer:
            batches = self._stepper.batches(self.feed, epoch)
            for batch in timer.batches(batches, gathered_on_device=self.feed.gathered_on_device):
                with timer.step():
                    self._stepper.step(batch)
        peak_gib = self.meter.peak_memory_gib(at_least_bytes=self._stepper.captured_peak_bytes)
        self._memory = {"gpu/peak_memory_gib": peak_gib}
        self._note_neighbours()

    def _leave_the_epochs_to_another(self, epoch: int) -> None:
        """Raises BeginAnew where this process measured the gate or compiled, and another one can have the epochs."""
        may = self.job.rehearse and self._host.rehearsed_s is None and self._idle is None
        hand_over = may and rehearse(self, epoch)
        compile_cache.end()
        if hand_over:
            raise HandOver(time.perf_counter() - self._began_s)

    def _settle(self) -> None:
        """Before the first timed epoch: what is being prepared for the next trial gets ready, and lies still."""
        if self._idle is None:
            began_s = time.perf_counter()
            self._idle, self._standby_wait_s = self._host.settle(), time.perf_counter() - began_s

    def _note_neighbours(self) -> None:
        """Once shared, or once unknown, a trial's timings stay so, over interruptions too."""
        if not self.job.exclusive:
            self.progress.shared = True
        elif self.device.type == "cuda" and self.progress.shared is False:
            others = self.meter.other_processes(self._idle or ())
            self.progress.shared = None if others is None else others > 0

    def _evaluate(self, split: str, naive: bool = False) -> dict[str, Any]:
        assert self._stepper is not None
        self.model.eval()
        forecasts: dict[str, Callable[[Tensor], Tensor]] = {"model": self._stepper.predict}
        if naive:
            data = self.config.data
            forecasts |= naive_forecasts(
                context_length=data.context_length,
                prediction_length=data.prediction_length,
                step_minutes=self._step_minutes,
            )
        with torch.no_grad():
            return evaluate(forecasts, self.feed.eval_batches(split))

    def _training_losses(self) -> Iterator[Callable[[], Tensor]]:
        """Losses of the first batches of the coming epoch, for scores that need gradients."""
        train = self.config.train
        stepper = Stepper(self.model, self.optimizer, precision=train.precision)
        for batch in itertools.islice(self.feed.train_batches(self.progress.epoch + 1), TAYLOR_BATCHES):
            batch.arrived()
            yield functools.partial(stepper.loss, batch.past, batch.future)

    def step_shape(self) -> StepShape:
        """What a training step costs now depends on this."""
        return step_shape(
            self.config,
            channels=self.feed.channels,
            windows=self.feed.num_windows("train"),
            heads=[len(heads) for heads in heads_per_layer(self.model)],
        )

    def _size_metrics(self) -> dict[str, float | None]:
        heads = sum(len(layer) for layer in heads_per_layer(self.model))
        return {"model/heads": heads, "model/parameters": count_parameters(self.model)}

    def final_metrics(self) -> dict[str, float | None]:
        """Restore the best epoch, read the test set once, and sum up the times."""
        self._restore_best()
        if self._stepper is None:
            self._build_stepper()
        errors = self._evaluate("test", naive=True)
        self.spans.work_ended()
        progress = self.progress
        naive = {f"final/naive_{name}_mse": found.mse for name, found in errors.items() if name != "model"}
        return (
            naive
            | {
                "final/test_mse": errors["model"].mse,
                "final/test_mae": errors["model"].mae,
                "final/val_mse": progress.best_val_mse,
                "final/best_epoch": progress.best_epoch,
                "final/median_epoch_s": median_after(progress.epoch_train_s, self.pruner.final_from_epoch),
                "final/train_total_s": sum(progress.epoch_train_s),
                "final/compile_s": progress.compile_s,
                "final/gate_s": progress.gate_s,
                "final/prune_s": progress.prune_s,
                "final/startup_s": self._startup_s,
                "final/standby_wait_s": self._standby_wait_s,
                "final/rehearsal_s": self._host.rehearsed_s,
            }
            | self.proof.metrics
            | {name.replace("model/", "final/"): value for name, value in self._size_metrics().items()}
        )

    def _restore_best(self) -> None:
        if self.best_state is not None:
            self.model.load_state_dict(self.best_state)

    def tags(self) -> dict[str, str]:
        """What a reader needs to judge the trial's timings."""
        known = {
            "timing_valid": {True: "false", False: "true", None: "unknown"}[self.progress.shared],
            "device": self._facts.name,
            "gpu_uuid": " then ".join(self.progress.ran_on(self.meter.uuid)) or None,  # equal where times compare
            "gpu_driver": self._facts.driver,
            "hostname": platform.node(),
            "process": str(os.getpid()),
            "heads_kept": json.dumps(heads_per_layer(self.model)),
            "spans": self.spans.as_tag(),
            "as_published": self.config.as_published,
            "compiled_afresh": str(compiled_afresh()).lower(),
            "diagnosis": self._diagnosis(),
        }
        told = {name: value for name, value in known.items() if value is not None}
        return told | self.proof.tags | dict(self._host.tags)

    def _diagnosis(self) -> str | None:
        busy_ms = self.proof.metrics.get(STEP_BUSY)
        return diagnose_epochs(self.progress.accounts, on_gpu=self.device.type == "cuda", step_busy_ms=busy_ms)

    def save(self, folder: Path) -> None:
        """Write everything that is needed to go on exactly from here."""
        checkpoint.save(folder, self)

    def restore(self, folder: Path) -> None:
        """Go on from a folder that `save` wrote."""
        checkpoint.restore(folder, self)
        self._stepper = None

    def save_best(self, folder: Path) -> None:
        """Write the model of the best epoch, loadable by transformers (unpruned) and by `model.forecaster`."""
        if self.best_state is not None:
            self._restore_best()
            save_forecaster(folder, self, self._series)
