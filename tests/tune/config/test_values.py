"""A text means the same under `set` and `over` of a file as with --set and --over, for every kind of field."""

from __future__ import annotations

import json
import math
import string
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tune.commands.sweep import parser
from tune.common.errors import WrongInput
from tune.config.names import NAMED
from tune.config.request import Request, build_request
from tune.config.trial_config import FIELDS, GROUPS, SEED_STUDY_ONLY
from tune.config.values import checked, parse_value
from tune.config.yaml_file import read_config, write_config
from tune.config.yaml_nodes import Scalar, parse_yaml

REFUSED = "refused"


def _asked(*arguments: str) -> Request:
    return build_request(parser().parse_args(["--sweep", "custom", *arguments]))


def _typed(option: str, name: str, text: str) -> Any:
    """What a text on the command line gives, and REFUSED if it is refused."""
    try:
        request = _asked(f"--{option}", f"{name}={text}")
    except WrongInput:
        return REFUSED
    return request.overrides[name] if option == "set" else request.axes[name][0]


def _filed(option: str, name: str, text: str, folder: Path) -> Any:
    """The same of a file."""
    file = folder / "x.yaml"
    file.write_text(f"{option}:\n  {name}: {text if option == 'set' else f'[{text}]'}\n")
    try:
        request = _asked("--config", str(file))
    except WrongInput:
        return REFUSED
    return request.overrides[name] if option == "set" else request.axes[name][0]


