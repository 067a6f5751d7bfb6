"""The gate before timing: does an arm compute the same function as the reference? Measured once, and kept on disk.

GATE_DIR/KEY.json   one measurement: the errors, and in plain text what the key is a hash of
GATE_DIR/KEY.lock   held while a trial measures, so that trials of one arm that start together measure once

A file holds errors only: each reader computes from them whether the arm passes. A damaged file is measured again.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import torch

from tune.common.errors import GateFailed
from tune.common.files import make_private, write_atomically
from tune.gate.attention_error import AttentionErrors
from tune.gate.identity import platform_identity
from tune.gate.numerics import BATCHES, DROPOUTS, GatedArm, Measurement, NumericErrors, measure

FACTOR, SLACK = 2.0, 1e-6  # an error may be FACTOR times eager's, plus SLACK
WHAT = {
    "predictions": "predictions",
    "gradients": "gradients",
    "worst_series": "predictions of the worst series",
}
LONGEST_WAIT_S = 900.0  # for another trial that measures the same arm


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """An arm's errors, whether they pass, and where they are kept."""

    key: str  # hash of everything that the errors depend on
    arm: GatedArm
    measured: Measurement
    file: Path | None  # None: not kept
    cached: bool  # read from `file`, measured by another trial

    @property
    def prediction_limit(self) -> float:
        return FACTOR * self.measured.eager.predictions + SLACK

    @property
    def gradient_limit(self) -> float:
        return FACTOR * self.measured.eager.gradients + SLACK

    @property
    def worst_series_limit(self) -> float:
        return FACTOR * self.measured.eager.worst_series + SLACK

    @property
    def relative_error(self) -> float:
        """The largest ratio of an error to its limit. At most 1 passes; infinite if an error is not a number."""
        arm = self.measured.arm
        shares = (
            arm.predictions / self.prediction_limit,
            arm.gradients / self.gradient_limit,
            arm.worst_series / self.worst_series_limit,
        )
        return math.inf if any(map(math.isnan, shares)) else max(shares)

    @property
    def problem(self) -> str | None:
        """Why the arm does not pass, in one line; None if it passes."""
        problem = problem_of(self.measured)
        if problem is None:
            return None
        source = f" (from the cache, key {self.key}: delete {self.file} to measure again)" if self.cached else ""
        return problem + self._shape_note() + source

    def _shape_note(self) -> str:
        arm, batch_size = self.arm, self.measured.batch_size
        pruned = f" with {arm.heads} heads" if arm.heads != arm.model["num_heads"] else ""
        return pruned + (f", gated at batch {batch_size}" if batch_size != arm.batch_size else "")

    @property
    def attention_note(self) -> str | None:
        """One line if the attention function alone is further from fp64 than the gate's rule allows; else None."""
        alone = self.measured.attention
        if alone is None or alone.arm <= FACTOR * alone.eager + SLACK:
            return None
        return f"attention alone is {alone.arm:.1e} from fp64, over {FACTOR:g} x eager's {alone.eager:.1e}"

    @property
    def metrics(self) -> dict[str, float | None]:
        """The errors and their limits by MLflow name."""
        alone = self.measured.attention
        return {
            "gate/prediction_error": self.measured.arm.predictions,
            "gate/prediction_limit": self.prediction_limit,
            "gate/gradient_error": self.measured.arm.gradients,
            "gate/gradient_limit": self.gradient_limit,
            "gate/worst_series_error": self.measured.arm.worst_series,
            "gate/worst_series_limit": self.worst_series_limit,
            "gate/attention_error": alone.arm if alone else None,
            "gate/attention_eager_error": alone.eager if alone else None,
            "gate/batch": self.measured.batch_size,
        }


def problem_of(measured: Measurement) -> str | None:
    """What of the arm is further from fp64 than the rule allows, in one line; None if nothing is."""
    arm, eager = measured.arm, measured.eager
    problems = {name: _problem(text, getattr(arm, name), getattr(eager, name)) for name, text in WHAT.items()}
    if problems["predictions"]:
        del problems["worst_series"]  # it adds nothing
    return "; ".join(text for text in problems.values() if text) or None


