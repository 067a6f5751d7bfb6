"""`report SWEEP_ID --out DIR`: Markdown, page and pictures, complete or not at all."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from html import escape
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report_kit import sweep, trial

from tune.commands import report
from tune.commands.report import parser as report_parser
from tune.common.errors import WrongInput
from tune.console import output
from tune.measure.bottleneck import PARTS
from tune.report.arms import arm_rows, trials_by_arm
from tune.report.charts import Chart, charts
from tune.report.render.files import report_files
from tune.report.render.picture import png, svg
from tune.report.render.scales import TICK_PX, cut, error_scale, ratio_scale
from tune.tracking.reader import SweepRecord

ROOT = Path(__file__).resolve().parents[4]
EPOCHS = 10
MOST_BYTES = 60_000
KEYS = ("answer", "pareto", "difference", "validation", "training", "times")


def _record(arms: int = 3, seeds: int = 3) -> SweepRecord:
    """Each arm is faster than the one before, with curves and all parts of its time."""
    trials = []
    for number in range(arms):
        s = 2 / (1 + number)
        history = {f"time/{part}_s": [s / len(PARTS)] * EPOCHS for part in PARTS}
        for seed in range(1, seeds + 1):
            curve = [0.3 + number / 100 + seed / 1000 + 1 / epoch for epoch in range(1, EPOCHS + 1)]
            errors = {"loss/val_mse": curve, "loss/train_mse": [2 * mse for mse in curve]}
            metrics = {"final/train_total_s": 10 * s + seed / 10, "final/val_mse": 0.3 + number / 100}
            arm = f"arm-{number} $x_1$ <b>&"
            trials.append(trial(arm, seed, s=s + seed / 100, metrics=metrics, history={**history, **errors}))
    return sweep(*trials, baseline="arm-0 $x_1$ <b>&", swept="train.batch_size")


def _charts(record: SweepRecord) -> dict[str, Chart]:
    return {chart.key: chart for chart in charts(arm_rows(record), trials_by_arm(record))}


def _colours(picture: bytes) -> set[tuple[int, int, int]]:
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    return {colour for _, colour in image.getcolors(1 << 20) or ()}


@pytest.fixture(scope="module", name="files")
def files_fixture() -> dict[str, Any]:
    return dict(report_files(_record()))


def test_there_is_a_picture_of_each_chart_and_the_markdown_shows_it(files: dict[str, Any]) -> None:
    assert set(files) == {"report.md", "report.html", *(f"png/{key}.png" for key in KEYS)}
    assert re.findall(r"\]\((.*?)\)", files["report.md"]) == [f"png/{key}.png" for key in KEYS]


@pytest.mark.parametrize("key", KEYS)
def test_a_picture_is_a_small_png_in_the_colours_of_the_chart(files: dict[str, Any], key: str) -> None:
    picture = files[f"png/{key}.png"]
    assert picture.startswith(b"\x89PNG") and len(picture) < MOST_BYTES
    # of a faster arm with an undecided error, or of the third arm, or the first part of an epoch
    wanted = {"answer": (0x9A, 0x4F, 0x86), "times": (0, 0x72, 0xB2)}.get(key, (0, 0x9E, 0x73))
    assert min(sum(abs(a - b) for a, b in zip(wanted, colours, strict=True)) for colours in _colours(picture)) < 12


def test_the_picture_with_most_lines_of_a_large_sweep_is_small_too() -> None:
    assert len(png(_charts(_record(arms=24, seeds=5))["validation"])) < 2 * MOST_BYTES


@pytest.mark.parametrize("narrow", [False, True])
def test_the_page_and_the_picture_say_the_same_words(narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[str] = []
    real = Axes.text

    def text(self: Axes, x: float, y: float, s: str, **look: Any) -> Any:
        drawn.append(s)
        return real(self, x, y, s, **look)

    monkeypatch.setattr(Axes, "text", text)
    chart = _charts(_record())["answer"]
    png(chart)
    of_png, drawn[:] = set(drawn), []
    shown = svg(chart, narrow=narrow)
    assert {"1.97x", "2.94x", "▲ faster, error undecided"} & of_png and all(escape(words) in shown for words in drawn)
    assert re.search(r"arm-1 \$x_1\$ &lt;b&gt;&amp;", shown) and shown.startswith("<svg viewBox=")


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    assert cut("patch-192-batch-128-none", 11) == "patch…-none" and cut("short", 11) == "short"


@pytest.mark.parametrize("ratios", [(0.5, 2.0), (1.001, 1.002), (0.02, 90.0), (1.0, 1.0)])
def test_a_scale_of_ratios_holds_all_of_them_and_1_and_has_ticks_with_room_between(ratios: tuple[float, float]) -> None:
    scale = ratio_scale(ratios, 10, 410, before=50, after=50)
    assert all(10 <= scale(value) <= 410 for value in (*ratios, 1.0)) and 1.0 in scale.ticks
    places = [scale(value) for value in scale.ticks]
    assert all(after - before >= TICK_PX for before, after in pairwise(places))


@pytest.mark.parametrize("errors", [(0.0,), (-0.04, 0.045), (0.0001, 3.0)])
def test_a_scale_of_errors_holds_all_of_them_the_margin_and_0_with_room_between_ticks(errors: Any) -> None:
    scale = error_scale(errors, 0.01, 592, 722)
    assert all(592 <= scale(value) <= 722 for value in (*errors, 0.01)) and 0.0 in scale.ticks
    places = [scale(value) for value in scale.ticks]
    assert all(after - before >= TICK_PX for before, after in pairwise(places))


def test_without_matplotlib_the_pictures_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(WrongInput, match="matplotlib, which is not installed: pip install -r requirements.txt"):
        report_files(_record())


def test_a_chart_without_data_leaves_no_picture_and_no_link_also_not_of_an_earlier_report(tmp_path: Path) -> None:
    output.write_folder(str(tmp_path), report_files(_record()))
    assert (tmp_path / "png" / "answer.png").exists()
    files = report_files(sweep(trial("none", status="oom", reason="no memory")))
    output.write_folder(str(tmp_path), files)
    assert list((tmp_path / "png").iterdir()) == []
    assert "png/" not in (tmp_path / "report.md").read_text()


def test_the_command_writes_the_folder_with_the_price_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tune.tracking import reader

    record = _record()
    monkeypatch.setattr(reader, "read_sweep", lambda *_: record)
    folder = tmp_path / "out"
    arguments = report_parser().parse_args(["s", "--out", str(folder), "--price-per-gpu-hour", "2 EUR"])
    assert report.run(arguments) == 0
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*")) == sorted(
        ["report.html", "report.md", *(f"png/{key}.png" for key in KEYS)]
    )
    for name in ("report.md", "report.html"):
        assert "cost, EUR" in (folder / name).read_text()
    assert "Cost:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("none/out", "there is no folder none"),
        ("file", "not a folder"),
        ("file/out", "there is no folder file"),
        ("", "not a folder"),
        ("-", "not a folder"),
    ],
)
def test_a_folder_that_cannot_be_written_is_wrong_input(
    target: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(WrongInput, match=re.escape(f"--out {target}: {problem}; name a folder")):
        output.check_out_target(target)
    given = SimpleNamespace(json=None, html=None, csv=None, out=target)
    with pytest.raises(WrongInput, match=re.escape(problem)):  # before the store is asked
        report.run(given)  # type: ignore[arg-type]


def test_a_folder_may_exist_or_be_new(tmp_path: Path) -> None:
    for target in (None, str(tmp_path), str(tmp_path / "new"), f"{tmp_path / 'new'}/"):
        output.check_out_target(target)


def test_a_folder_that_is_lost_in_the_end_is_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(WrongInput, match="--out .*out: (Not a directory|File exists)"):
        output.write_folder(str(tmp_path / "out"), {"report.md": "text"})


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [("--out", "none/x", "--out none/x: there is no folder none"), ("--price-per-gpu-hour", "much", "give a number")],
)
def test_wrong_input_is_one_line_and_exit_code_2(option: str, value: str, problem: str, tmp_path: Path) -> None:
    program = [sys.executable, str(ROOT / "experiments.py"), "report", "any", option, value]
    ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert ran.stderr.startswith("error: ") and problem in ran.stderr
