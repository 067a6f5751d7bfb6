"""Any arguments, as hypothesis draws them, end in a plan or in one line. Nothing here starts Ray."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wrong_input_kit import enter

from tune.commands.main import main
from tune.common.errors import DONE, WRONG_INPUT
from tune.config.sweeps import SWEEPS

DEMO = ["--dataset", "demo"]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


PIECES = st.sampled_from(
    [
        "--sweep", "--dataset", "--epochs", "--set", "--over", "--seed", "--repeats", "--trials", "--config", "--json",
        "--save-config", "--gpu-model", "--gpus-per-trial", "--max-concurrent", "--quiet", "--fresh", "--plan",
        *SWEEPS, "demo", "ETTh1", "H100", "T4", "1", "0", "-1", "3", "1e9", "nan", "", "-", "--", "=", "file", "folder",
        "none", "list.yaml", "unknown.yaml", "train.epochs=3", "train.epochs=1,2", "model.attention=auto",
        "model.patch_length=24", "model.d_model=[1,2]", "model.preset=ettm", "pruning.heads=[1],[2,3]", "x=",
        "data.feed=arrow", "data.num_workers=2", "train.precision=fp16", "a.b=c",
        "train.schedule=one_cycle", "pruning.score=taylor",
    ]
)  # fmt: skip
TEXTS = st.text(max_size=6).filter(lambda text: "/" not in text and text not in ("-h", "--help"))
BASES = st.sampled_from([[], *(["--sweep", name, *DEMO] for name in ("custom", "pruning", "full", "attention"))])


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=BASES, rest=st.lists(PIECES | TEXTS, max_size=8))
def test_no_arguments_make_a_plan_end_otherwise_than_done_or_in_one_line(base: list[str], rest: list[str]) -> None:
    for name in ("1", "0", "-1", "3", "1e9", "nan", "none", "demo"):  # what an earlier example wrote
        with contextlib.suppress(OSError):
            os.remove(name)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*base, *rest, "--plan"])
    assert code in (DONE, WRONG_INPUT)
    errors = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err.getvalue()
    assert len(errors) == (code == WRONG_INPUT)
