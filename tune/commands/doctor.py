"""`doctor`: what works on this machine, what does not, and how to mend it. It tries what a sweep does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from tune.commands.parser import Parser, add_folders, add_shared, tracking_uri
from tune.common.address import settled_uri
from tune.common.errors import DONE, WRONG_INPUT
from tune.common.program import PROGRAM
from tune.config.trial_config import DataConfig
from tune.console.output import check_json_target, write_json
from tune.console.text import table
from tune.doctor.checks import PARTS
from tune.doctor.compute import DEFAULT_SWEEP
from tune.doctor.finding import Finding, Place
from tune.doctor.runner import run_parts


def parser() -> Parser:
    parser = Parser(prog=f"{PROGRAM} doctor", description="Show what works on this machine.", allow_abbrev=False)
    add_folders(parser)
    add_shared(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print the table; DONE if the default sweep can run here, else WRONG_INPUT."""
    check_json_target(arguments.json)
    _check_packages()
    place = Place(
        data_dir=arguments.data_dir.absolute(),
        storage=arguments.storage_path.absolute(),
        tracking_uri=settled_uri(tracking_uri(arguments)),
    )
    findings = run_parts(PARTS, place)
    text = sys.stderr if arguments.json == "-" else sys.stdout
    for line in table(["", "what", "name", "found"], [_row(finding) for finding in findings]):
        print(line, file=text)
    ready = all(finding.works for finding in findings if finding.needed)
    print(_conclusion(findings, ready, arguments.data_dir), file=text)
    write_json(arguments.json, {"ready": ready, "checks": [asdict(finding) for finding in findings]})
    return DONE if ready else WRONG_INPUT


def _check_packages() -> None:
    """Raises ModuleNotFoundError for the first package without which there is nothing to try."""
    for name in ("torch", "transformers", "ray", "mlflow", "pandas", "pyarrow"):
        try:
            there = find_spec(name) is not None
        except ValueError:  # it was imported in some odd way
            there = sys.modules.get(name) is not None
        if not there:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _row(finding: Finding) -> dict[str, str]:
    """A line of the table. What does not work also says what was tried."""
    tried = f"tried to {finding.tried}: " if finding.works is False and finding.tried else ""
    mark = {True: "ok", False: "NO", None: ""}[finding.works]
    return {"": mark, "what": finding.kind, "name": finding.name, "found": tried + finding.found}


def _conclusion(findings: Iterable[Finding], ready: bool, data_dir: Path) -> str:
    if not ready:
        return f"the sweep {DEFAULT_SWEEP} CANNOT run here"
    name = DataConfig().dataset
    if any((finding.kind, finding.name, finding.works) == ("data set", name, True) for finding in findings):
        return f"the sweep {DEFAULT_SWEEP} can run here"
    where = f"{name} is downloaded at its first use, or put {name}.csv into {data_dir}"
    return f"the sweep {DEFAULT_SWEEP} can run here once it has its data: {where}; --dataset demo needs none"
