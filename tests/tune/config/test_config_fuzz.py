"""Any file, as hypothesis writes it, given as --config ends in a plan or in one line. Nothing here starts Ray."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wrong_input_kit import enter

from tune.commands.main import main
from tune.common.errors import DONE, WRONG_INPUT
from tune.config.trial_config import FIELDS
from tune.config.yaml_file import KINDS

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


def _ends_well(content: bytes, *arguments: str) -> int:
    """The exit code of a plan of this file, whose answer is a plan or one line and which leaves all as it was."""
    Path("x.yaml").write_bytes(content)
    before = sorted(Path().rglob("*"))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["--config", "x.yaml", *arguments, "--plan"])
    said = err.getvalue().splitlines()
    assert code in (DONE, WRONG_INPUT)
    errors = [line for line in said if line.startswith("error: ")]
    assert len(errors) == (code == WRONG_INPUT) and all(len(line) < 2500 for line in said), said
    assert "Traceback" not in err.getvalue() and sorted(Path().rglob("*")) == before
    assert (out.getvalue() != "") == (code == DONE) or "no trial of this plan can run" in errors[0]
    return code


# Texts as they stand in a file: numbers, what is nearly one, what YAML gives a meaning, what belongs in no file.
_WORDS = """
1 2 3 64 1e-4 1E-3 .5 +3 1_6 0x10 010 1:30 1e400 -1 0 1.5 .inf .nan inf 2024-01-01 2001-12-14t21:59:43.10-05:00 yes no
on off true False null ~ none "3" '3' 'null' "\u0041" é 波 🌊 custom pruning full demo eager flash bf16 static taylor
fp32 x.csv * & ! % @ ` | > - ? : # , [ ] { } << = !!int !!str !!python/name:os.system !!binary &a *a --- ... %YAML"""
WORDS = st.sampled_from(_WORDS.split()) | st.text(max_size=5)
NAMES = st.sampled_from(
    [*KINDS, *FIELDS, "lr", "learning_rate", "model", "d_model", "swep", "<<", "Set", "model.d_modle"]
)
PLAIN = st.none() | st.booleans() | st.integers(-2, 70) | st.floats() | st.dates() | st.binary(max_size=3) | WORDS
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=3)
)
SWEEPS = st.fixed_dictionaries(
    {},
    optional={
        "sweep": st.sampled_from(["custom", "pruning", "atention"]),
        "dataset": st.just("demo"),
        "set": st.dictionaries(NAMES, PLAIN, max_size=3) | TREES,
        "over": st.dictionaries(NAMES, st.lists(PLAIN | st.lists(PLAIN, max_size=2), max_size=3), max_size=2) | TREES,
        "repeats": st.integers(0, 2) | TREES,
        "epochs": TREES,
        "swep": TREES,
    },
)


def _as_json(tree: Any) -> str:
    return json.dumps(tree, indent="\t", default=str)


def _as_yaml(tree: Any) -> str:
    return yaml.dump(tree, allow_unicode=True, sort_keys=False)


def _as_flow(tree: Any) -> str:
    return yaml.dump(tree, default_flow_style=True, width=20)


WRITERS = st.sampled_from([_as_json, _as_yaml, _as_flow])
ENCODINGS = st.sampled_from(
    ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "utf-7"]
)
NEWLINES = st.sampled_from(["\n", "\n", "\r\n", "\r", "\x85", "\u2028"])


@QUICK
@given(tree=SWEEPS | TREES, write=WRITERS, encoding=ENCODINGS, newline=NEWLINES)
def test_every_structure_in_every_form_ends_in_a_plan_or_one_line(
    tree: Any, write: Any, encoding: str, newline: str
) -> None:
    """The writers refer to equal values by anchor and alias, and write dates, bytes and texts with tags."""
    _ends_well(write(tree).replace("\n", newline).encode(encoding, errors="replace"))


@QUICK
@given(
    fields=st.lists(st.tuples(NAMES, WORDS), max_size=3),
    axes=st.lists(st.tuples(NAMES, st.lists(WORDS, max_size=3)), max_size=2),
    others=st.lists(st.tuples(NAMES, WORDS), max_size=2),
    indent=st.sampled_from(["  ", "    ", "\t", " ", ""]),
)
def test_every_text_written_by_hand_ends_in_a_plan_or_one_line(
    fields: Any, axes: Any, others: Any, indent: str
) -> None:
    lines = ["sweep: custom", "dataset: demo", *(f"{name}: {word}" for name, word in others)]
    lines += ["set:", *(f"{indent}{name}: {word}" for name, word in fields)] if fields else []
    lines += ["over:", *(f"{indent}{name}: [{', '.join(words)}]" for name, words in axes)] if axes else []
    _ends_well("\n".join(lines).encode(errors="replace"))


GOOD = _as_yaml({
    "sweep": "custom", "dataset": "demo", "epochs": 3, "set": {"model.d_model": 32, "train.patience": None},
    "over": {"train.learning_rate": [1e-4, 1e-3], "train.precision": ["fp32", "bf16"]},
})  # fmt: skip


@QUICK
@given(at=st.integers(0, len(GOOD)), cut=st.integers(0, 4), put=WORDS | st.sampled_from("\t\n\0\a\x85\ufeff\ud800"))
def test_every_slip_of_the_hand_in_a_good_file_ends_in_a_plan_or_one_line(at: int, cut: int, put: str) -> None:
    _ends_well((GOOD[:at] + put + GOOD[at + cut :]).encode(errors="surrogatepass"))


@QUICK
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_every_content_ends_in_a_plan_or_one_line(content: bytes) -> None:
    _ends_well(content, "--sweep", "custom", "--dataset", "demo")


def test_the_file_that_the_others_change_is_good() -> None:
    assert _ends_well(GOOD.encode()) == DONE
