"""Reading a sweep back needs none of the modules that write it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_importing_every_report_imports_no_sender() -> None:
    code = (
        "import importlib, pkgutil, sys, tune.report\n"
        "names = [module.name for module in pkgutil.walk_packages(tune.report.__path__, 'tune.report.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "assert 'tune.tracking.reader' in sys.modules\n"
        "sent = {'tune.tracking.' + name for name in ('sender', 'tracker', 'writer', 'model_package')}\n"
        "sys.exit(', '.join(sorted(sent & set(sys.modules))) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