def _problem(what: str, error: float, eager: float) -> str | None:
    if not math.isfinite(eager):
        return f"{what} of the eager arm itself are not finite at this precision: use another train.precision"
    if not math.isfinite(error):
        return f"{what} are not finite"
    if error > FACTOR * eager + SLACK:
        return f"{what} differ from the fp64 reference by {error:.1e}, allowed {FACTOR:g} x {eager:.1e} + {SLACK:.0e}"
    return None


def require_pass(arm: GatedArm, device: torch.device, folder: Path | None) -> GateResult:
    """The result of `check_arm` for an arm that passes. Raises GateFailed for one that does not."""
    result = check_arm(arm, device, folder)
    if result.problem is not None:
        raise GateFailed(result.problem, metrics=result.metrics)
    return result


def check_arm(arm: GatedArm, device: torch.device, folder: Path | None) -> GateResult:
    """The arm's errors, read from `folder` or measured now and written there. None: measured and not kept.

    Raises RuntimeError if others can write to `folder`, and whatever the backend raises.
    """
    about = _about(arm, device)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    if folder is None:
        return GateResult(key=key, arm=arm, measured=measure(arm, device), file=None, cached=False)
    make_private(folder, "gate results")
    file = folder / f"{key}.json"
    lock = filelock.FileLock(folder / f"{key}.lock")
    try:
        lock.acquire(timeout=LONGEST_WAIT_S)
    except filelock.Timeout:
        _say(f"another trial has been measuring {file.name} for over {LONGEST_WAIT_S:g} s; measuring it here too")
    try:
        stored = _read(file, about)
        measured = stored or measure(arm, device)
        if stored is None:
            _write(file, about, measured)
    finally:
        lock.release()
    return GateResult(key=key, arm=arm, measured=measured, file=file, cached=stored is not None)


def _about(arm: GatedArm, device: torch.device) -> dict[str, Any]:
    """Everything that the errors depend on; its hash is the key. Dropouts are left out: the gate sets them to 0."""
    return {
        "model": {name: value for name, value in arm.model.items() if name not in DROPOUTS},
        "heads": arm.heads,
        "engine": arm.engine,
        "beta1_moves": arm.beta1_moves,
        "precision": arm.precision,
        "batch_size": arm.batch_size,
        "rule": [FACTOR, SLACK, BATCHES, *WHAT, "attention alone"],
    } | platform_identity(device)


def _read(file: Path, about: dict[str, Any]) -> Measurement | None:
    """What `file` holds. None if there is no file or, with a line on stderr, if it is damaged."""
    try:
        content = json.loads(file.read_text())
        if content["about"] != json.loads(json.dumps(about)):
            raise ValueError("it is about something else")
        return _measured(content["measured"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _say(f"{file} is damaged ({type(error).__name__}: {error}) and is measured again")
        return None


def _measured(content: dict[str, Any]) -> Measurement:
    arm, eager = (NumericErrors(**content[name]) for name in ("arm", "eager"))
    alone = None if content["attention"] is None else AttentionErrors(**content["attention"])
    numbers = [number for errors in (arm, eager, alone) if errors is not None for number in asdict(errors).values()]
    if not all(isinstance(number, float) and not number < 0 for number in numbers):
        raise ValueError(f"{numbers} are not errors")
    if not isinstance(content["batch_size"], int) or content["batch_size"] < 1:
        raise ValueError(f"batch_size {content['batch_size']!r}")
    return Measurement(arm=arm, eager=eager, batch_size=content["batch_size"], attention=alone)


def _write(file: Path, about: dict[str, Any], measured: Measurement) -> None:
    """A file that cannot be written fails no trial: the next trial measures again, and a line on stderr says so."""
    try:
        write_atomically(file, json.dumps({"about": about, "measured": asdict(measured)}, indent=1))
    except OSError as error:
        _say(f"{file} cannot be written ({error}); the next trial of this arm measures again")


def _say(text: str) -> None:
    print(f"gate: {text}", file=sys.stderr, flush=True)
