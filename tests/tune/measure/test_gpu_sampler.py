"""The GPU's samples while a trial trains, and what counts as throttled. NVML is a stand-in; no time is asserted."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Any

import pynvml
import pytest
import torch
from nvml_kit import UUID, FakeNvml

from tune.measure import gpu_sampler, recorder
from tune.measure.gpu_sampler import THROTTLE_REASONS, DeviceSample, DeviceSampler, device_metrics, throttling
from tune.measure.raw_samples import RawSamples
from tune.measure.recorder import EpochRecorder


def _use(monkeypatch: pytest.MonkeyPatch, driver: FakeNvml) -> FakeNvml:
    for module in (gpu_sampler, recorder):
        monkeypatch.setattr(module, "nvml", driver.session)
    monkeypatch.setattr(gpu_sampler, "INTERVAL_S", 0.001)
    return driver


def _samples(driver: FakeNvml, uuid: str = UUID) -> tuple[DeviceSample, ...]:
    sampler = DeviceSampler(uuid)
    sampler.open()
    sampler.start()
    assert driver.seen_enough.wait(30)
    samples = sampler.stop()
    sampler.close()
    return samples


def test_a_sample_holds_the_drivers_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = _use(monkeypatch, FakeNvml(reasons=(1,)))
    samples = _samples(driver)
    assert len(samples) >= 3
    assert {(sample.sm_clock_mhz, sample.memory_clock_mhz, sample.throttle_reasons) for sample in samples} == {
        (1980, 2619, 1)
    }
    assert {(sample.power_w, sample.utilisation_pct, sample.temperature_c) for sample in samples} == {(350.5, 97, 61)}
    assert [sample.at_s for sample in samples] == sorted(sample.at_s for sample in samples)
    assert driver.opened == 0  # NVML is given back


@pytest.mark.parametrize("question", ["power", "utilisation", "clock", "temperature", "reasons"])
def test_a_refused_question_leaves_its_value_unknown_and_the_rest_known(
    monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    metrics = device_metrics(_samples(_use(monkeypatch, FakeNvml(refused=(question,)))))
    lost = {
        "power": {"gpu/power_w"}, "utilisation": {"gpu/utilisation_pct"}, "temperature": {"gpu/temperature_c"},
        "clock": {"gpu/sm_clock_mhz", "gpu/memory_clock_mhz"}, "reasons": {"gpu/throttle_reasons", "gpu/throttled_pct"},
    }[question]  # fmt: skip
    assert {name for name, value in metrics.items() if value is None} == lost


def test_the_bits_are_those_of_nvml_and_idle_or_chosen_clocks_are_no_throttling() -> None:
    named = {
        "software power cap": pynvml.nvmlClocksThrottleReasonSwPowerCap,
        "hardware slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
        "software thermal slowdown": pynvml.nvmlClocksThrottleReasonSwThermalSlowdown,
        "hardware thermal slowdown": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        "hardware power brake": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
    }
    assert {name: bit for bit, name in THROTTLE_REASONS.items()} == named
    harmless = (
        pynvml.nvmlClocksThrottleReasonGpuIdle,
        pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting,
        pynvml.nvmlClocksThrottleReasonSyncBoost,
        pynvml.nvmlClocksThrottleReasonDisplayClockSetting,
    )
    assert throttling(sum(harmless)) == []
    assert throttling(0x84) == ["software power cap", "hardware power brake"]


def _sample(**known: Any) -> DeviceSample:
    nothing = dict.fromkeys(DeviceSample.__dataclass_fields__)
    return DeviceSample(**{**nothing, "at_s": 0.0, **known})


def test_the_throttled_share_counts_samples_that_have_a_mask_and_keeps_all_their_bits() -> None:
    masks = (0, 1, 0x04, 0x40 | 1, None)
    metrics = device_metrics([_sample(throttle_reasons=mask, power_w=100.0) for mask in masks])
    assert metrics["gpu/throttled_pct"] == pytest.approx(50)
    assert metrics["gpu/throttle_reasons"] == 0x45
    assert metrics["gpu/power_w"] == 100
    assert metrics["gpu/sm_clock_mhz"] is None


def test_without_a_sample_everything_is_unknown() -> None:
    assert set(device_metrics([]).values()) == {None}


def test_on_a_cpu_nvml_is_not_asked_and_no_thread_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = _use(monkeypatch, FakeNvml())
    sampler = DeviceSampler(None)
    sampler.open()
    before = threading.active_count()
    sampler.start()
    assert threading.active_count() == before
    assert (sampler.stop(), driver.samples, driver.opened) == ((), 0, 0)


def test_a_gpu_that_the_driver_does_not_know_has_no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, FakeNvml())
    sampler = DeviceSampler("GPU-other")
    sampler.open()
    sampler.start()
    assert sampler.stop() == ()
    sampler.close()


def test_closing_ends_the_thread_of_an_epoch_that_an_error_left(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = _use(monkeypatch, FakeNvml())
    sampler = DeviceSampler(UUID)
    sampler.open()
    sampler.start()
    assert driver.seen_enough.wait(30)
    sampler.close()
    assert "device-sampler" not in {thread.name for thread in threading.enumerate()}
    assert driver.opened == 0


class GpuSeenFromACpu(recorder.GpuMeter):
    """A meter that knows its GPU's UUID; the epoch is timed by the host's clock."""

    def __init__(self, device: Any) -> None:
        super().__init__(device)
        self.uuid = UUID

    def energy_j(self) -> float | None:
        return 42.0


@contextmanager
def _recording(monkeypatch: pytest.MonkeyPatch, driver: FakeNvml, sample: bool = True) -> Any:
    _use(monkeypatch, driver)
    monkeypatch.setattr(recorder, "GpuMeter", GpuSeenFromACpu)
    epochs = EpochRecorder(torch.device("cpu"), RawSamples("t", epochs=1), sample=sample)
    epochs.open()
    yield epochs
    epochs.close()


@pytest.mark.parametrize("sample", [True, False])
def test_nvml_stays_open_from_a_trials_first_epoch_to_its_end_sampled_or_not(
    monkeypatch: pytest.MonkeyPatch, sample: bool
) -> None:
    driver = FakeNvml()
    with _recording(monkeypatch, driver, sample=sample):
        assert driver.opened >= 1
    assert driver.opened == 0


def test_an_epochs_samples_lie_within_it_on_its_own_clock_and_flag_it(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeNvml(reasons=(0x20,), enough=2)
    with _recording(monkeypatch, driver) as epochs:
        with epochs.epoch(1):
            for _ in range(2):  # the first may have begun before the epoch
                driver.seen_enough.clear()
                assert driver.seen_enough.wait(30)
        assert epochs.gpu["gpu/throttled_pct"] == 100
        assert epochs.gpu["gpu/energy_j"] == 42.0
        (kept,) = epochs.raw._tables["device.arrow"]
        at_ms = kept["at_ms"].to_pylist()
        assert at_ms and min(at_ms) >= 0 and max(at_ms) <= 1e3 * epochs.times.train_s


def test_sampling_can_be_left_out_and_energy_is_still_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeNvml()
    with _recording(monkeypatch, driver, sample=False) as epochs, epochs.epoch(1):
        pass
    assert driver.samples == 0
    assert epochs.gpu["gpu/throttled_pct"] is None and epochs.gpu["gpu/energy_j"] == 42.0
