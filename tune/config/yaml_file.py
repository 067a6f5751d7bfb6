"""`--config FILE` and `--save-config FILE`: what to run, as YAML in the command line's words.

sweep: attention
dataset: ETTm1
epochs: 5
seed: 1
repeats: 3            # or auto
trials: 50            # that a search trains
minutes: 30           # after which no other trial begins
target_val_mse: 0.4   # which ends a search
set:
  model.d_model: 64
over:
  model.patch_length: [12, 24]

A relative path of a data file starts at the configuration's folder. docs/configuration.md says what a file may hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tune.common.errors import WrongInput, shortened, unknown_name
from tune.common.files import write_atomically
from tune.config.axes import check_axis
from tune.config.cells import read_cells
from tune.config.config_text import read_text
from tune.config.repeats import read_repeats
from tune.config.sweeps import SWEEPS
from tune.config.trial_config import FIELDS, check_field
from tune.config.values import checked, value_of
from tune.config.written_numbers import number, number_or_text, whole_number
from tune.config.yaml_nodes import Items, Node, Pairs, Scalar, parse_yaml

KINDS: Mapping[str, str] = {
    "sweep": "a name",
    "dataset": "a name or a path",
    "epochs": "a whole number",
    "seed": "a whole number",
    "repeats": "a whole number, or auto",
    "only": "names of data sets or cells, like ETTh1,ETTm1-96",
    "trials": "a whole number",
    "minutes": "a number",
    "target_val_mse": "a number",
    "set": "fields with a value each, like model.d_model: 64",
    "over": "fields with a list each, like model.d_model: [64, 128]",
}
SHORT = {"dataset": "data.dataset", "epochs": "train.epochs"}  # fields with their own key, and option
_READ: Mapping[str, Callable[[str], Any]] = {  # key -> its reader; others take a whole number
    "dataset": str,
    "repeats": read_repeats,
    "only": read_cells,
    "minutes": number,
    "target_val_mse": number,
}
_FIELD_OF = SHORT | {"seed": "train.seed"}  # whose values the key takes
_HINTS = {  # what a file that is not YAML looks like -> what to write
    re.compile(r"^\s*(\[[\w.]+\]\s*$|[\w.]+\s*=)", re.MULTILINE): "this looks like TOML: write YAML, `sweep: pruning`",
    re.compile(r"^\s*[\w.]+:\S", re.MULTILINE): "write a space after the colon",
}


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """A configuration file that was read and checked."""

    path: Path
    content: Mapping[str, Any]  # keyed as in KINDS; `set`: field -> value; `over`: field -> list of values
    lines: Mapping[str, int]  # where a key of the file and a field's full name stand

    def fault(self, name: str, message: str) -> WrongInput:
        """The error about a key or field of the file."""
        line = f"line {self.lines[name]}: " if name in self.lines else ""
        return WrongInput(f"--config {self.path}: {line}{message}")


def read_config(path: Path) -> ConfigFile:
    """The checked configuration in a file. Names are checked before values.

    Raises WrongInput in one line, with the file's line if it is known.
    """
    try:
        text = read_text(path)
        return _checked(path, _root(text))
    except WrongInput as error:
        raise WrongInput(f"--config {path}: {error}") from None


def _root(text: str) -> Pairs:
    try:
        root = parse_yaml(text)
        if root is None:
            return Pairs(pairs={}, line=1)
        if not isinstance(root, Pairs):
            raise WrongInput(f"holds {_kind(root)} instead of `key: value` lines; allowed keys: {', '.join(KINDS)}")
    except WrongInput as error:
        hint = next((f"; {words}" for form, words in _HINTS.items() if form.search(text)), "")
        raise WrongInput(f"{error}{hint}") from None
    return root


def _checked(path: Path, root: Pairs) -> ConfigFile:
    for key, line in root.lines.items():
        with _at(line):
            _check_key(key)
    fields, axes = (_fields(root, key) for key in ("set", "over"))
    lines = {**root.lines, **fields.lines, **axes.lines}
    lines |= {name: root.lines[key] for key, name in SHORT.items() if key in root.lines}
    for key, name in SHORT.items():
        if key in root.pairs and name in fields.pairs:
            with _at(fields.lines[name]):
                raise WrongInput(f"{name} is given twice, by its own key and under set; leave one out")
    content: dict[str, Any] = {}
    for key, node in root.pairs.items():
        with _at(root.lines[key]):
            if key not in ("set", "over"):
                content[key] = _option(key, node)
    for given, nodes, read in (("set", fields, _value), ("over", axes, _axis)):
        values = {}
        for name, node in nodes.pairs.items():
            with _at(nodes.lines[name]):
                values[name] = read(name, node)
        if given in root.pairs:
            content[given] = values
    return ConfigFile(path=path, content=content, lines=lines)


@contextmanager
def _at(line: int) -> Iterator[None]:
    try:
        yield
    except WrongInput as error:
        raise WrongInput(f"line {line}: {error}") from None


def _check_key(key: str) -> None:
    if key in KINDS:
        return
    alike = [field for field in FIELDS if key == field or key == field.rpartition(".")[2]]
    if alike:
        raise WrongInput(f"{key} is a field; write it under set:, as {alike[0]}: VALUE, or under over: with a list")
    raise unknown_name("key", key, KINDS)


def _fields(root: Pairs, key: str) -> Pairs:
    """What is under `set` or `over`, with every name checked."""
    node = root.pairs.get(key)
    if node is None:
        return Pairs(pairs={}, line=1)
    with _at(root.lines[key]):
        if not isinstance(node, Pairs):
            raise WrongInput(f"{key} is {_kind(node)}; give {KINDS[key]}")
    for name, line in node.lines.items():
        with _at(line):
            check_field(name)
    return node


def _option(key: str, node: Node) -> Any:
    if not isinstance(node, Scalar) or (not node.quoted and node.text in ("", "~", "null")):
        raise WrongInput(f"{key} is {_kind(node)}; give {KINDS[key]}")
    if key == "sweep":
        if node.text not in SWEEPS:
            raise unknown_name("sweep", node.text, SWEEPS)
        return node.text
    try:
        value = _READ.get(key, whole_number)(node.text)
    except WrongInput as error:
        raise WrongInput(f"{key}: {error}") from None
    return checked(_FIELD_OF[key], value) if key in _FIELD_OF else value


def _value(name: str, node: Node) -> Any:
    if isinstance(node, Scalar) and node.text == "" and not node.quoted:
        raise WrongInput(f"{name} has no value; write one, or null for none")
    return checked(name, value_of(name, node))


def _axis(name: str, node: Node) -> list[Any]:
    if not isinstance(node, Items):
        raise WrongInput(f"over: {name} is {_kind(node)}; give {KINDS['over']}")
    return list(check_axis(name, [_value(name, item) for item in node.items]))


def _kind(node: Node) -> str:
    if isinstance(node, Items):
        return "a list"
    if isinstance(node, Pairs):
        return "a mapping"
    if not node.quoted and node.text in ("", "~", "null"):
        return "empty"
    number = not node.quoted and not isinstance(number_or_text(node.text), str)
    return f"{'a number' if number else 'a text'}, '{shortened(node.text)}',"


def check_new_config(path: Path, content: Mapping[str, Any]) -> None:
    """Raises WrongInput if `write_config` would replace a file with other content."""
    try:
        other = path.exists() and path.read_bytes() != config_text(content).encode()
    except (OSError, ValueError) as error:  # ValueError: a name that is no text
        problem = getattr(error, "strerror", None) or error
        raise WrongInput(f"--save-config {path}: {problem}; name another file") from None
    if other:
        raise WrongInput(f"--save-config {path}: it exists with other content; name another file, or remove it")


def config_text(content: Mapping[str, Any]) -> str:
    """The YAML text that `read_config` reads."""
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


def write_config(path: Path, content: Mapping[str, Any]) -> None:
    """Write what `read_config` reads, atomically. Raises WrongInput if the file cannot be written."""
    try:
        write_atomically(path, config_text(content))
    except (OSError, ValueError) as error:  # ValueError: a name that is no text, or that no file can have
        problem = getattr(error, "strerror", None) or error
        raise WrongInput(f"--save-config {path}: {problem}; name a file that can be written") from None
