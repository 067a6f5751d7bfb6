"""What a wheel holds, beside pyproject.toml: all code in one private folder of the package `patchtst_sweeps`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
PRIVATE = "patchtst_sweeps._code"  # patchtst_sweeps/location.py puts this folder on sys.path
OURS = ("tune", "model", "data_pipeline")


class BuildWithIdentity(build_py):
    """Copies experiments.py and the packages, and says beside them which commit they are of."""

    def find_package_modules(self, package, package_dir):  # type: ignore[no-untyped-def]
        modules = super().find_package_modules(package, package_dir)
        # its folder is the checkout's own, which has more in it than the program
        return [module for module in modules if package != PRIVATE or module[1] == "experiments"]

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        sys.path.insert(0, str(HERE))
        from tune.machine.code_identity import IDENTITY_FILE, code_identity

        target = Path(self.build_lib, *PRIVATE.split("."), IDENTITY_FILE)
        target.write_text(json.dumps(code_identity(), sort_keys=True))


def packages() -> list[str]:
    """Every package by its name in the wheel."""
    names = find_packages(str(HERE), include=[pattern for name in OURS for pattern in (name, f"{name}.*")])
    return ["patchtst_sweeps", PRIVATE, *(f"{PRIVATE}.{name}" for name in sorted(names))]


def requirements() -> list[str]:
    """requirements.txt with room for later patches: torch==2.11.0 becomes torch~=2.11.0, which is 2.11.*."""
    lines = (line.partition("#")[0].strip() for line in (HERE / "requirements.txt").read_text().splitlines())
    return [re.sub("==", "~=", line) for line in lines if line and not line.startswith("pytest")]


setup(
    packages=packages(),
    package_dir={PRIVATE: "."},
    package_data={"patchtst_sweeps": ["py.typed", "*.pyi"]},
    install_requires=requirements(),
    cmdclass={"build_py": BuildWithIdentity},
)
