"""The environment that is saved with a sweep (versions, device, code), and how two environments differ.

Only what a result depends on counts as a difference: package versions, the GPU's driver, our code. The machine's name
and its number of processors do not.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from tune.machine.device import available_cpus, cpu_name

CODE_FIELDS = ("git_commit", "git_dirty", "code_sha256")  # of `code_identity.code_identity`
Environment = Mapping[str, Any]


def changes(then: Environment, now: Environment) -> list[str]:
    """Versions and driver that differ, a text each. A value that only one of the two has is no difference."""
    return [f"{name} {_word(old)}, now {_word(new)}" for name, (old, new) in _differing([_facts(then), _facts(now)])]


def mixture(environments: Iterable[Environment]) -> list[str]:
    """What differs among them (versions, driver, code): a text each, with all values in the environments' order."""
    facts = [_facts(environment) | _code(environment) for environment in environments]
    return [f"{name} {' / '.join(map(_word, values))}" for name, values in _differing(facts)]


def _facts(environment: Environment) -> dict[str, Any]:
    device = environment.get("device")
    driver = device.get("driver") if isinstance(device, Mapping) else None  # early sweeps have the device's name there
    return dict(environment.get("versions") or {}) | ({} if driver is None else {"driver": driver})


def _code(environment: Environment) -> dict[str, Any]:
    sha256 = environment.get("code_sha256")
    return {} if sha256 is None else {"code": str(sha256)[:10]}


def _differing(facts: list[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    names = [name for name in facts[0] if all(name in each for each in facts)] if facts else []
    values = {name: list(dict.fromkeys(each[name] for each in facts)) for name in names}
    return [(name, different) for name, different in values.items() if len(different) > 1]


def _word(value: Any) -> str:
    return "not installed" if value is None else str(value)


PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "granite-tsfm",
    "flash-attn",
    "flash_attn_3",
    "flash-attn-4",
    "ray",
    "mlflow",
    "pandas",
    "pyarrow",
    "numpy",
)


def versions() -> dict[str, str | None]:
    """Installed versions of the packages that a result depends on; None for a package that is not installed."""
    installed: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = None
    return installed


def environment() -> dict[str, Any]:
    """What is saved with every sweep besides the device facts: the node's versions and processor."""
    return {"versions": versions(), "host_cpu": cpu_name(), "host_cpus": available_cpus()}
