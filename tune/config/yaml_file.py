"""`--config FILE` and `--save-config FILE`: what to run, as YAML in the command line's words.

sweep: attention
dataset: ETTm1
epochs: 5
seed: 1
repeats: 3
trials: 50            # of a sweep that draws its trials
set:
  model.d_model: 64
over:
  model.patch_length: [12, 24]

A relative path of a data file starts at the configuration's folder.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tune.common.errors import WrongInput, unknown_name
from tune.common.files import write_atomically

LARGEST_BYTES = 2**20
KINDS: dict[str, tuple[type, str]] = {
    "sweep": (str, "a name"),
    "dataset": (str, "a name or a path"),
    "epochs": (int, "a whole number"),
    "seed": (int, "a whole number"),
    "repeats": (int, "a whole number"),
    "trials": (int, "a whole number"),
    "set": (dict, "fields with a value each, like model.d_model: 64"),
    "over": (dict, "fields with a list each, like model.d_model: [64, 128]"),
}
DEEPEST = 2  # levels of lists in a value: the values of an axis may be lists


class _Loader(yaml.SafeLoader):
    """PyYAML silently takes the last of two equal keys and reads 1:30 as 90. Here these and references are errors."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"'*{event.anchor}' refers to another value; write the value itself", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if ":" in node.value or re.match(r"[-+]?0[\d_]", node.value):  # YAML 1.1: base 60, base 8
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is another number in YAML 1.1 than it seems; write it plainly, or as "
                f"'{node.value}' where it is a name", node.start_mark,
            )  # fmt: skip
        integer = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)


def read_config(path: Path) -> dict[str, Any]:
    """The checked content of a configuration file; `set` and `over` map field names to what the file gives.

    Raises WrongInput in one line, with the file's line if it is known.
    """
    try:
        content = _parsed(_text(path))
        return _checked({} if content is None else content)
    except WrongInput as error:
        raise WrongInput(f"--config {path}: {error}") from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: an impossible file name
        raise WrongInput(f"{getattr(error, 'strerror', None) or error}; give a YAML file that can be read") from None
    if len(content) > LARGEST_BYTES:
        raise WrongInput(f"more than {LARGEST_BYTES // 2**20} MiB; that is not the configuration of a sweep")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise WrongInput("this is not a text in UTF-8; give a YAML file") from None


def _parsed(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # _Loader is a SafeLoader  # nosec B506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f"line {mark.line + 1}: "
        raise WrongInput(f"{where}{getattr(error, 'problem', None) or error}; write YAML") from None
    except Exception as error:  # PyYAML's constructors raise anything for a malformed date, number or tag
        raise WrongInput(f"not YAML that can be read ({type(error).__name__}: {error})") from None


def _checked(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise WrongInput(f"holds {_kind(content)} instead of `key: value` lines; allowed keys: {', '.join(KINDS)}")
    for key, value in content.items():
        if key not in KINDS:
            raise unknown_name("key", str(key), KINDS)
        kind, words = KINDS[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise WrongInput(f"{key} is {_kind(value)}; give {words}")
    for key in ("set", "over"):
        for name, value in content.get(key, {}).items():
            if not isinstance(name, str):
                raise WrongInput(f"{key}: {_kind(name)} is not a field's name; give {KINDS[key][1]}")
            if key == "over" and not isinstance(value, list):
                raise WrongInput(f"over: {name} is {_kind(value)}; give {KINDS[key][1]}")
            _check_value(f"{key}: {name}", value)
    return content


def _check_value(where: str, value: Any, depth: int = 0) -> None:
    if isinstance(value, list) and depth == DEEPEST:
        raise WrongInput(f"{where} holds lists in lists in lists; give numbers, names or lists of them")
    if isinstance(value, list):
        for item in value:
            _check_value(where, item, depth + 1)
    elif not isinstance(value, str | int | float | None):
        raise WrongInput(f"{where} holds {_kind(value)}; give numbers, names, true, false, null or lists of them")


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", type(None): "empty"}
    numbers = {int: "a number", float: "a number"}
    return (names | numbers).get(type(value), f"of kind {type(value).__name__}")


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
