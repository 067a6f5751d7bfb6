"""`list`: everything that a command line can name."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipeline.datasets import DATASETS, DatasetSpec
from data_pipeline.feed import FEEDS
from data_pipeline.series.steps import duration_text
from model.attention import ALIASES, BACKENDS
from model.presets import PRESETS
from model.pruning import SCORES
from model.pruning.schedules import SCHEDULES
from tune.commands.parser import Parser
from tune.common.errors import DONE
from tune.common.program import PROGRAM
from tune.config.sweeps import SWEEPS
from tune.config.trial_config import FIELDS, GROUPS, SEED_STUDY_ONLY
from tune.console.output import check_json_target, write_json
from tune.engine import ENGINES
from tune.engine.lr import LR_SCHEDULES
from tune.machine.gpu_models import GPU_MODELS
from tune.plan import batch


def parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} list", description="List what a command line can name, one line each.", allow_abbrev=False
    )
    parser.add_argument("--json", metavar="FILE", help="also as JSON; - for stdout")
    return parser


def registries() -> dict[str, dict[str, str]]:
    """Kind -> name -> description in one line, for everything that a command line can name."""
    return {
        "sweeps": {name: sweep().question for name, sweep in SWEEPS.items()},
        "attention": {name: backend.description for name, backend in BACKENDS.items()}
        | {alias: f"another name of {name}" for alias, name in ALIASES.items() if name in BACKENDS},
        "data sets": {name: _dataset(spec) for name, spec in DATASETS.items()},
        "feeds": {name: feed.description for name, feed in FEEDS.items()},
        "engines": {name: engine.description for name, engine in ENGINES.items()},
        "presets": {name: _preset(fields) for name, fields in PRESETS.items()},
        "pruning scores": _documented(SCORES),
        "pruning schedules": _documented(SCHEDULES),
        "learning rates": _documented(LR_SCHEDULES),
        "GPU models": {name: _gpu(model.capability, model.memory_gib) for name, model in GPU_MODELS.items()},
        "fields": {name: _field(name) for name in FIELDS if name not in SEED_STUDY_ONLY},
    }


# Field -> the kind above whose names it takes, and what it takes beside them.
NAMED = {
    "data.dataset": ("data sets", "the path of a text or Parquet file"), "data.feed": ("feeds", "auto"),
    "model.attention": ("attention", "auto"), "model.preset": ("presets", ""), "train.engine": ("engines", ""),
    "train.schedule": ("learning rates", ""), "pruning.score": ("pruning scores", "none or static"),
    "pruning.schedule": ("pruning schedules", ""),
}  # fmt: skip
WORDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
}


def _field(name: str) -> str:
    """The values that a field takes and its default, from its declaration."""
    group, key = name.split(".", 1)
    schema = GROUPS[group].model_json_schema()["properties"][key]
    presets = [name in fields for fields in PRESETS.values()]
    default = "as the preset" if any(presets) else "as suits the device"
    if "default" in schema and not all(presets):
        value = "none" if schema["default"] is None else json.dumps(schema["default"]).strip('"')
        if name == batch.FIELD:
            value = f"{value}, or less for few training windows"
        default = f"{default}, else {value}" if any(presets) else value
    if name in NAMED:
        kind, also = NAMED[name]
        allowed = f"a name under '{kind}'{f', or {also}' if also else ''}"
    else:
        allowed = " or ".join(_allowed(kind) for kind in schema.get("anyOf", [schema]))
    return f"{allowed}; {default} if not given"


def _allowed(kind: Mapping[str, Any]) -> str:
    """A type of JSON Schema in words, with its bounds."""
    if "enum" in kind:
        return ", ".join(value if value[0].isalnum() else repr(value) for value in kind["enum"])
    if kind["type"] == "null":
        return "none"
    if kind["type"] == "array":
        return "list of texts" if kind.get("items", {}).get("type") == "string" else "list of numbers"
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    limits = [f"{word} {kind[bound]:,}" for bound, word in bounds.items() if bound in kind]
    return " ".join([WORDS[kind["type"]], *limits])


def _documented(functions: Mapping[str, Any]) -> dict[str, str]:
    return {name: (inspect.getdoc(function) or "").partition("\n")[0] for name, function in functions.items()}


def _dataset(spec: DatasetSpec) -> str:
    columns = "" if spec.columns is None else f"{len(spec.columns)} columns, "
    step = "" if spec.step_minutes is None else f"every {duration_text(round(60e6 * spec.step_minutes))}, "
    recipe = "" if spec.preset is None else f"; the paper's recipe: preset {spec.preset}"
    source = f"; {spec.source}" if spec.source else ""
    licence = f"; licence: {spec.licence}" if spec.licence else ""
    return f"{columns}{step}split {spec.split.text}; {spec.citation}{recipe}{source}{licence}"


def _preset(fields: Mapping[str, Any]) -> str:
    words = {
        "data.context_length": "context", "model.patch_length": "patch", "model.d_model": "d_model",
        "model.num_heads": "heads", "model.num_layers": "layers", "model.ffn_dim": "ffn",
        "train.learning_rate": "learning rate", "train.schedule": "schedule",
    }  # fmt: skip
    return ", ".join(f"{word} {fields[name]}" for name, word in words.items() if name in fields)


def _gpu(capability: tuple[int, int], memory_gib: float | None) -> str:
    memory = "several memory sizes" if memory_gib is None else f"{memory_gib:g} GiB"
    return f"compute capability {capability[0]}.{capability[1]}, {memory}"


def run(arguments: argparse.Namespace) -> int:
    """Print all registries."""
    check_json_target(arguments.json)
    kinds = registries()
    text = sys.stderr if arguments.json == "-" else sys.stdout
    for line in _lines(kinds):
        print(line, file=text)
    write_json(arguments.json, kinds)
    return DONE


def _lines(kinds: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    width = max(len(name) for members in kinds.values() for name in members)
    for kind, members in kinds.items():
        yield f"{kind}:"
        for name, what in members.items():
            yield f"  {name:{width}}  {what}".rstrip()
