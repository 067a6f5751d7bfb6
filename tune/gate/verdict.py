"""The gate before timing: is an arm the same function as the reference? Judged once, and kept on disk.

GATE_DIR/KEY.json   one verdict: the numbers, and in clear what the key is a hash of
GATE_DIR/KEY.lock   held while a trial measures, so that trials of one arm that start together measure once

The verdict on a file is drawn anew from its numbers; a file that does not hold them is measured again.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import torch

from tune.common.errors import GateFailed
from tune.common.files import make_private, write_atomically
from tune.gate.attention_error import AttentionErrors
from tune.gate.identity import platform_identity
from tune.gate.numerics import BATCHES, DROPOUTS, Measured, NumericErrors, Subject, measure

FACTOR, SLACK = 2.0, 1e-6  # for every error that is judged: so many times eager's, and this
WHAT = {
    "predictions": "predictions",
    "gradients": "gradients",
    "worst_series": "predictions of the worst series",
}
LONGEST_WAIT_S = 900.0  # for another trial that measures the same


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate found, and where it is kept."""

    key: str
    subject: Subject
    measured: Measured
    file: Path | None  # None: kept nowhere
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
        """The largest of the errors, each over its limit: at most 1 passes; infinite where one is not a number."""
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
        arm, eager = self.measured.arm, self.measured.eager
        found = {name: _problem(text, getattr(arm, name), getattr(eager, name)) for name, text in WHAT.items()}
        if found["predictions"]:
            del found["worst_series"]  # it says nothing more
        if not any(found.values()):
            return None
        where = f" (from the cache, key {self.key}: delete {self.file} to measure again)" if self.cached else ""
        return "; ".join(text for text in found.values() if text) + self._at() + where

    def _at(self) -> str:
        model, measured = self.subject.model, self.measured
        pruned = f" with {self.subject.heads} heads" if self.subject.heads != model["num_heads"] else ""
        smaller = f", gated at batch {measured.batch_size}" if measured.batch_size != self.subject.batch_size else ""
        return pruned + smaller

    @property
    def attention_note(self) -> str | None:
        """One line where the attention function alone is further from fp64 than the gate's rule would allow."""
        alone = self.measured.attention
        if alone is None or alone.arm <= FACTOR * alone.eager + SLACK:
            return None
        return f"attention alone is {alone.arm:.1e} from fp64, over {FACTOR:g} x eager's {alone.eager:.1e}"

    @property
    def metrics(self) -> dict[str, float | None]:
        """The numbers by MLflow name."""
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


def _problem(what: str, error: float, eager: float) -> str | None:
    if not math.isfinite(eager):
        return f"{what} of the eager arm itself are not finite at this precision: use another train.precision"
    if not math.isfinite(error):
        return f"{what} are not finite"
    if error > FACTOR * eager + SLACK:
        return f"{what} differ from the fp64 reference by {error:.1e}, allowed {FACTOR:g} x {eager:.1e} + {SLACK:.0e}"
    return None


def require(subject: Subject, device: torch.device, folder: Path | None) -> Verdict:
    """The verdict on an arm that passes, from `folder` where it is known there. Raises GateFailed for another."""
    verdict = judge(subject, device, folder)
    if verdict.problem is not None:
        raise GateFailed(verdict.problem, metrics=verdict.metrics)
    return verdict


def judge(subject: Subject, device: torch.device, folder: Path | None) -> Verdict:
    """The verdict on an arm: read from `folder`, or measured now and written there. None: measured and kept nowhere."""
    about = identity(subject, device)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    fresh = Verdict(key=key, subject=subject, measured=_UNMEASURED, file=None, cached=False)
    if folder is None:
        return replace(fresh, measured=measure(subject, device))
    make_private(folder, "verdicts")
    file = folder / f"{key}.json"
    lock = filelock.FileLock(folder / f"{key}.lock")
    try:
        lock.acquire(timeout=LONGEST_WAIT_S)
    except filelock.Timeout:
        _say(f"{file.name} is being measured for over {LONGEST_WAIT_S:g} s by another trial; measuring it here too")
    try:
        found = _read(file, about)
        measured = found or measure(subject, device)
        if found is None:
            _write(file, about, measured)
    finally:
        lock.release()
    return replace(fresh, measured=measured, file=file, cached=found is not None)


_NOTHING = NumericErrors(predictions=math.nan, gradients=math.nan, worst_series=math.nan)
_UNMEASURED = Measured(arm=_NOTHING, eager=_NOTHING, batch_size=0, attention=None)


def identity(subject: Subject, device: torch.device) -> dict[str, Any]:
    """All that a verdict depends on; its hash is the key. Dropouts are no part of it: the gate sets them to 0."""
    return {
        "model": {name: value for name, value in subject.model.items() if name not in DROPOUTS},
        "heads": subject.heads,
        "engine": subject.engine,
        "beta1_moves": subject.beta1_moves,
        "precision": subject.precision,
        "batch_size": subject.batch_size,
        "rule": [FACTOR, SLACK, BATCHES, *WHAT, "attention alone"],
    } | platform_identity(device)


def _read(file: Path, about: dict[str, Any]) -> Measured | None:
    """What `file` holds; None where there is none or, with a line on stderr, where it is damaged."""
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


def _measured(content: dict[str, Any]) -> Measured:
    arm, eager = (NumericErrors(**content[name]) for name in ("arm", "eager"))
    alone = None if content["attention"] is None else AttentionErrors(**content["attention"])
    numbers = [number for errors in (arm, eager, alone) if errors is not None for number in asdict(errors).values()]
    if not all(isinstance(number, float) and not number < 0 for number in numbers):
        raise ValueError(f"{numbers} are no errors")
    if not isinstance(content["batch_size"], int) or content["batch_size"] < 1:
        raise ValueError(f"batch_size {content['batch_size']!r}")
    return Measured(arm=arm, eager=eager, batch_size=content["batch_size"], attention=alone)


def _write(file: Path, about: dict[str, Any], measured: Measured) -> None:
    """A verdict that cannot be kept is measured again by the next trial: said, and no reason to fail this one."""
    try:
        write_atomically(file, json.dumps({"about": about, "measured": asdict(measured)}, indent=1))
    except OSError as error:
        _say(f"{file} cannot be written ({error}); the next trial of this arm measures again")


def _say(text: str) -> None:
    print(f"gate: {text}", file=sys.stderr, flush=True)
