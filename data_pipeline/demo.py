"""A small series like ETT's, generated from one seed: seven hourly load and temperature channels."""

from __future__ import annotations

import numpy as np

ROWS = 3200
SEED = 20160701


def generate() -> tuple[np.ndarray, np.ndarray]:
    """Timestamps [3200] (hourly, datetime64[us]) and values [3200, 7] float32, with ETT's columns.

    Each load has a daily season whose strength drifts, a weekly season, a slow trend and autocorrelated noise. Oil
    temperature (OT) follows the loads with a lag. Weekends and noise keep "the same as yesterday" a weak forecast.
    """
    random = np.random.Generator(np.random.PCG64(SEED))
    hour = np.arange(ROWS)
    day_of_week = (hour // 24 + 4) % 7  # 2016-07-01 was a Friday
    weekday = np.where(day_of_week < 5, 1.0, 0.35)
    loads = []
    for channel in range(6):
        strength = 1 + 0.25 * _autoregressive(random, decay=0.995)
        daily = _season(hour, 24, random, harmonics=3) * strength * weekday
        weekly = 0.5 * _season(hour, 168, random, harmonics=2)
        trend = 0.4 * np.sin(2 * np.pi * hour / random.uniform(2500, 6000) + random.uniform(0, 2 * np.pi))
        noise = 0.35 * _autoregressive(random, decay=0.7)
        level, scale = (8.0, 5.0) if channel % 2 == 0 else (2.5, 1.8)
        loads.append(level + scale * (daily + weekly + trend + noise))
    total = np.sum([(load - load.mean()) / load.std() for load in loads], axis=0)
    lagged = np.convolve(total, np.exp(-np.arange(24) / 8.0) / 8.0)[:ROWS]
    oil = 20 + 3.0 * lagged + 0.8 * _autoregressive(random, decay=0.9)
    timestamps = np.datetime64("2016-07-01T00:00:00", "us") + hour * np.timedelta64(3600, "s")
    return timestamps, np.stack([*loads, oil], axis=1).astype(np.float32)


def _season(hour: np.ndarray, period: int, random: np.random.Generator, harmonics: int) -> np.ndarray:
    phases, sizes = random.uniform(0, 2 * np.pi, harmonics), random.uniform(0.5, 1.0, harmonics)
    waves = [
        size / order * np.sin(2 * np.pi * order * hour / period + phase)
        for order, (size, phase) in enumerate(zip(sizes, phases, strict=True), start=1)
    ]
    return np.sum(waves, axis=0)


def _autoregressive(random: np.random.Generator, decay: float) -> np.ndarray:
    """An AR(1) process [ROWS] of unit variance."""
    shocks = random.standard_normal(ROWS) * np.sqrt(1 - decay**2)
    values = np.empty(ROWS)
    level = random.standard_normal()
    for row, shock in enumerate(shocks):
        level = decay * level + shock
        values[row] = level
    return values
