"""`data show`: what is in a series."""

from __future__ import annotations

import argparse

from tune.commands.data_options import add_data_options, given_options
from tune.commands.parser import Parser, add_folders
from tune.common.errors import DONE
from tune.common.program import PROGRAM
from tune.config.values import check_value
from tune.plan.data import cache_dir, fetch_if_missing
from tune.storage.check_folder import check_storage


def parser() -> Parser:
    parser = Parser(prog=f"{PROGRAM} data show", description="What is in a series.", allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", help="a data set, or the path of a text or Parquet file")
    parser.add_argument("--context-length", type=int, default=512, metavar="N", help="time steps in (default 512)")
    parser.add_argument("--prediction-length", type=int, default=96, metavar="N", help="time steps out (default 96)")
    add_data_options(parser, "a file")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    add_folders(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print what is in a series and whether its splits resemble each other."""
    from data_pipeline.series.describe import describe, render

    check_storage(arguments.storage_path)
    for name in ("context_length", "prediction_length"):
        check_value(f"data.{name}", getattr(arguments, name), given=f"--{name.replace('_', '-')}")
    fetch_if_missing(arguments.name, arguments.data_dir, quiet=arguments.quiet)
    description = describe(
        arguments.name,
        arguments.data_dir,
        cache_dir(arguments.storage_path),
        arguments.context_length,
        arguments.prediction_length,
        given_options(arguments),
    )
    print(render(description))
    return DONE
