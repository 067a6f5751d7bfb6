"""Checks that go wrong in every way, for a process that runs them; and `doctor` as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tune.doctor.finding import Check, Finding, Place

ROOT = Path(__file__).resolve().parents[2]


def fine(place: Place) -> Iterator[Finding]:
    print("noise that belongs into no result")
    yield Finding(kind="fine", name="it", works=True, found="works")


def hangs(place: Place) -> Iterator[Finding]:
    child = subprocess.Popen(["sleep", "1000"])
    (place.data_dir / "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(1000)
    yield from ()


def raises(place: Place) -> Iterator[Finding]:
    yield Finding(kind="raises", name="first", works=True, found="works")
    raise RuntimeError("no luck\nsecond line")


def killed(place: Place) -> Iterator[Finding]:
    print("last words of a library", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    yield from ()


def exits(place: Place) -> Iterator[Finding]:
    os._exit(7)
    yield from ()


def check(name: str) -> Check:
    return Check(kind=name, tried=f"try {name}", function=f"doctor_kit:{name}", needed=True)


def run_script(code: str, folder: Path) -> subprocess.Popen[str]:
    """Python with our packages and these kits, in the background."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/kits'}"}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def doctor(folder: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    """The real command in `folder`: its exit code, its JSON and its stderr, which holds the table."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "CXX", "CC")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments.py"), "doctor", "--json", "-", *arguments],
        cwd=folder, env=inherited | environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout), done.stderr


def one(answer: Mapping[str, Any], kind: str, name: str | None = None) -> dict[str, Any]:
    """The only finding of a kind, or of a kind and a name."""
    (found,) = [each for each in answer["checks"] if each["kind"] == kind and name in (None, each["name"])]
    return found
