"""Wrong input through the real command: one line on stderr, exit code 2, nothing written. Nothing here starts Ray."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wrong_input_kit import enter

from tune.cluster import connect
from tune.commands import sweep as commands
from tune.commands.main import main
from tune.common.errors import WRONG_INPUT
from tune.machine.device import cpu_facts
from tune.storage import open_sweep, sweep_dir

DEMO = ["--dataset", "demo"]
CUSTOM = ["--sweep", "custom", *DEMO]
PLAN = [*CUSTOM, "--plan"]
PRUNING = ["--sweep", "pruning", *DEMO, "--plan"]
HUGE = str(10**30)


def _set(*items: str) -> list[str]:
    return [*PLAN, *(part for item in items for part in ("--set", item))]


def _over(*items: str) -> list[str]:
    return [*PLAN, *(part for item in items for part in ("--over", item))]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    (tmp_path / "broken.yaml").write_text("sweep: pruning\nset: {model.d_model: 64\n")
    (tmp_path / "trials.yaml").write_text("sweep: pruning\ntrials: 5\n")
    (tmp_path / "some.csv").write_text("When,a\n2020-01-01 00:00:00,1\n")
    (tmp_path / "three.csv").write_text("day,load\n2020-01-01 00:00:00,1,x\n2020-01-01 01:00:00,1,y\n")
    (tmp_path / "link.csv").symlink_to("nowhere")
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x81\xfe")


def _error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command answers with."""
    before = sorted(Path().rglob("*"))
    assert main(arguments) == WRONG_INPUT
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: ") and said.out == ""
    assert sorted(Path().rglob("*")) == before
    return line


