"""What one trial proves and reports: the gate before its epochs, its kernels after them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tune.common.errors import GateFailed
from tune.common.published import NOT_ENFORCED, ORDINARY, ArmRules
from tune.config.trial_config import TrainConfig
from tune.engine.lr import Rates, ScheduleSpan
from tune.engine.step import Stepper
from tune.gate import check, profiled_step
from tune.gate.numerics import GatedArm
from tune.measure.bottleneck import STEP_BUSY

CACHED, MEASURED = "cached", "measured"  # values of the tag gate_verdict
MOST_NAMES = 20  # kernels in the tag: a store shortens what is longer than it allows


class Proof:
    """One trial's gate results and kernels. `gate_dir`: where gate results are kept; None: they are not kept."""

    def __init__(self, gate_dir: str | None, device: torch.device) -> None:
        self._folder, self._device = Path(gate_dir) if gate_dir else None, device
        self.metrics: dict[str, float | None] = {}
        self.tags: dict[str, str] = {}

    def pass_gate(
        self,
        model: Mapping[str, Any],
        train: TrainConfig,
        *,
        heads: Sequence[int],
        batch_size: int,
        rules: ArmRules = ORDINARY,
    ) -> None:
        """Raises GateFailed unless the arm computes the reference's function with each of these numbers of `heads`.

        `metrics` are those of the number whose errors come nearest to their limits. If the rules do not enforce the
        gate, nothing is raised, and the tag `gate` says what is wrong.
        """
        check_gate = check.require_pass if rules.gate_enforced else check.check_arm
        results = [
            check_gate(
                GatedArm(
                    model=model,
                    heads=count,
                    engine=train.engine,
                    precision=train.precision,
                    batch_size=batch_size,
                    beta1_moves=_beta1_moves(train),
                    uses_backend=rules.uses_backend,
                ),
                self._device,
                self._folder,
            )
            for count in heads
        ]
        worst = max(results, key=lambda result: result.relative_error)
        self.metrics = worst.metrics
        # Measuring fills the compiler's caches: a trial that measured compiles faster than one that read the result.
        self.tags["gate_verdict"] = CACHED if all(result.cached for result in results) else MEASURED
        gated_at = min(result.measured.batch_size for result in results)
        smaller = [] if gated_at == batch_size else [f"gated at batch {gated_at} of {batch_size}"]
        notes = dict.fromkeys(result.attention_note for result in results if result.attention_note)
        self.tags["gate"] = ", ".join(["passed", *smaller, *notes])
        if worst.problem is not None:
            self.tags["gate"] = f"{NOT_ENFORCED}{worst.problem}"

    def prove_kernels(self, stepper: Stepper, batch: Any, attention: str, engine: str) -> None:
        """Raises GateFailed if a step did not run the backend's kernels, or ran another backend's kernels too."""
        try:
            proven = profiled_step.prove(stepper, batch, attention=attention, engine=engine)
        except GateFailed as error:
            error.metrics |= self.metrics
            raise
        unseen = f"not visible on CPU with engine {engine}"
        self.tags["kernels"] = unseen if proven is None else json.dumps(proven.kernels[:MOST_NAMES])
        if proven is not None:
            self.tags["layers_path"] = proven.layers
        self.metrics = {**self.metrics, STEP_BUSY: proven.busy_ms if proven else None}


def _beta1_moves(train: TrainConfig) -> bool:
    span = ScheduleSpan(
        learning_rate=train.learning_rate, steps_per_epoch=2, epochs=max(train.epochs, 2), pct_start=train.pct_start
    )
    return Rates(schedule=train.schedule, span=span).beta1_moves
