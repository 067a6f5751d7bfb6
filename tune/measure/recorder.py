"""Everything that is measured during one trial's epochs: times, memory, energy, the GPU's state, raw samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from tune.machine.device import nvml
from tune.measure.gpu_meter import GpuMeter
from tune.measure.gpu_sampler import DeviceSampler, device_metrics
from tune.measure.raw_samples import RawSamples
from tune.measure.timer import EpochTimer, EpochTimes


class EpochRecorder:
    """Measures the epochs of one trial: `open`, then `epoch` around each, then `close`.

    sample: whether to sample the GPU during the epochs.
    """

    def __init__(self, device: torch.device, raw: RawSamples, *, sample: bool) -> None:
        self.meter = GpuMeter(device)
        self.raw = raw
        self._device = device
        self._nvml = ExitStack()
        self._sampler = DeviceSampler(self.meter.uuid if sample else None)

    def open(self) -> None:
        """Prepare for sampling. NVML stays open until `close`: starting it takes longer than asking it."""
        if self.meter.uuid is not None:
            self._nvml.enter_context(nvml())
        self._sampler.open()

    def close(self) -> None:
        """Stop sampling, even if an error ended an epoch."""
        self._sampler.close()
        self._nvml.close()

    @contextmanager
    def epoch(self, number: int) -> Iterator[EpochTimer]:
        """Measure the training of epoch `number`; sets `times` and `gpu` at the end."""
        timer = EpochTimer(self._device)
        self.meter.begin()
        self._sampler.start()
        with timer.epoch():
            yield timer
        energy_j = self.meter.energy_j()  # first of all: an idle GPU uses energy too
        samples = self._sampler.stop()
        self.times = timer.times()
        began_s, ended_s = self.times.began_s, self.times.began_s + self.times.train_s
        within = [sample for sample in samples if began_s <= sample.at_s <= ended_s]  # the sampler starts before
        self.gpu = {**device_metrics(within), "gpu/energy_j": energy_j}
        self.raw.add_epoch(number, self.times, within)

    times: EpochTimes
    """Of the last epoch."""
    gpu: dict[str, float | None]
    """Of the last epoch, by MLflow name."""
