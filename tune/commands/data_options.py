"""`--set data.FIELD=VALUE` for commands that read a file: the same options as a sweep has."""

from __future__ import annotations

import argparse
from typing import Any

from data_pipeline.options import OPTION_NAMES, DataOptions
from tune.commands.parser import Parser
from tune.common.errors import WrongInput, unknown_name
from tune.config.trial_config import data_options
from tune.config.values import check_value, parse_value

FIELDS = tuple(f"data.{name}" for name in OPTION_NAMES)


def add_data_options(parser: Parser, of: str) -> None:
    """Add --set and --timestamp-column. `of` names the file in the help."""
    text = f"how {of} is read, repeatable: {', '.join(FIELDS)}"
    parser.add_argument("--set", action="append", default=[], metavar="data.FIELD=VALUE", help=text)
    parser.add_argument("--timestamp-column", metavar="NAME", help="the same as --set data.timestamp_column=NAME")


def given_options(arguments: argparse.Namespace) -> DataOptions:
    """The options of the command line. Raises WrongInput for an unknown field or a value that does not fit."""
    values: dict[str, Any] = {}
    if arguments.timestamp_column is not None:
        values["data.timestamp_column"] = arguments.timestamp_column
    for item in arguments.set:
        name, separator, text = item.partition("=")
        if not separator:
            raise WrongInput(f"--set {item}: write data.FIELD=VALUE, for example --set data.separator=;")
        if name not in FIELDS:
            raise unknown_name("field of a file", name, FIELDS)
        if name in values:
            raise WrongInput(f"--set {item}: {name} is given twice")
        values[name] = parse_value(name, text)
        check_value(name, values[name], given=f"--set {name}")
    options = data_options(values)
    assert options is not None  # every value was checked
    return options
