"""Values as people write them: a text means the same in a configuration file and on the command line.

A field of texts takes what is written: 2024, 1e4, 010, no and 2024-01-01 are texts there. Other fields read numbers
(1e-4, 1E-4, .5, +3, 1_000, 0x10), true and false, null, and lists in brackets. A null in quotes is a text.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tune.common.errors import WrongInput
from tune.config.names import check_name
from tune.config.trial_config import GROUPS, check_field, check_no_bool, in_words, is_text
from tune.config.written_numbers import number_or_text, without_fraction
from tune.config.yaml_nodes import Items, Node, Pairs, Scalar, parse_yaml

_NULL = ("null", "Null", "NULL", "~", "")
_TRUTH = {"true": True, "false": False}
_SWITCH = {"yes": True, "no": False, "on": True, "off": False}


def parse_value(name: str, text: str) -> Any:
    """The value that a text of the command line gives the field `name`.

    Raises WrongInput for a text that can be read in two ways. Its type is not checked: see `checked`.
    """
    if text == "":
        raise WrongInput(f"{name}='': a value is missing; write {name}=VALUE, or null for none")
    return value_of(name, _as_node(text, lists=not is_text(name)))


def _as_node(text: str, *, lists: bool) -> Node:
    """A text in quotes or brackets, read as in a file; any other as it is."""
    if text[0] in ("\"'[{" if lists else "\"'"):
        try:
            node = parse_yaml(text)
        except WrongInput:
            node = None
        if node is not None and (not isinstance(node, Scalar) or node.quoted):
            return node
    return Scalar(text=text.strip() if lists else text, quoted=False, line=1)


def value_of(name: str, node: Node) -> Any:
    """The value that `node` gives the field `name`. Raises WrongInput as `parse_value` does."""
    group, field = check_field(name).split(".", 1)
    kind = GROUPS[group].model_fields[field].annotation
    if isinstance(node, Scalar) and _is_null(node):
        if node.text == "~" and name == "data.separator":
            raise WrongInput(f"{name}=~ means null in YAML; write null, or '\"~\"' for the letter")
        return None
    if is_text(name) and isinstance(node, Scalar):
        return node.text
    try:
        if get_origin(kind) is tuple and get_args(kind)[0] is str:
            return _names(node)
        value = _plain(node)
    except WrongInput as error:
        raise WrongInput(f"{name}: {error}") from None
    if kind is bool and isinstance(value, str):
        return _SWITCH.get(value.lower(), value)
    return value if kind is float else without_fraction(value)


def _is_null(node: Scalar) -> bool:
    return not node.quoted and node.text in _NULL


def _names(node: Node) -> list[str]:
    if isinstance(node, Scalar):
        return [part.strip() for part in node.text.split(",")]
    scalars = node.items if isinstance(node, Items) else [node]
    if not all(isinstance(item, Scalar) for item in scalars):
        raise WrongInput("a list or mapping stands where a name has to be; give names in one list")
    return [item.text for item in scalars if isinstance(item, Scalar)]


def _plain(node: Node) -> Any:
    if isinstance(node, Items):
        return [_plain(item) for item in node.items]
    if isinstance(node, Pairs):
        return {key: _plain(item) for key, item in node.pairs.items()}
    if _is_null(node):
        return None
    if not node.quoted and node.text.lower() in _TRUTH:
        return _TRUTH[node.text.lower()]
    return number_or_text(node.text)


def checked(name: str, value: Any) -> Any:
    """`value` as the field `name` has it. Raises WrongInput, in one line, if no configuration can have it there.

    A whole number stays one in a field of real numbers: names of arms are made of values as they were written.
    """
    if isinstance(value, str):
        check_name(name, value)
    check_no_bool(name, value)
    try:
        fits = _adapter(name).validate_python(value)
    except ValidationError as error:
        raise WrongInput(in_words(error, of=name)) from None
    return fits if isinstance(fits, bool) or (isinstance(value, str) and not isinstance(fits, str | tuple)) else value


def check_value(name: str, value: Any, *, given: str) -> None:
    """Raises WrongInput for a value that does not fit the field; `given` is the user's word for the field."""
    try:
        _adapter(name).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        text = first["msg"].removeprefix("Value error, ")
        own = first["type"] == "value_error"  # our own line, which says what was given
        raise WrongInput(text if own else f"{given} {value}: {text[0].lower()}{text[1:]}") from None


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    group, field = check_field(name).split(".", 1)
    info = GROUPS[group].model_fields[field]
    kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