RATE, WHOLE, BOOL = "train.learning_rate", "train.batch_size", "model.pre_norm"
NONE, TEXT = "train.patience", "data.time_format"
# (field, text as a person writes it) -> value
WRITTEN: dict[tuple[str, str], Any] = {
    # real numbers
    (RATE, "1e-4"): 1e-4, (RATE, "1E-4"): 1e-4, (RATE, "1.0e-4"): 1e-4, (RATE, "0.0001"): 1e-4, (RATE, "+1e-4"): 1e-4,
    (RATE, ".5"): 0.5, (RATE, "5."): 5.0, (RATE, "+.5"): 0.5, (RATE, "5e-1"): 0.5, (RATE, "1"): 1, (RATE, "+1"): 1,
    (RATE, "1_0.0_1e-1"): 1.001, (RATE, '"1e-4"'): 1e-4, (RATE, "'1e-4'"): 1e-4, (RATE, "1e+0"): 1.0,
    (RATE, "inf"): REFUSED, (RATE, ".inf"): REFUSED, (RATE, "-.INF"): REFUSED, (RATE, "Infinity"): REFUSED,
    (RATE, "nan"): REFUSED, (RATE, ".NaN"): REFUSED, (RATE, "1e400"): REFUSED, (RATE, "1e-999"): REFUSED,
    (RATE, "0,5"): REFUSED, (RATE, "1e"): REFUSED, (RATE, "e-4"): REFUSED, (RATE, "1e-4f"): REFUSED,
    (RATE, "10%"): REFUSED, (RATE, "yes"): REFUSED, (RATE, "true"): REFUSED, (RATE, "null"): REFUSED,
    (RATE, "1:30"): REFUSED, (RATE, "01e-4"): REFUSED, (RATE, "00.5"): REFUSED, (RATE, "1 e-4"): REFUSED,
    # whole numbers
    (WHOLE, "64"): 64, (WHOLE, "+64"): 64, (WHOLE, "6_4"): 64, (WHOLE, "0x40"): 64, (WHOLE, "0o100"): 64,
    (WHOLE, "0b1000000"): 64, (WHOLE, "64.0"): 64, (WHOLE, "6.4e1"): 64, (WHOLE, "1e3"): 1000, (WHOLE, '"64"'): 64,
    (WHOLE, "010"): REFUSED, (WHOLE, "0_10"): REFUSED, (WHOLE, "1:30"): REFUSED, (WHOLE, "1:30:00"): REFUSED,
    (WHOLE, "64.5"): REFUSED, (WHOLE, "-64"): REFUSED, (WHOLE, "2024-01-01"): REFUSED, (WHOLE, "on"): REFUSED,
    (WHOLE, "False"): REFUSED, (WHOLE, "~"): REFUSED, (WHOLE, "6__4"): REFUSED, (WHOLE, "64k"): REFUSED,
    (WHOLE, "[64]"): REFUSED, (WHOLE, "9" * 5000): REFUSED, (WHOLE, "\u0666\u0664"): REFUSED, (WHOLE, ""): REFUSED,
    # true and false
    **{(BOOL, text): True for text in ("true", "True", "TRUE", "yes", "Yes", "on", "ON", "y", '"true"', "1")},
    **{(BOOL, text): False for text in ("false", "False", "no", "NO", "off", "n", "'no'", "0")},
    **{(BOOL, text): REFUSED for text in ("2", "maybe", "null", "[true]", "1:30", "")},
    # null
    **{(NONE, text): None for text in ("null", "Null", "NULL", "~")}, (NONE, "3"): 3, (NONE, "3.0"): 3,
    **{(NONE, text): REFUSED for text in ("none", "None", '"null"', "'~'", "", "no", "nil")},
    # texts, which YAML 1.1 would read as something else
    **{
        (TEXT, text): text
        for text in (
            "2024", "1e4", "010", "1:30", "2024-01-01", "yes", "no", "on", "off", "y", "true", "False", "inf", ".nan",
            "0x10", "1_000", "none", "nil", "a b", "s", "caf\u00e9", "=", "3.10", "+3", "a=b", "a:b",
        )
    },
    (TEXT, "null"): None, (TEXT, "~"): None, (TEXT, '"null"'): "null", (TEXT, "'~'"): "~", (TEXT, '"2024"'): "2024",
    (TEXT, r'"\ud83c\udf0a\t"'): "\U0001f30a\t", (TEXT, '"%d.%m.%Y"'): "%d.%m.%Y", (TEXT, ""): REFUSED,
    (TEXT, '""'): "",
    ("data.separator", "~"): REFUSED, ("data.separator", '"~"'): "~", ("data.separator", "null"): None,
    # lists
    ("pruning.heads", "[4, 8]"): [4, 8], ("pruning.heads", "[ +4, 0x8 ,]"): [4, 8], ("pruning.heads", "[4.0]"): [4],
    ("pruning.heads", '["4"]'): [4], ("pruning.heads", "[]"): [],
    **{("pruning.heads", text): REFUSED for text in ("4", "[1.2]", "[a]", "[true]", "[null]", "[[1]]", "[010]", "all")},
    ("data.columns", "[load, 2024, 1e4, no]"): ["load", "2024", "1e4", "no"], ("data.columns", "load"): ["load"],
    ("data.columns", "load, 2024"): ["load", "2024"], ("data.columns", '["a,b", "c"]'): ["a,b", "c"],
    ("data.columns", "010"): ["010"], ("data.columns", "null"): REFUSED, ("data.columns", "[[a]]"): REFUSED,
    # names
    ("model.attention", "flash"): "flash", ("model.attention", "no"): REFUSED, ("train.precision", "bf16"): "bf16",
    ("train.precision", "16"): REFUSED, ("data.decimal", "."): ".", ("data.decimal", '","'): ",",
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), WRITTEN, ids=lambda text: text[:24])
def test_a_text_gives_the_same_value_in_a_file_and_on_the_command_line(name: str, text: str, tmp_path: Path) -> None:
    value = WRITTEN[name, text]
    typed, filed = _typed("set", name, text), _filed("set", name, text, tmp_path)
    assert (typed, filed) == (value, value) and type(typed) is type(filed) is type(value)


@pytest.mark.parametrize(
    ("name", "text"), [given for given in WRITTEN if not given[0].startswith("data.")], ids=lambda text: text[:24]
)
def test_a_value_of_an_axis_is_read_as_one_that_is_set(name: str, text: str, tmp_path: Path) -> None:
    value = WRITTEN[name, text] if "," not in text or text.startswith("[") else REFUSED
    assert (_typed("over", name, text), _filed("over", name, text, tmp_path)) == (value, value)


