"""One trial in this process: its data, state, engine and timers, and what happens in one epoch.

Shapes: B batch, C channels, L context, H horizon.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from data_pipeline.series.store import Series
from model.flops import StepShape
from model.heads import count_parameters, heads_per_layer
from model.patchtst import build_model
from tune.config.step_shape import step_shape
from tune.engine import ENGINES
from tune.engine.lr import Rates, ScheduleSpan
from tune.engine.optimizer import make_optimizer, make_scaler
from tune.engine.step import Stepper
from tune.gate.proof import Proof
from tune.measure.accuracy import ForecastErrors, evaluate, naive_forecasts
from tune.measure.bottleneck import NEEDED
from tune.measure.metrics import time_metrics
from tune.measure.published_timer import PublishedTimer, published_metrics
from tune.measure.raw_samples import RawSamples
from tune.measure.recorder import EpochRecorder
from tune.measure.timer import EpochTimes
from tune.plan.memory import evaluation_batch
from tune.trial import checkpoint, compile_cache
from tune.trial.data import check_support, open_data, open_feed
from tune.trial.forecaster import save_forecaster
from tune.trial.host_copy import HostCopy
from tune.trial.job import ALONE, Host, TrialJob
from tune.trial.pruner import TAYLOR_BATCHES, Pruner
from tune.trial.saved_forecasts import SavedForecasts
from tune.trial.state import Timeline, TrialProgress, TrialState
from tune.trial.step_watch import StepWatch


class Session:
    """One trial while it runs. As a context manager it closes the feed.

    Call `prepare_epoch`, then `train_epoch`, for each epoch.

    started_s: when the trial began, by time.perf_counter; its start-up time counts from then.
    """

    def __init__(self, job: TrialJob, started_s: float, host: Host = ALONE, timeline: Timeline | None = None) -> None:
        # Beside a GPU one thread: sixteen made the gather of a batch slower, not faster (docs/measurements.md)
        torch.set_num_threads(max(1, job.cpus) if job.device_type == "cpu" else 1)
        self.job, self.config, self.host, self._started_s = job, job.config, host, started_s
        config = job.config
        self.idle_wait_s = 0.0
        self.forecasts_to: Path | None = None
        self.startup_s: float | None = None  # None until the first engine is built
        self.device = torch.device(job.device_type)
        samples = RawSamples(job.trial_id, epochs=config.train.epochs)
        self.recorder = EpochRecorder(self.device, samples, sample=job.sample_device)
        self.meter = self.recorder.meter
        self._idle_pids: Sequence[int] = ()  # our processes that idle on the device beside this one
        self._last_epoch_s: tuple[float, float] | None = None  # in this process: its start by perf_counter, its length
        self._stepper: Stepper | None = None
        self.tested: ForecastErrors | None = None  # on the test set, once it is read
        self.pruner = Pruner(
            config.pruning, epochs=config.train.epochs, seed=config.train.seed, zeroing=config.rules.zeroing
        )
        self._watch = StepWatch(None if job.steps_file is None else Path(job.steps_file))
        self._series = series = open_data(job)
        self.facts = check_support(job, series, self.device)
        torch.manual_seed(config.train.seed)
        model = build_model(**config.builder_fields(len(series.columns))).to(self.device)
        self.state = TrialState(
            device=self.device,
            host_copy=HostCopy(self.device),
            model=model,
            optimizer=make_optimizer(model, learning_rate=config.train.learning_rate),
            scaler=make_scaler(job.device_type, config.train.precision),
            samples=samples,
            timeline=timeline or Timeline(),
        )
        self.progress.note_gpu(self.meter.uuid)
        self.proof = Proof(job.gate_dir, self.device)
        # Last: from here on there is something to close
        self.feed = open_feed(series, config, self.device, evaluation_batch(config, self.facts, len(series.columns)))

    def __enter__(self) -> Self:
        self.recorder.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self._watch.close()
        self.recorder.close()
        self.feed.close()

    @property
    def series(self) -> Series:
        """What the trial trains on."""
        return self._series

    @property
    def progress(self) -> TrialProgress:
        """The state's; a restored checkpoint replaces it."""
        return self.state.progress

    def restore(self, folder: Path) -> None:
        """Continue from a folder that `save` wrote."""
        checkpoint.restore(folder, self.config, self.state)
        self.progress.note_gpu(self.meter.uuid)
        self._stepper = None

    def save(self, folder: Path) -> None:
        """Write everything that is needed to continue exactly from here."""
        checkpoint.save(folder, self.state)

    def save_best(self, folder: Path) -> None:
        """Write the model of the best epoch, loadable by transformers (unpruned) and by `model.forecaster`."""
        if self.state.best_weights is not None:
            self.state.load_best()
            save_forecaster(folder, self.state, self.job, self._series)

    def pass_gate(self) -> None:
        """Raises GateFailed unless the arm is the reference's function at its first and last shapes.

        An arm as published may be another function: its error is measured and reported.
        """
        with self._proving():
            self.proof.pass_gate(
                self.config.builder_fields(self.feed.channels),
                self.config.train,
                heads=self.pruner.heads_at_ends(self.config.model.num_heads),
                batch_size=self.config.train.batch_size,
                rules=self.config.rules,
            )

    def prove_kernels(self) -> None:
        """After the last epoch: raises GateFailed unless a training step runs the backend's kernels."""
        stepper = self._built_stepper()
        with self._proving():
            batch = next(iter(stepper.batches(self.feed, 1))).arrived()
            self.proof.prove_kernels(stepper, batch, self.config.model.attention, self.config.train.engine)

    @contextmanager
    def _proving(self) -> Iterator[None]:
        """The time inside counts as the gate's, and neither as start-up nor as anything else."""
        began_s = time.perf_counter()
        yield
        took_s = time.perf_counter() - began_s
        self.progress.gate_s += took_s
        self._started_s += took_s

    @property
    def finished(self) -> bool:
        """Whether no epoch is left: all are done, patience has run out, or a loss is not finite."""
        done, patience = self.progress.epoch, self.config.train.patience
        if self.progress.not_finite is not None or done >= self.config.train.epochs:
            return True
        return bool(patience and self.progress.best_epoch and done - self.progress.best_epoch >= patience)

    def prepare_epoch(self) -> None:
        """Remove the heads that are due before the next epoch, and build the engine for its shapes."""
        self.prune_before(self.progress.epoch + 1)

    def prune_before(self, epoch: int) -> None:
        """Remove the heads that are due before `epoch`, and build the engine for the shapes that are left."""
        began_s = time.perf_counter()
        state = self.state
        pruned = self.pruner.prune_before(epoch, state.model, state.optimizer, self._training_losses)
        self.progress.prune_s += time.perf_counter() - began_s
        if pruned or self._stepper is None:
            self._build_stepper()

    def wait_until_idle(self) -> None:
        """Before the first timed epoch: wait until the next trial's process is prepared, and idles."""
        began_s = time.perf_counter()
        self._idle_pids, self.idle_wait_s = self.host.wait_until_idle(), time.perf_counter() - began_s

    def train_epoch(self) -> dict[str, float | None]:
        """Train the prepared epoch and validate. Returns the epoch's metrics by MLflow name."""
        epoch = self.progress.epoch + 1
        stepper = self._built_stepper()
        clock = PublishedTimer()
        self._train(epoch)
        times = self.recorder.times
        train_mse, skipped = stepper.take_train_mse(), stepper.take_skipped_steps()
        validated_s = time.perf_counter()
        errors = self._evaluate("validation")["model"]
        validation_s, study_epoch_s = time.perf_counter() - validated_s, clock.epoch_s()
        self.progress.epoch = epoch
        self.progress.epoch_train_s.append(times.train_s)
        if epoch >= self.pruner.final_from_epoch and errors.mse < self.progress.best_val_mse:
            self.state.keep_best(errors.mse)
        losses = {"loss/train_mse": train_mse, "loss/val_mse": errors.mse, "loss/val_mae": errors.mae}
        losses |= {"train/learning_rate": stepper.last_learning_rate, "train/skipped_steps": skipped}
        self.state.timeline.work_ended()
        gpu_name, precision = self.meter.name, self.config.train.precision
        costs = time_metrics(times, validation_s, self.step_shape(), gpu=gpu_name, precision=precision)
        published = published_metrics(study_epoch_s, times) if self.config.rules.published_timer else {}
        costs["time/between_s"] = self._between_s(times.began_s, times.train_s + validation_s)
        metrics = losses | costs | self.recorder.gpu | self._memory | published | self.size_metrics()
        self.progress.accounts.append({name: metrics[name] for name in NEEDED})
        return metrics

    def _between_s(self, began_s: float, epoch_s: float) -> float | None:
        """From the start of the epoch before, without its training and validation; None for a process's first epoch."""
        before, self._last_epoch_s = self._last_epoch_s, (began_s, epoch_s)
        return None if before is None else began_s - sum(before)

    def _built_stepper(self) -> Stepper:
        return self._stepper or self._build_stepper()

    def _build_stepper(self) -> Stepper:
        """Compile and warm up for the present shapes, timed apart from the epochs."""
        if self.startup_s is None:
            self.startup_s = time.perf_counter() - self._started_s
        compile_cache.begin()
        began_s = time.perf_counter()
        train = self.config.train
        if self._stepper is not None:
            self._stepper.close()
        stepper = self._stepper = ENGINES[train.engine].build(
            self.state.model,
            self.state.optimizer,
            precision=train.precision,
            rate=Rates(schedule=train.schedule, span=self._schedule_span()),
            first_step=self.progress.epoch * self.feed.steps_per_epoch,
            scaler=self.state.scaler,
        )
        training = next(iter(stepper.batches(self.feed, 1))).arrived()
        validation = next(iter(self.feed.eval_batches("validation"))).arrived()
        stepper.warm_up(training, validation.past)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.progress.compile_s += time.perf_counter() - began_s
        return stepper

    def _schedule_span(self) -> ScheduleSpan:
        train = self.config.train
        return ScheduleSpan(
            learning_rate=train.learning_rate,
            steps_per_epoch=self.feed.steps_per_epoch,
            epochs=train.epochs,
            pct_start=train.pct_start,
        )

    def time_steps(self, epoch: int, most: int | None = None) -> EpochTimes:
        """Train the steps of an epoch, at most so many of them, and measure them: an epoch's training, or a probe."""
        stepper = self._built_stepper()
        self.state.model.train()
        self._note_neighbours()
        self.state.timeline.epoch_began()
        stepper.next_step = (epoch - 1) * self.feed.steps_per_epoch
        count = min(most or self.feed.steps_per_epoch, self.feed.steps_per_epoch)
        with self.recorder.epoch(epoch) as timer, self._watch.epoch(epoch, count, timer.finished):
            batches = itertools.islice(stepper.batches(self.feed, epoch), most)
            for batch in timer.batches(batches, gathered_on_device=self.feed.gathered_on_device):
                with timer.step():
                    stepper.step(batch)
        self._note_neighbours()
        return self.recorder.times

    def _train(self, epoch: int) -> None:
        stepper = self._built_stepper()
        self.time_steps(epoch)
        peak = self.meter.peak_memory_gib(at_least_bytes=stepper.captured_peak_bytes)
        self._memory = {"gpu/peak_memory_gib": peak}

    def _note_neighbours(self) -> None:
        """Once shared, or once unknown, a trial's timings stay so, over interruptions too."""
        if not self.job.exclusive:
            self.progress.shared = True
        elif self.device.type == "cuda" and self.progress.shared is False:
            others = self.meter.other_processes(self._idle_pids)
            self.progress.shared = None if others is None else others > 0

    def _evaluate(self, split: str, naive: bool = False, saved: SavedForecasts | None = None) -> dict[str, Any]:
        """Exact errors over a split, by forecast: "model", and with `naive` each of the naive ones."""
        stepper = self._built_stepper()
        self.state.model.eval()
        batches = self.feed.eval_batches(split)
        forecasts: dict[str, Callable[[Tensor], Tensor]] = {"model": stepper.predict}
        if saved is not None:
            batches, forecasts["model"] = saved.batches(batches), saved.forecast(stepper.predict)
        if naive:
            data = self.config.data
            forecasts |= naive_forecasts(
                context_length=data.context_length,
                prediction_length=data.prediction_length,
                per_day=self._series.step.per_day,
            )
        with torch.no_grad():
            return evaluate(forecasts, batches, n_series=len(self._series.groups))

    def test(self) -> dict[str, Any]:
        """Load the best epoch's weights and read the test set, once: errors of the model and the naive forecasts.

        The model's forecasts go into the folder `forecasts_to`, unless that is None.
        """
        self.state.load_best()
        self._built_stepper()
        with ExitStack() as stack:
            saved = None
            if self.forecasts_to is not None:
                length = self.config.data.context_length
                saved = SavedForecasts(self.forecasts_to, self._series, self.feed, context_length=length)
                stack.enter_context(saved)
            errors = self._evaluate("test", naive=True, saved=saved)
        self.tested = errors["model"]
        self.state.timeline.work_ended()
        return errors

    def _training_losses(self) -> Iterator[Callable[[], Tensor]]:
        """Losses of the first batches of the coming epoch, for scores that need gradients."""
        train = self.config.train
        stepper = Stepper(self.state.model, self.state.optimizer, precision=train.precision)
        for batch in itertools.islice(self.feed.train_batches(self.progress.epoch + 1), TAYLOR_BATCHES):
            batch.arrived()
            yield functools.partial(stepper.loss, batch.past, batch.future)

    def step_shape(self) -> StepShape:
        """The sizes that decide what a training step costs now."""
        return step_shape(
            self.config,
            channels=self.feed.channels,
            heads=[len(heads) for heads in heads_per_layer(self.state.model)],
        )

    def size_metrics(self) -> dict[str, float | None]:
        """The model's heads and parameters now, by MLflow name."""
        heads = sum(len(layer) for layer in heads_per_layer(self.state.model))
        return {"model/heads": heads, "model/parameters": count_parameters(self.state.model)}
