"""`report SWEEP_ID --out DIR`: Markdown, page and pictures, complete or not at all."""

from __future__ import annotations

import io
import re
import subprocess
import sys
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
from tune.report.render.png import png
from tune.tracking.reader import SweepRecord

ROOT = Path(__file__).resolve().parents[4]
EPOCHS = 10
MOST_BYTES = 60_000
KEYS = ("speed", "total", "pareto", "curves", "training", "times")


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
    wanted = (0, 0x9E, 0x73)  # of the third arm, or the third part of an epoch
    assert min(sum(abs(a - b) for a, b in zip(wanted, colours, strict=True)) for colours in _colours(picture)) < 12


def test_the_picture_with_most_lines_of_a_large_sweep_is_small_too() -> None:
    assert len(png(_charts(_record(arms=24, seeds=5))["curves"])) < MOST_BYTES


def test_a_picture_has_its_points_and_error_bars_where_the_chart_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[tuple[Any, Any, Any]] = []
    real = Axes.errorbar

    def errorbar(self: Axes, x: Any, y: Any, **look: Any) -> Any:
        drawn.append((x, y, look["xerr"]))
        return real(self, x, y, **look)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    chart = _charts(_record())["total"]
    png(chart)
    errors = [trace["error_x"] for trace in chart.data]
    assert [x for x, _, _ in drawn] == [trace["x"] for trace in chart.data]
    assert [y for _, y, _ in drawn] == [[1], [0]]  # the first name on top
    assert [reach for _, _, reach in drawn] == [[error["arrayminus"], error["array"]] for error in errors]


def test_a_picture_of_ratios_has_each_with_its_interval_in_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    written: list[tuple[str, Any]] = []
    monkeypatch.setattr(Axes, "annotate", lambda self, text, point, *_, **__: written.append((text, tuple(point))))
    chart = _charts(_record())["speed"]
    png(chart)
    assert written == [(trace["text"][0], (trace["x"][0], row)) for trace, row in zip(chart.data, (1, 0), strict=True)]
    assert re.fullmatch(r"1\.9\dx \(1\.\d\d-\d\.\d\d\)", written[0][0])


def test_the_axis_of_ratios_leaves_room_for_the_text_over_its_outermost_points() -> None:
    chart = _charts(_record())["speed"]
    low, high = chart.layout["xaxis"]["range"]
    last = chart.data[-1]
    reach = last["x"][0] + last["error_x"]["array"][0]
    assert low == pytest.approx(1 - 0.12 * (reach - 1)) and high == pytest.approx(reach + 0.12 * (reach - 1))


@pytest.mark.parametrize(("errors", "axis"), [((0.3, 0.3003), [0.2971485, 0.3031515]), ((0.3, 0.4), None)])
def test_errors_that_count_as_equal_do_not_look_far_apart(errors: tuple[float, float], axis: Any) -> None:
    arms = zip(("none", "fast"), errors, strict=True)
    chart = _charts(sweep(*(trial(arm, metrics={"final/val_mse": mse}) for arm, mse in arms)))["pareto"]
    assert chart.layout["yaxis"].get("range") == (axis and pytest.approx(axis))
    assert png(chart)


def test_no_two_arms_of_the_scatter_look_alike() -> None:
    chart = _charts(_record(arms=14, seeds=1))["pareto"]
    looks = [(trace["marker"]["color"], trace["marker"]["symbol"]) for trace in chart.data if "marker" in trace]
    assert len(looks) == len(set(looks)) == 14
    assert png(chart)


def test_without_matplotlib_the_pictures_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(WrongInput, match="matplotlib, which is not installed: pip install -r requirements.txt"):
        report_files(_record())


def test_a_chart_without_data_leaves_no_picture_and_no_link_also_not_of_an_earlier_report(tmp_path: Path) -> None:
    output.write_folder(str(tmp_path), report_files(_record()))
    assert (tmp_path / "png" / "speed.png").exists()
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
    given = SimpleNamespace(json=None, html=None, out=target)
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
