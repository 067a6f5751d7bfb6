"""A configuration file that is wrong: one line that says where and what, whatever the file holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tune.commands.main import main
from tune.common.errors import DONE, WRONG_INPUT, WrongInput
from tune.config.trial_config import FIELDS
from tune.config.yaml_file import KINDS, read_config, write_config
from tune.config.yaml_nodes import DEEPEST, MOST_VALUES

GOOD = "sweep: custom\ndataset: demo\n"


def _answer(content: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a plan of this file ends, without its beginning."""
    file = folder / "x.yaml"
    file.write_text(content)
    assert main(["--config", str(file), "--plan"]) == WRONG_INPUT
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert said.out == "" and len(line) < 1500 and [path.name for path in folder.iterdir()] == ["x.yaml"]
    start = f"error: --config {file}: "
    assert line.startswith(start), line
    return line.removeprefix(start)


# what the file holds -> the beginning of the answer
BROKEN = {
    # no YAML, or YAML that says something else than it seems
    "sweep: [pruning": "line 1: a bracket has no end",
    'sweep: "pruning\n': "line 2: a text in quotes has no end",
    "sweep: a: b": "line 1: a `: ` where none can be",
    "sweep: custom\n  dataset: demo": "line 2: a `: ` where none can be; indent the fields of one key alike",
    "set:\n  train.epochs: 1\n model.d_model: 2": "line 3: the indentation does not fit",
    "set:\n\ttrain.epochs: 1": "line 2: a tab stands where the line begins; indent with spaces",
    "sweep: @custom": "line 1: a value begins with a letter that has a meaning in YAML; put it in quotes",
    "dataset: *.csv": "line 1: '*' and '&' have a meaning in YAML",
    "sweep:custom\ndataset:demo": "holds a text, 'sweep:custom dataset:demo', instead of `key: value` lines",
    'sweep = "pruning"\n[set]\nepochs = 3': "holds a text, ",
    "- sweep": "holds a list instead of `key: value` lines",
    "pruning": "holds a text, 'pruning', instead",
    "5": "holds a number, '5', instead",
    "a: \x07": r"line 1: a control character, '\x07'",
    "a: b\r\n\0": r"line 2: a control character, '\x00'",
    f"{GOOD}---\n{GOOD}": "line 3: a second document begins; a file holds one sweep",
    "%YAML 9.9\n---\na: 1": "line 1: not YAML: found incompatible YAML document",
    'a: "\\U99999999"': "not YAML that can be read",
    # what hides or multiplies content
    "set: {pruning.heads: &a [1, *a]}": "line 1: '*a' refers to another value; write the value itself",
    "over: &a\n  model.d_model: [&x 1]\nset: *a": "line 3: '*a' refers to another value",
    "<<: {sweep: pruning}": "line 1: '<<' takes over another mapping; write the fields themselves",
    "a: !!python/object/apply:os.system [x]": "line 1: the tag tag:yaml.org,2002:python/object/apply:os.system is not",
    "sweep: !!binary aGk=": "line 1: the tag tag:yaml.org,2002:binary is not read",
    "seed: !!timestamp 2024-01-01": "line 1: the tag tag:yaml.org,2002:timestamp is not read",
    "sweep: !own custom": "line 1: the tag !own is not read",
    "[" * 10_000: f"line 1: more than {DEEPEST} levels",
    "\n".join(" " * level + "a:" for level in range(1000)): f"line {DEEPEST + 1}: more than {DEEPEST} levels",
    "over: {pruning.heads: " + "[" * 300 + "]" * 300 + "}": f"line 1: more than {DEEPEST} levels",
    "over: {train.epochs: [" + "1," * MOST_VALUES + "]}": f"line 1: more than {MOST_VALUES:,} keys and values",
    "? [a, b]\n: 1": "line 1: a list or mapping stands where a key has to be",
    # names, before any value
    "swep: pruning": "line 1: unknown key 'swep'",
    "1: pruning": "line 1: unknown key '1'",
    "? \n: 1": "line 1: unknown key ''",
    "sweep: atention": "line 1: unknown sweep 'atention'",
    "model.d_model: 64": "line 1: model.d_model is a field; write it under set:",
    "learning_rate: 64": "line 1: learning_rate is a field; write it under set:, as train.learning_rate: VALUE",
    "set: {model.d_modle: many}": "line 1: unknown field 'model.d_modle'",
    "set:\n  model: {d_model: 2}": "line 2: model is a group of fields; write the field with it",
    "over:\n  lr: [1e-4, 1e-3]": "line 2: unknown field 'lr'",
    "set: {train.epochs: many}\nover:\n  lr: [1e-4]": "line 3: unknown field 'lr'",
    "epochs: many\nset:\n  lr: 1e-4": "line 3: unknown field 'lr'",
    "set: {1: 2}": "line 1: unknown field '1'",
    "sweep: pruning\nsweep: custom": "line 2: 'sweep' is given twice",
    "set:\n  model.d_model: 1\n  'model.d_model': 2": "line 3: 'model.d_model' is given twice",
    f"{GOOD}epochs: 3\nset: {{train.epochs: 4}}": "line 4: train.epochs is given twice, by its own key and under set",
    f"{GOOD}set: {{model.d_model: 4}}\nover:\n  model.d_model: [4]": "line 5: model.d_model is both set and an axis",
    f"{GOOD}set: {{model.as_published: flash}}": "line 3: model.as_published is given, which only arms of the seed",
    # kinds of values
    "sweep: 5": "line 1: unknown sweep '5'",
    "sweep: [custom]": "line 1: sweep is a list; give a name",
    "sweep: null": "line 1: sweep is empty; give a name",
    "epochs: many": "line 1: epochs: many is not a whole number",
    "epochs: 1.5": "line 1: epochs: 1.5 is not a whole number",
    "epochs: true": "line 1: epochs: true is not a whole number",
    "epochs: 010": "line 1: epochs: 010 is another number in YAML 1.1",
    "epochs: " + "9" * 5000: "line 1: epochs: 999",
    "epochs: 0": "line 1: train.epochs=0: input should be greater",
    "seed: -1": "line 1: train.seed=-1: input should be greater",
    "dataset:": "line 1: dataset is empty; give a name or a path",
    "set: [1]": "line 1: set is a list; give fields with a value each",
    "set:": "line 1: set is empty; give fields with a value each",
    "set: {model.d_model: }": "line 1: model.d_model has no value; write one, or null for none",
    "set: {model.d_model: {a: 1}}": "line 1: model.d_model={'a': 1}: input should be a valid integer",
    "set: {data.separator: ~}": "line 1: data.separator=~ means null in YAML",
    "set: {data.columns: [[a]]}": "line 1: data.columns: a list or mapping stands where a name has to be",
    "set: {data.ignore: {a: b}}": "line 1: data.ignore: a list or mapping stands where a name has to be",
    "set: {model.attention: flahs}": "line 1: unknown attention 'flahs'",
    "over: {model.d_model: 64}": "line 1: over: model.d_model is a number, '64',; give fields with a list each",
    "over: {model.d_model: []}": "line 1: --over model.d_model=: give one value or more",
    "over: {model.d_model: [8, 8.0]}": "line 1: --over model.d_model=8,8: 8 is given twice",
    "over: {pruning.heads: [[1], [1]]}": "line 1: --over pruning.heads=[1],[1]: [1] is given twice",
    "over: {pruning.heads: [[[1]]]}": "line 1: pruning.heads=[1]: input should be a valid integer",
    "over: {train.seed: [1, 2]}": "line 1: --over train.seed=1,2: use --seed and --repeats",
    "over:\n  train.learning_rate: [" + ",".join(f"{i}e-9" for i in range(1, 10_003)) + "]": "line 2: --over train.le",
    f"{GOOD}repeats: 0": "line 3: --repeats 0: give 1 or more",
    f"{GOOD}trials: 5": "line 3: --trials 5: for a sweep that draws its trials",
    "sweep: pruning\nover: {pruning.score: [none]}": "line 2: --over pruning.score: the pruning sweep changes it",
}  # fmt: skip


