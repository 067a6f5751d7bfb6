"""Programs of the operating system that tests need. A test skips without one, or fails if REQUIRE_SYSTEM=1."""

from __future__ import annotations

import glob
import os
import shutil
from typing import NoReturn

import pytest

# program -> the Debian package with it, and where it lies if it is not on PATH
PACKAGES = {
    "bindfs": ("bindfs", "/usr/bin/bindfs"),
    "chromium": ("chromium", "/usr/bin/chromium"),
    "sshd": ("openssh-server", "/usr/sbin/sshd"),
    "postgres": ("postgresql", "/usr/lib/postgresql/*/bin/postgres"),
}


def system_program(name: str) -> str:
    """Path of a program in PACKAGES. Without it the test is skipped, or fails if REQUIRE_SYSTEM=1 (as in CI)."""
    package, place = PACKAGES[name]
    path = shutil.which(name) or max(glob.glob(place), default=None)
    if path is not None:
        return path
    skip_for_want_of(f"needs {name}: apt-get install {package} (.ci/run installs it)")


def skip_for_want_of(reason: str) -> NoReturn:
    """Skip the test because this machine lacks something. REQUIRE_SYSTEM=1 (as in CI) makes that a failure."""
    if os.environ.get("REQUIRE_SYSTEM") == "1":
        pytest.fail(f"{reason}; REQUIRE_SYSTEM=1 allows no skip")
    pytest.skip(reason)