# name of the case -> (arguments, what the line must hold)
WRONG: dict[str, tuple[list[str], str]] = {
    # values
    "patch_as_long_as_the_context": (_set("model.patch_length=512"), "must be shorter than data.context_length=512"),
    "heads_that_do_not_divide": (_set("model.num_heads=7"), "model.num_heads=7 does not divide model.d_model=64"),
    "odd_width": (_set("model.d_model=33", "model.num_heads=11"), "model.d_model=33 must be even"),
    "negative": (_set("train.batch_size=-1"), "train.batch_size=-1"),
    "zero": (_set("model.num_layers=0"), "model.num_layers=0"),
    "huge": (_set(f"model.d_model={HUGE}"), f"model.d_model={HUGE}"),
    "huge_float": (_set("train.learning_rate=1e400"), "train.learning_rate=inf"),
    "an_arm_as_published": (
        _set("model.as_published=flash"),
        "model.as_published is given, which only arms of the seed_study sweep have, as their tag says; leave it out",
    ),
    "pruning_as_published": (_over("pruning.as_published=zeroed,dynamic"), "pruning.as_published is given, which only"),
    "an_arm_of_seed_study_by_hand": (
        ["--sweep", "seed_study", *DEMO, "--plan", "--set", "data.feed=device"],
        "data.feed is given by hand, but the seed_study sweep sets it; leave one of the two out",
    ),
    "too_few_heads_for_seed_study": (
        ["--sweep", "seed_study", *DEMO, "--plan", "--set", "model.num_heads=4"],
        "pruning.heads=[4, 8]: a layer has heads 0 to 3",
    ),
    "stride_zero": (_set("model.patch_stride=0"), "model.patch_stride=0"),
    "stride_negative": (_set("model.patch_stride=-12"), "model.patch_stride=-12"),
    "dropout_one": (_set("model.dropout=1.0"), "model.dropout=1.0"),
    "not_a_number": (_set("train.learning_rate=NaN"), "train.learning_rate=nan"),
    "infinite": (_set("train.learning_rate=-Infinity"), "train.learning_rate=-inf"),
    "text_for_a_number": (_set("model.d_model=wide"), "model.d_model='wide'"),
    "fraction_for_a_whole_number": (_set("train.epochs=1.5"), "train.epochs=1.5"),
    "list_for_a_scalar": (_set("model.d_model=[64]"), "model.d_model=[64]"),
    "mapping_for_a_scalar": (_set('model.d_model={"a":1}'), "model.d_model={'a': 1}"),
    "text_for_a_list": (_set("pruning.score=static", "pruning.heads=all"), "pruning.heads='all'"),
    "null_where_there_is_none": (_set("model.d_model=null"), "model.d_model=None"),
    "empty_value": (_set("model.d_model="), "model.d_model=''"),
    "head_out_of_range": (_set("pruning.score=static", "pruning.heads=[16]"), "a layer has heads 0 to 15"),
    "head_negative": (_set("pruning.score=static", "pruning.heads=[-1]"), "different head numbers from 0"),
    "no_head_left": (_set("pruning.score=random", "pruning.heads_per_layer=16"), "at least one must stay"),
    "heads_without_a_score": (_set("pruning.heads_per_layer=2"), "given with pruning.score=none"),
    "workers_of_the_device_feed": (_set("data.num_workers=2"), "the device feed has no workers"),
    "workers_negative": (_set("data.feed=arrow", "data.num_workers=-1"), "data.num_workers=-1"),
    "horizon_zero": (_set("data.prediction_length=0"), "data.prediction_length=0"),
    "horizon_huge": (_set(f"data.prediction_length={HUGE}"), f"data.prediction_length={HUGE}"),
    "timestamp_of_a_named_set": (_set("data.timestamp_column=when"), "can only be given for a file"),
    # names, with the nearest
    "sweep": (["--sweep", "atention", "--plan"], "unknown sweep 'atention'.*Did you mean 'attention'"),
    "sweep_empty": (["--sweep", "", "--plan"], "unknown sweep ''"),
    "field": (_set("model.d_modle=64"), "unknown field 'model.d_modle'.*Did you mean 'model.d_model'"),
    "field_without_group": (_set("d_model=64"), "unknown field 'd_model'.*Did you mean 'model.d_model'"),
    "field_of_another_group": (_set("model.precision=bf16"), "'model.precision'.*Did you mean 'train.precision'"),
    "field_empty": (_set("=64"), "unknown field ''"),
    "backend": (_set("model.attention=sdpa_flsh"), "unknown attention 'sdpa_flsh'.*sdpa_flash"),
    "feed": (_set("data.feed=arow"), "unknown feed 'arow'.*Did you mean 'arrow'"),
    "engine": (_set("train.engine=compil"), "unknown engine 'compil'.*Did you mean 'compile'"),
    "preset": (_set("model.preset=stuudy"), "unknown preset 'stuudy'.*Did you mean 'study'"),
    "score": (_set("pruning.score=tailor", "pruning.heads_per_layer=1"), "unknown pruning score 'tailor'.*'taylor'"),
    "schedule": (_set("pruning.schedule=oneshot"), "unknown pruning schedule 'oneshot'.*'one_shot'"),
    "precision": (_set("train.precision=bf61"), "train.precision='bf61'.*'bf16'"),
    "norm": (_set("model.norm_type=layer"), "model.norm_type='layer'.*'layernorm'"),
    "data_set": (["--sweep", "pruning", "--plan", "--dataset", "ETTh11"], "did you mean 'ETTh1'"),
    "data_set_empty": (["--sweep", "pruning", "--plan", "--dataset", ""], "unknown data set ''"),
    "command": (["reprot", "x"], "unknown command 'reprot'.*Did you mean 'report'"),
    "two_word_command": (["data", "shwo"], "unknown command 'data shwo'.*Did you mean 'data show'"),
    "empty_command": ([""], "unknown command ''"),
    "second_word_of_a_command": (["list", "run"], "unknown command 'list run'.*Did you mean 'list runs'"),
    "first_word_of_a_command": (["data", "ETTh1"], "unknown command 'data ETTh1'.*'data show'"),
    "option": (["--swep", "pruning", *DEMO], "unrecognized arguments.*; --swep: Did you mean '--sweep'"),
    "option_with_its_value": ([*PLAN, "--datset=demo"], "--datset: Did you mean '--dataset'"),
    "option_of_a_command": (["predict", "x", "--inptu", "a.csv"], "unrecognized.*--inptu: Did.*'--input'"),
    "precision_nearly": (_set("train.precision=bf1"), "Did you mean 'bf16'"),
    "true_for_a_number": (_set("train.learning_rate=true"), "train.learning_rate=true: true and false are not numbers"),
    "true_in_a_list": (_set("pruning.score=static", "pruning.heads=[true]"), "pruning.heads=[true]: true and false"),
    "gpu_model": ([*PLAN, "--gpu-model", "H10"], "unknown GPU model 'H10'.*Did you mean 'H100'"),
    # given twice, or both ways
    "swept_and_set": ([*PRUNING, "--set", "pruning.score=taylor"], "the pruning sweep sets it"),
    "set_twice": (_set("model.d_model=64", "model.d_model=32"), "model.d_model is given twice"),
    "option_and_set": ([*PLAN, "--epochs", "2", "--set", "train.epochs=3"], "train.epochs is given twice"),
    "seed_set": (_set("train.seed=3"), "train.seed is given by hand, but --seed and --repeats set"),
    "axis_and_set": ([*_over("model.d_model=32,64"), "--set", "model.d_model=32"], "both set and an axis of --over"),
    "axis_and_swept": ([*PRUNING, "--over", "pruning.score=none"], "the pruning sweep changes it itself"),
    "axis_twice": (_over("model.d_model=32", "model.d_model=64"), "model.d_model is given twice"),
    "axis_value_twice": (_over("model.d_model=32,64,32"), "32 is given twice"),
    "axis_value_twice_in_two_forms": (_over("train.learning_rate=0.1,1e-1"), "0.1 is given twice"),
    "fresh_and_resume": ([*CUSTOM, "--fresh", "--resume", "x"], "--fresh and --resume x"),
    "gpu_model_in_small_letters": ([*PLAN, "--gpu-model", "h100"], "Did you mean 'H100'"),
    "gpu_model_as_its_driver_says": ([*PLAN, "--gpu-model", "NVIDIA H100 80GB HBM3"], "Did you mean 'H100'"),
    "gpu_model_of_a_longer_name": ([*PLAN, "--gpu-model", "nvidia l40s-48q"], "Did you mean 'L40S'"),
    "fresh_and_resume_of_a_plan": ([*PLAN, "--fresh", "--resume", "x"], "--fresh and --resume x"),
    "resume_of_no_sweep_in_a_plan": ([*PLAN, "--resume", "pruning-1"], "--resume pruning-1: no such sweep"),
    "waiting_for_ever": ([*PLAN, "--wait-for-gpus", "inf"], "--wait-for-gpus inf: give 0"),
    "waiting_for_less_than_nothing": ([*PLAN, "--wait-for-gpus", "-1"], "--wait-for-gpus -1: give 0"),
    "address_of_no_form": ([*PLAN, "--address", "http://x"], "--address http://x: write HOST:PORT"),
    "cpu_and_gpu_model": ([*PLAN, "--gpu-model", "H100", "--gpus-per-trial", "0"], "leave one out"),
    # axes
    "axis_without_values": (_over("model.d_model="), "a value is empty"),
    "axis_with_a_hole": (_over("model.d_model=32,,64"), "a value is empty"),
    "axis_without_equals": (_over("model.d_model"), "write FIELD=VALUE,VALUE"),
    "axis_of_no_field": (_over("model.patch_lenght=12"), "unknown field.*Did you mean 'model.patch_length'"),
    "axis_of_seeds": (_over("train.seed=1,2"), "use --seed and --repeats"),
    "axis_of_data_sets": (["--sweep", "pruning", "--plan", "--over", "data.dataset=demo,ETTh1"], "run one sweep for"),
    "axis_with_a_wrong_value": (_over("model.patch_length=12,512"), "must be shorter"),
    "axes_that_do_not_combine": (
        _over("data.feed=device,arrow", "data.num_workers=0,2"),
        "the device feed has no workers.*the arm feed=device-num_workers=2: 1 of 4 combinations",
    ),
    "window_of_a_plan": (_set("data.context_length=65536"), "the train split holds no window"),
    "axes_too_many": (
        _over(*(f"{name}={','.join(map(str, range(2, 60)))}" for name in ("train.epochs", "train.batch_size",
              "model.ffn_dim"))), "195,112 arms; a sweep has at most 10,000",
    ),
    # numbers of the command line
    "repeats_zero": ([*PLAN, "--repeats", "0"], "--repeats 0: give 1 or more"),
    "repeats_huge": ([*PLAN, "--repeats", HUGE], "--seed 1 with --repeats"),
    "repeats_many": ([*PLAN, "--repeats", "20001"], "a sweep has at most 20,000"),
    "repeats_word": ([*PLAN, "--repeats", "often"], "--repeats: often is not a whole number; give one, .*, or auto"),
    "repeats_auto_of_one_arm": (
        ["--sweep", "custom", *DEMO, "--plan", "--repeats", "auto"], "--repeats auto: .* one arm; give a number",
    ),
    "seed_at_the_end_of_auto": (
        ["--sweep", "pruning", *DEMO, "--plan", "--seed", str(2**31 - 5)], "--repeats auto: seeds go from 0 to",
    ),
    "seed_negative": ([*PLAN, "--seed", "-1"], "seeds go from 0 to 2147483647"),
    "seed_huge": ([*PLAN, "--seed", HUGE], "seeds go from 0 to 2147483647"),
    "seed_at_the_end": ([*PLAN, "--seed", str(2**31 - 1), "--repeats", "2"], "seeds go from 0 to 2147483647"),
    "epochs_huge": ([*PLAN, "--epochs", HUGE], f"train.epochs={HUGE}"),
    "trials_without_a_space": ([*PLAN, "--trials", "5"], "for a sweep that draws its trials"),
    "trials_zero": (["--sweep", "full", *DEMO, "--plan", "--trials", "0"], "--trials 0: give 1 to"),
    "trials_huge": (["--sweep", "full", *DEMO, "--plan", "--trials", HUGE], "give 1 to"),
    "concurrent_zero": ([*PLAN, "--max-concurrent", "0"], "--max-concurrent 0: give 1 or more"),
    "gpus_two": ([*PLAN, "--gpus-per-trial", "2"], "a trial uses one GPU"),
    "gpus_not_a_number": ([*PLAN, "--gpus-per-trial", "nan"], "a trial uses one GPU"),
    "limit_zero": (["list", "runs", "--limit", "0"], "--limit 0: give 1 or more"),
    # files and addresses
    "set_without_equals": (_set("model.d_model"), "write FIELD=VALUE"),
    "json_into_a_folder": ([*PLAN, "--json", "folder"], "--json folder: not a file"),
    "json_into_no_folder": ([*PLAN, "--json", "nowhere/x.json"], "there is no folder nowhere"),
    "json_empty": ([*PLAN, "--json", ""], "--json : not a file"),
    "json_below_a_file": (["list", "--json", "file/x.json"], "there is no folder file"),
    "doctors_json_into_a_folder": (["doctor", "--json", "folder"], "--json folder: not a file"),
    "save_config_into_a_folder": ([*PLAN, "--save-config", "folder"], "--save-config folder: not a file"),
    "save_config_over_another_file": ([*PLAN, "--save-config", "list.yaml"], "it exists with other content"),
    "save_config_over_no_configuration": ([*PLAN, "--save-config", "binary.yaml"], "it exists with other content"),
    "save_config_to_stdout": ([*PLAN, "--save-config", "-"], "--save-config -: name a file"),
    "save_config_and_json_in_one": ([*PLAN, "--save-config", "new", "--json", "./new"], "--json ./new: the same file"),
    "forecast_into_a_dangling_link": (
        ["predict", "x", "--input", "some.csv", "--output", "link.csv", "--force"], "link.csv: it is not a file",
    ),
    "forecast_by_no_run": (["predict", "runs:/x", "--input", "some.csv", "--output", "a.csv"], "write runs:/RUN_ID/"),
    "config_not_there": (["--config", "none.yaml", "--plan"], "--config none.yaml: No such file"),
    "config_folder": (["--config", "folder", "--plan"], "--config folder: Is a directory"),
    "config_list": (["--config", "list.yaml", "--plan"], "holds a list"),
    "config_not_yaml": (["--config", "broken.yaml", "--plan"], "--config broken.yaml: line 3: "),
    "config_unknown_key": (["--config", "unknown.yaml", "--plan"], "unknown key 'swep'.*Did you mean 'sweep'"),
    "config_binary": (["--config", "binary.yaml", "--plan"], "not a text in UTF-8"),
    "config_trials": (["--config", "trials.yaml", "--plan"], "for a sweep that draws its trials"),
    "config_without_a_sweep": (["--config", "/dev/null", "--plan"], "required: --sweep"),
    "storage_is_a_file": ([*CUSTOM, "--storage-path", "file"], "file is not a folder"),
    "storage_in_a_bucket": ([*CUSTOM, "--storage-path", "s3://bucket/runs"], "s3:// is not supported"),
    "storage_below_a_file": ([*CUSTOM, "--storage-path", "file/below"], "file is not a folder"),
    "storage_that_cannot_be_made": ([*CUSTOM, "--storage-path", "/proc/none/at-all"], "/proc/none"),
    "resume_of_no_sweep": ([*CUSTOM, "--resume", "pruning-1"], "--resume pruning-1: no such sweep"),
    "time_column": (
        ["--sweep", "custom", "--plan", "--dataset", "some.csv", "--set", "data.timestamp_column=when"],
        "no column 'when' for timestamps: there are When, a; did you mean 'When'?",
    ),
    "another_number_of_fields_than_in_the_header": (
        ["--sweep", "custom", "--plan", "--dataset", "three.csv"], "there are 3 fields, the header has 2",
    ),
    "data_file_not_there": (["--sweep", "custom", "--dataset", "nowhere.csv"], "there is no file"),
    "no_window": (["data", "show", "demo", "--context-length", "-5"], "--context-length -5: input should be greater"),
    "no_horizon": (["data", "show", "demo", "--prediction-length", "0"], "--prediction-length 0: input should be"),
    "report_of_no_store": (["report", "pruning-1"], "there is no MLflow store"),
    "list_of_no_store": (["list", "runs"], "there is no MLflow store"),
    "uri_of_a_folder": ([*CUSTOM, "--tracking-uri", "folder"], "names a folder"),
    "uri_of_no_kind": ([*CUSTOM, "--tracking-uri", "gopher://x"], "allowed are http, https, sqlite"),
    "uri_malformed": ([*CUSTOM, "--tracking-uri", "http://[::1"], "is not an address"),
    "uri_port_out_of_range": ([*CUSTOM, "--tracking-uri", "http://127.0.0.1:99999"], "is not an address"),
    "uri_in_no_folder": ([*CUSTOM, "--tracking-uri", "sqlite:///nowhere/mlflow.db"], "does not exist"),
    "uri_below_a_file": ([*CUSTOM, "--tracking-uri", "sqlite:///file/mlflow.db"], "file is a file and no folder"),
    "uri_port_closed": ([*CUSTOM, "--tracking-uri", "http://127.0.0.1:9"], "does not answer"),
    "database_port_closed": ([*CUSTOM, "--tracking-uri", "postgresql://127.0.0.1:9/x"], "does not answer"),
    # what no shell sends by accident
    "no_utf8_value": (_set("model.preset=\udcff\udcfe"), r"unknown preset '\\udcff\\udcfe'"),
    "no_utf8_data_set": (["--sweep", "custom", "--plan", "--dataset", "\udcff"], r"\\udcff"),
    "no_utf8_option": (["--\udcff"], "unrecognized arguments"),
    "newline_in_a_value": (_set("model.preset=a\nb"), "unknown preset 'a b'"),
    "null_byte_in_a_path": (["--config", "a\0b", "--plan"], "null byte"),
    "unknown_option": ([*PLAN, "--what"], "unrecognized arguments: --what"),
    "option_without_its_value": ([*PLAN, "--set"], "expected one argument"),
    "word_too_many": ([*PLAN, "extra"], "unrecognized arguments: extra"),
    "nothing": ([], "required: --sweep"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing_behind(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, said = WRONG[name]
    line = _error(arguments, capsys)
    assert re.search(said, line) or said in line, line


def test_a_store_that_never_answers_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.STORE_ANSWERS_WITHIN_S <= 15
    monkeypatch.setattr(commands, "STORE_ANSWERS_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        line = _error([*CUSTOM, "--tracking-uri", f"http://127.0.0.1:{silent.getsockname()[1]}"], capsys)
    assert "does not answer (timed out)" in line


@pytest.fixture
def cpu_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stands for Ray on this machine, up to the moment when trials would start."""
    ray = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    monkeypatch.setattr(connect, "connected", lambda address: nullcontext(ray))
    monkeypatch.setattr("tune.cluster.probe.probe", lambda *_: (cpu_facts(), {"versions": {}}))
    monkeypatch.setattr("tune.driver.open.NodeForkServers", lambda ray, share: SimpleNamespace(sockets={}))
    yield


SMALL = [*CUSTOM, "--quiet", "--set", "data.context_length=96", "--set", "data.prediction_length=24"]


@pytest.mark.usefixtures("cpu_cluster")
def test_several_trials_at_a_time_on_a_cpu_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--max-concurrent", "2"]) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "on a CPU one trial runs at a time" in line


@pytest.mark.usefixtures("cpu_cluster")
def test_an_unfinished_sweep_of_other_code_is_refused_naming_both_ways_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Started(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Started

    monkeypatch.setattr("tune.driver.run._Run.run", stop)
    with pytest.raises(Started):
        main(SMALL)
    (folder,) = open_sweep.every(Path("runs"))
    code = folder.read()["code"]
    folder.update(code=code | {"code_sha256": "0" * 64})
    capsys.readouterr()
    assert main(SMALL) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "--fresh" in line and f"--resume {folder.sweep_id}" in line
    folder.update(code=code, state=sweep_dir.FINISHED)
    assert main([*SMALL, "--resume", folder.sweep_id]) == WRONG_INPUT
    assert "it is finished" in capsys.readouterr().err
    assert [sweep.sweep_id for sweep in open_sweep.every(Path("runs"))] == [folder.sweep_id]


def test_a_horizon_longer_than_the_data_is_refused_before_ray_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CUSTOM, "--quiet", "--set", "data.prediction_length=50000"]) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no window" in line
    assert not open_sweep.every(Path("runs"))