@pytest.mark.parametrize("content", BROKEN, ids=lambda text: text[:40])
def test_a_wrong_file_is_answered_in_one_line_that_says_where(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _answer(content, tmp_path, capsys)
    assert said.startswith(BROKEN[content]), said


@pytest.mark.parametrize("name", [*KINDS, *FIELDS])
def test_a_misspelt_name_is_answered_with_the_right_one(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = f"{name[:-1]}x{name[-1]}"
    content = f"{wrong}: 1" if name in KINDS else f"over:\n  {wrong}: [1e-4, 1e-3]"
    assert f"Did you mean '{name}'?" in _answer(content, tmp_path, capsys)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("content", ["over:\n  {}: [1e-4, 1e-3]", "set:\n  {}: 1e-4", "over:\n  {}: [0.1, 0.2]"])
def test_a_short_name_is_answered_with_its_field(
    content: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = name.rpartition(".")[2]
    said = _answer(content.format(short), tmp_path, capsys)
    assert said.startswith(f"line 2: unknown field '{short}'") and "Did you mean" in said


@pytest.mark.parametrize(("initials", "name"), [("lr", "train.learning_rate"), ("train.bs", "train.batch_size")])
def test_initials_are_answered_with_the_field(
    initials: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"Did you mean '{name}'?" in _answer(f"over:\n  {initials}: [1e-4, 1e-3]", tmp_path, capsys)


@pytest.mark.parametrize("hint", ["this looks like TOML", "write a space after the colon"])
def test_another_form_of_file_is_recognised(hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = 'sweep = "pruning"\n\n[set]\ntrain.epochs = 3\n' if "TOML" in hint else "sweep:pruning\nepochs:3"
    assert hint in _answer(content, tmp_path, capsys)


SAME = {
    "flow": '{sweep: custom, dataset: demo, set: {train.epochs: 3}}',
    "json": json.dumps({"sweep": "custom", "dataset": "demo", "set": {"train.epochs": 3}}),
    "json_with_tabs": json.dumps({"sweep": "custom", "dataset": "demo", "set": {"train.epochs": 3}}, indent="\t"),
    "tab_after_a_key": f"{GOOD}set:\n  train.epochs:\t3\t# three\n",
    "anchor_without_use": "sweep: &a custom\ndataset: &b demo\nset: {train.epochs: 3}",
    "question_marks": "? sweep\n: custom\n? dataset\n: demo\nset: {train.epochs: 3}",
    "markers": f"%YAML 1.2\n---\n{GOOD}epochs: 3\n...\n",
    "quotes": "'sweep': \"custom\"\n\"dataset\": 'demo'\nepochs: '3'",
    "block": "sweep: |-\n  custom\ndataset: >-\n  demo\nepochs: 3",
}  # fmt: skip


@pytest.mark.parametrize("form", SAME)
def test_the_same_sweep_can_be_written_in_many_forms(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_text(SAME[form])
    assert main(["--config", str(tmp_path / "x.yaml"), "--plan"]) == DONE
    content = dict(read_config(tmp_path / "x.yaml").content)
    epochs = content.get("epochs", content.get("set", {}).get("train.epochs"))
    assert (content["sweep"], content["dataset"], epochs) == ("custom", "demo", 3)


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n", "null", "\n\n", "{}"])
def test_a_file_that_holds_nothing_leaves_all_to_the_command_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(content)
    assert main(["--config", str(file), "--plan"]) == WRONG_INPUT
    assert f"required: --sweep (see --help), or `sweep: NAME` in {file}" in capsys.readouterr().err
    assert main(["--config", str(file), "--sweep", "custom", "--dataset", "demo", "--plan"]) == DONE


def test_the_file_that_the_documents_show_holds_every_key_and_can_be_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "configuration.md").read_text()
    (tmp_path / "x.yaml").write_text(page.partition("```yaml\n")[2].partition("```")[0])
    cells = {"only"}  # of a table, and the file's sweep is a search
    assert read_config(tmp_path / "x.yaml").content.keys() == KINDS.keys() - cells
    assert main(["--config", str(tmp_path / "x.yaml"), "--plan"]) == DONE


def test_a_configuration_that_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(WrongInput, match="--save-config"):
        write_config(tmp_path / "folder", {"sweep": "custom"})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
