"""Imports go one way, and planning imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A package imports itself and those before it in its line, lazily or not, for annotations or not.
ORDERS: dict[str, tuple[str, ...]] = {
    "tune": (
        "common", "machine", "stats", "storage", "console", "tracking", "engine", "config", "plan", "measure", "gate",
        "trial", "cluster", "worker", "report", "driver", "doctor", "commands", "api",
    ),
    "data_pipeline": (
        "errors", "options", "faults", "split_rule", "demo", "datasets", "source", "pems", "series", "feed",
    ),
    "model": (
        "facts", "presets", "flops", "heads", "attention", "recompute", "guard", "fused", "memory",
        "as_published", "residual", "variants", "patchtst", "swap", "pruning", "forecaster",
    ),
    "launcher": ("lint", "listener", "mlflow_server"),
    "patchtst_sweeps": ("location", "attention", "command"),
}  # fmt: skip
# What a top-level package may import of the others.
MAY_IMPORT = {
    "data_pipeline": set(),
    "model": set(),
    "tune": {"data_pipeline", "model"},
    "launcher": {"tune"},
    "patchtst_sweeps": set(),  # it names modules of tune, and imports them when they are used
}
OURS = frozenset(ORDERS)
FORBIDDEN = {"data_pipeline": {"ray", "mlflow"}, "model": {"ray", "mlflow"}}


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name; a package is its __init__.py."""
    files = [file for package in ORDERS for file in sorted((ROOT / package).rglob("*.py"))]
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    return {name: file for file, name in names.items()}


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The dotted names that a module imports, wherever the import stands: a submodule by its own name."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                yield longer if longer in MODULES else str(node.module)


def room(name: str) -> str:
    """The second part of a dotted name, which ORDERS lists."""
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("package", ORDERS)
def test_a_packages_order_names_exactly_what_lies_in_it(package: str) -> None:
    lies_there = {room(name) for name in MODULES if name.startswith(f"{package}.")}
    assert set(ORDERS[package]) == lies_there


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name])
def test_no_module_imports_a_later_package(name: str) -> None:
    package, order = name.split(".")[0], ORDERS[name.split(".")[0]]
    for imported in imports(name):
        if imported.startswith(f"{package}.") and room(imported) in order:
            assert order.index(room(imported)) <= order.index(room(name)), f"{name} imports {imported}"


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_another_top_level_package_than_it_may(name: str) -> None:
    package = name.split(".")[0]
    used = {imported.split(".")[0] for imported in imports(name)}
    assert not used & (OURS - {package} - MAY_IMPORT[package])
    assert not used & FORBIDDEN.get(package, set())


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {other for other in imports(name) if other in MODULES and other != name} for name in MODULES}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                walk(other, (*path, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_a_packages_init_holds_nothing_or_one_registry() -> None:
    registries = {
        "model.attention",
        "model.pruning",
        "model.fused",
        "data_pipeline.feed",
        "tune.engine",
        "patchtst_sweeps",
    }
    full = {name for name, file in MODULES.items() if file.name == "__init__.py" and file.read_text().strip()}
    assert full <= registries


def test_planning_and_the_command_line_import_no_torch_transformers_ray_or_mlflow() -> None:
    code = (
        "import sys, tune.commands.main, tune.commands.sweep, tune.plan.plan\n"
        "heavy = {'torch', 'transformers', 'ray', 'mlflow', 'pandas', 'tsfm_public', 'plotly', 'matplotlib'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_library_imports_nothing_heavy_before_a_name_is_used() -> None:
    code = (
        "import sys, patchtst_sweeps\n"
        "heavy = {'torch', 'transformers', 'ray', 'mlflow', 'pandas', 'numpy', 'tune'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_source_file_has_over_350_lines() -> None:
    assert not {name: lines for name, file in MODULES.items() if (lines := file.read_text().count("\n")) > 350}


def test_no_function_has_over_80_lines() -> None:
    long = {}
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 80:
                long[f"{name}.{node.name}"] = node.end_lineno - node.lineno + 1
    assert not long
