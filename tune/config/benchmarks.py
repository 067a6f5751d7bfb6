"""BENCHMARKS: the data sets of the sweep `benchmark`, and the test errors that others report for them.

A new data set is one line here: its recipe is the preset that `data_pipeline.datasets` names for it. Planning-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from data_pipeline.datasets import DATASETS
from tune.config.arms import Arm, SweepConfig

SEEDS = 3  # trainings of a cell, unless its data set says otherwise; fixed before the first run
FIRST_SEED = 2021  # the official code's
HORIZONS = (96, 192, 336, 720)  # time steps, as published
PUBLISHED_SOURCE = "Nie et al., ICLR 2023, table 3, PatchTST/42 (context 336; illness 104)"
TFB_SOURCE = "PatchTST under TFB's protocol: github.com/decisionintelligence/DUET, figures/duet_full_results.png"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One data set of the table. Errors are test MSE of standardised values, one for each horizon; None: unknown."""

    published: tuple[float | None, ...]  # PUBLISHED_SOURCE; of ETTh1 not over the full test set (drop_last)
    tfb: tuple[float | None, ...]  # TFB_SOURCE
    horizons: tuple[int, ...] = HORIZONS
    seeds: Mapping[int, int] = field(default_factory=dict)  # horizon -> trainings, where they are not SEEDS
    usual: bool = True  # whether it is in the table without --only

    def reported(self, horizon: int) -> tuple[float | None, float | None]:
        """(as published, TFB's) at this horizon; None where nobody reports it."""
        found = dict(zip(self.horizons, zip(self.published, self.tfb, strict=True), strict=True))
        return found.get(horizon, (None, None))


BENCHMARKS: dict[str, Benchmark] = {
    "ETTh1": Benchmark(published=(0.375, 0.414, 0.431, 0.449), tfb=(0.377, 0.409, 0.431, 0.457), seeds={96: 5}),
    "ETTh2": Benchmark(published=(0.274, 0.339, 0.331, 0.379), tfb=(0.274, 0.348, 0.377, 0.406)),
    "ETTm1": Benchmark(published=(0.290, 0.332, 0.366, 0.420), tfb=(0.289, 0.329, 0.362, 0.416), seeds={96: 5}),
    "ETTm2": Benchmark(published=(0.165, 0.220, 0.278, 0.367), tfb=(0.165, 0.221, 0.276, 0.362)),
    "weather": Benchmark(published=(0.152, 0.197, 0.249, 0.320), tfb=(0.149, 0.191, 0.242, 0.312)),
    "electricity": Benchmark(published=(0.130, 0.148, 0.167, 0.202), tfb=(0.143, 0.158, 0.168, 0.214), usual=False),
    "traffic": Benchmark(published=(0.367, 0.385, 0.398, 0.434), tfb=(0.370, 0.386, 0.396, 0.435), usual=False),
    "illness": Benchmark(
        published=(1.522, 1.430, 1.673, 1.529), tfb=(1.932, 1.869, 1.891, 1.914), horizons=(24, 36, 48, 60), usual=False
    ),
}


def reported(dataset: str, horizon: int) -> tuple[float | None, float | None]:
    """(as published, TFB's) test MSE of a data set at a horizon; None where nobody reports it."""
    return BENCHMARKS[dataset].reported(horizon) if dataset in BENCHMARKS else (None, None)


def benchmark() -> SweepConfig:
    """A table of test errors: data sets at their published horizons, each with the paper's recipe for it."""
    cells = {usual: tuple(_cells(usual)) for usual in (True, False)}
    return SweepConfig(
        name="benchmark",
        question="Which test errors do the recipes of the presets reach, beside those that others report?",
        baseline=cells[True][0].label,
        arms=cells[True],
        more=cells[False],
        shared={"data.feed": "device"},
        seed=FIRST_SEED,
        table=True,
    )


def _cells(usual: bool) -> Iterable[Arm]:
    for name, each in BENCHMARKS.items():
        for horizon in each.horizons if each.usual == usual else ():
            changes = {"data.dataset": name, "data.prediction_length": horizon, "model.preset": DATASETS[name].preset}
            yield Arm(label=f"{name}-{horizon}", changes=changes, repeats=each.seeds.get(horizon, SEEDS))