OF_EACH_KIND = [RATE, WHOLE, BOOL, NONE, TEXT, "pruning.heads", "data.columns", "train.precision", "model.attention"]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(OF_EACH_KIND),
    text=st.text("0123456789+-._eExXob:~infaNuletrysLT ", min_size=1, max_size=7) | st.text(string.printable),
)
def test_whatever_yaml_takes_for_one_word_means_the_same_on_both_ways(name: str, text: str, tmp_path: Path) -> None:
    try:
        node = parse_yaml(f"a: {text}\n")
        word = node.pairs["a"]  # type: ignore[union-attr]
    except (WrongInput, AttributeError, KeyError):
        return
    if isinstance(word, Scalar) and not word.quoted and word.text == text:
        assert _typed("set", name, text) == _filed("set", name, text, tmp_path)


def _values(name: str) -> st.SearchStrategy[Any]:
    """Values that a field may have, by its type."""
    group, field = name.split(".", 1)
    info = GROUPS[group].model_fields[field]
    kind = info.annotation
    if name in NAMED:
        return st.sampled_from([*NAMED[name][1], *NAMED[name][2]])
    if name == "model.attention":
        return st.sampled_from(["auto", "eager", "vanilla", "flash"])
    if name == "data.split":
        return st.sampled_from([None, "0.6/0.2/0.2", "2021-06-01/2021-09-01", "/a/val.csv,/b/test.csv"])
    if get_origin(kind) is tuple:
        return st.lists(st.integers(-9, 99) if get_args(kind)[0] is int else st.text(_LETTERS, max_size=6), max_size=3)
    if kind in (int, float):
        low, high = 0 if kind is float else 1, 0.99
        return st.floats(low + 1e-300, high) if kind is float else st.integers(2, 128)
    if kind is bool:
        return st.booleans()
    words = [word for part in (kind, *get_args(kind)) for word in get_args(part) if isinstance(word, str)]
    words += [word for word in get_args(kind) if isinstance(word, str)]
    values: st.SearchStrategy[Any] = st.sampled_from(words) if words else st.text(_LETTERS, max_size=8)
    values = st.integers(1, 99) if int in get_args(kind) else values
    values = st.floats(1e-300, 0.99) if float in get_args(kind) else values
    return values | st.none() if type(None) in get_args(kind) else values


_LETTERS = st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\t\n ,:#'\"[]{}&*!|>%@`-?~0123456789eE.+_")
CAN_BE_SET = [name for name in FIELDS if name not in SEED_STUDY_ONLY | {"data.dataset"}]
SETTINGS = st.fixed_dictionaries({}, optional={name: _values(name) for name in CAN_BE_SET})


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=SETTINGS, epochs=st.none() | st.integers(1, 99), seed=st.integers(0, 2**31 - 1), rates=st.sets(
    st.floats(1e-300, 10), max_size=3))  # fmt: skip
def test_a_saved_configuration_read_again_is_the_same_request(
    fields: dict[str, Any], epochs: int | None, seed: int, rates: set[float], tmp_path: Path
) -> None:
    fields = {name: value for name, value in fields.items() if name not in ("train.epochs", RATE)}
    over = {"over": {RATE: sorted(rates)}} if rates else {}
    given_epochs = {} if epochs is None else {"epochs": epochs}
    write_config(tmp_path / "a.yaml", {"sweep": "custom", **given_epochs, "seed": seed, "set": fields, **over})
    once = _asked("--config", str(tmp_path / "a.yaml"))
    assert {name: once.overrides[name] for name in fields} == fields
    write_config(tmp_path / "b.yaml", once.as_config())
    again = _asked("--config", str(tmp_path / "b.yaml"))
    assert again.as_config() == once.as_config()
    assert (again.sweep, again.overrides, again.axes, again.seed) == (once.sweep, once.overrides, once.axes, once.seed)
    assert read_config(tmp_path / "b.yaml").content == once.as_config() | {"sweep": "custom"}


@settings(max_examples=150, deadline=None)
@given(fields=SETTINGS)
def test_every_value_can_be_written_as_json_on_the_command_line(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        given_value = checked(name, parse_value(name, json.dumps(value)))
        assert given_value == value or (isinstance(value, float) and math.isclose(given_value, value))
