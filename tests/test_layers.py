"""Imports go one way, and planning imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A stage may import itself and the stages before it. tune/ modules in one line are one stage.
STAGES: tuple[tuple[str, ...], ...] = (
    ("environments", "pace"),
    ("errors", "kernel_names", "hardware", "private", "sweep_dir", "progress", "outbox", "holder", "clock"),
    ("memory",),
    ("gpu_models", "output", "cli", "streams", "live", "workers"),
    ("config", "sweeps", "lr", "engines", "adam", "step", "graph", "measure", "evaluate", "pairs", "diagnosis"),
    ("sampler", "speed", "study_clock", "host_copy"),
    ("raw_samples",),
    ("observer",),
    ("mlflow_store", "mlflow_runs", "mlflow_model", "mlflow_notes"),
    ("mlflow_writer", "mlflow_server", "mlflow_access"),
    ("mlflow_flusher", "mlflow_reader"),
    ("tracking",),
    ("kernels", "attention_alone", "numerics"),
    ("gate",),
    ("proof", "compile_cache"),
    ("axes", "config_file"),
    ("search", "pruner", "prepare", "request", "finalists"),
    (
        "verdict",
        "report_pairs",
        "report_proof",
        "report_published",
        "report_cost",
        "report_time",
        "report_same_epochs",
        "report_setting",
        "report",
    ),
    ("report_tables", "report_charts"),
    ("report_dimensions", "report_png"),
    ("report_markdown", "report_terminal", "report_html"),
    ("report_files",),
    ("space", "plan_text", "estimate", "blocks"),
    ("trial",),
    ("whole",),
    ("checkpoint", "session", "saving", "opening", "rehearsal"),
    ("cluster", "serving", "nursery", "standby", "templates"),
    ("callback", "shared_folders"),
    ("lanes", "dispatch"),
    ("halving", "launch", "proposer"),
    ("adaptive", "closing"),
    ("runner",),
    ("listing", "model_lookup", "compare", "flush"),
    ("doctor",),
    ("commands", "predict"),
    ("jobs", "shipment"),
    ("submit",),
)
STAGE_OF = {name: index for index, names in enumerate(STAGES) for name in names}
# Imported inside a function, to break the one circle that is meant: a trial opens its session.
LAZY_UPWARDS = {("trial", "session")}


def _imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("package", ["model", "data_pipeline"])
def test_data_and_model_import_neither_each_other_nor_tune_ray_mlflow(package: str) -> None:
    forbidden = {"model", "data_pipeline", "tune", "ray", "mlflow"} - {package}
    for file in (ROOT / package).rglob("*.py"):
        used = {name.split(".")[0] for name in _imports(file)}
        assert not used & forbidden, f"{file.relative_to(ROOT)} imports {used & forbidden}"


@pytest.mark.parametrize("file", sorted((ROOT / "tune").glob("*.py")), ids=lambda file: file.stem)
def test_no_stage_of_tune_imports_a_later_one(file: Path) -> None:
    if file.stem == "__init__":
        assert file.read_text() == ""
        return
    for name in _imports(file):
        parts = name.split(".")
        if parts[0] != "tune" or len(parts) < 2 or parts[1] not in STAGE_OF:
            continue
        if (file.stem, parts[1]) in LAZY_UPWARDS:
            continue
        assert STAGE_OF[parts[1]] <= STAGE_OF[file.stem], f"{file.stem} imports the later stage {parts[1]}"


def test_planning_and_the_command_line_import_no_torch_transformers_ray_or_mlflow() -> None:
    code = (
        "import sys, experiments, tune.commands.sweep, tune.plan.plan\n"
        "heavy = {'torch', 'transformers', 'ray', 'mlflow', 'pandas', 'tsfm_public', 'plotly', 'matplotlib'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_source_file_outgrows_its_budget() -> None:
    sources = [file for package in ("tune", "model", "data_pipeline") for file in (ROOT / package).rglob("*.py")]
    long = {str(file.relative_to(ROOT)): lines for file in sources if (lines := file.read_text().count("\n")) > 350}
    assert not long
