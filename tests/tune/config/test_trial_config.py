"""TrialConfig, field names and the errors for values that do not fit."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import pytest

from tune.common.errors import WrongInput
from tune.config.trial_config import (
    FIELDS,
    GROUPS,
    build_trial,
    check_field,
    data_options,
    parse_params,
)
from tune.config.values import check_value, parse_value
from tune.storage.params import param_texts, stored_params

GOOD: dict[str, Any] = {
    "data.dataset": "demo",
    "model.preset": "tiny",
    "model.attention": "eager",
    "model.patch_length": 12,
    "model.patch_stride": 12,
    "model.d_model": 64,
    "model.num_heads": 16,
    "model.num_layers": 1,
    "model.ffn_dim": 64,
    "model.dropout": 0.0,
    "model.head_dropout": 0.2,
    "model.attention_dropout": 0.0,
    "model.norm_type": "batchnorm",
    "model.pre_norm": True,
    "train.precision": "fp32",
    "train.engine": "eager",
}


def test_a_good_configuration_survives_the_trip_to_a_worker() -> None:
    config = build_trial(GOOD)
    assert type(config).model_validate(config.model_dump(mode="json")) == config
    assert config.num_patches == 42  # (512 - 12) // 12 + 1
    assert config.flat()["model.d_model"] == 64
    assert set(config.flat()) == set(FIELDS)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        build_trial(GOOD).train.epochs = 3  # type: ignore[misc]


WRONG = [
    ({"model.patch_length": 512}, "model.patch_length=512 must be shorter than data.context_length=512"),
    ({"model.num_heads": 5}, "model.num_heads=5 does not divide model.d_model=64"),
    ({"model.d_model": 33, "model.num_heads": 11}, "model.d_model=33 must be even"),
    ({"train.epochs": 0}, "train.epochs=0: input should be greater than or equal to 1"),
    ({"train.epochs": "many"}, "train.epochs='many'"),
    ({"train.batch_size": -1}, "train.batch_size=-1"),
    ({"train.learning_rate": float("nan")}, "train.learning_rate=nan"),
    ({"train.precision": "int8"}, "train.precision='int8'"),
    ({"model.dropout": 1.0}, "model.dropout=1.0"),
    ({"pruning.score": "magnitude"}, "pruning.score=magnitude needs pruning.heads_per_layer"),
    ({"pruning.score": "magnitude", "pruning.heads_per_layer": 16}, "at least one must stay"),
    ({"pruning.score": "static"}, "pruning.score=static takes pruning.heads"),
    ({"pruning.score": "static", "pruning.heads": [1, 1]}, "must be different head numbers"),
    ({"pruning.score": "static", "pruning.heads": [16]}, "a layer has heads 0 to 15"),
    ({"pruning.heads": [1]}, "pruning.heads is for pruning.score=static"),
    ({"pruning.heads_per_layer": 2}, "given with pruning.score=none"),
    ({"model.d_modle": 64}, "unknown field 'model.d_modle'.*Did you mean 'model.d_model'?"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[str(change) for change, _ in WRONG])
def test_a_value_that_does_not_fit_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongInput, match=message.replace("[", r"\[")) as caught:
        build_trial(GOOD | change)
    assert "\n" not in str(caught.value)


def test_the_error_for_a_missing_field_says_how_to_give_it() -> None:
    with pytest.raises(WrongInput, match="--set model.d_model=VALUE"):
        build_trial({name: value for name, value in GOOD.items() if name != "model.d_model"})


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_known_by_its_name(name: str) -> None:
    assert check_field(name) == name


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pruning.score": "static", "pruning.heads": [4, 8]},
        {"train.patience": 3, "train.learning_rate": 1e-5, "model.pre_norm": False},
        {"model.init": "torch", "model.dropout": 0.3, "model.attention_output_dropout": None, "model.ffn_dropout": 0.1},
        {"data.dataset": "/data/12.csv", "data.timestamp_column": "2024"},
    ],
    ids=str,
)
@pytest.mark.parametrize("version", [1, 2])
def test_params_come_back_from_their_texts_as_they_were(change: dict[str, Any], version: int) -> None:
    flat = build_trial(GOOD | change).flat()
    stored = stored_params(flat, version)
    params = parse_params(param_texts({"params": stored, "format": version}), version)
    assert params == flat
    assert {name: type(value) for name, value in params.items()} == {name: type(value) for name, value in flat.items()}


def test_params_of_an_older_version_are_read_without_validation() -> None:
    params = parse_params({"model.d_model": "33", "model.width": "7", "train.epochs": "2 [shortened]"}, 1)
    assert (params["model.d_model"], params["model.width"], params["train.epochs"]) == (33, "7", "2 [shortened]")
    assert params["train.batch_size"] is None


def test_a_param_of_a_field_that_is_gone_keeps_its_kind() -> None:
    params = parse_params({"model.width": "7", "train.epochs": "2 [shortened]"}, 2)
    assert (params["model.width"], params["train.epochs"], params["train.batch_size"]) == (7, "2 [shortened]", None)


@pytest.mark.parametrize("given", ["load,2024", "load , 2024", '["load", 2024]', '["load","2024"]'])
def test_names_of_columns_are_a_list_or_words_with_commas(given: str) -> None:
    options = data_options({"data.columns": parse_value("data.columns", given)})
    assert options is not None and options.columns == ("load", "2024")


def test_an_option_of_the_data_at_its_default_is_not_part_of_a_configurations_identity() -> None:
    plain = build_trial(GOOD)
    assert plain.identity()["data"].keys() == {
        "dataset", "timestamp_column", "context_length", "prediction_length", "feed", "num_workers",
    }  # fmt: skip
    named = build_trial(GOOD | {"data.separator": ";"})
    assert named.identity()["data"]["separator"] == ";"


def test_a_model_as_earlier_versions_built_it_has_the_identity_that_it_had() -> None:
    plain = build_trial(GOOD | {"model.recompute": "never"}).identity()["model"]
    assert plain.keys() == {name.removeprefix("model.") for name in GOOD if name.startswith("model.")} | {
        "as_published", "layers",
    }  # fmt: skip
    other = build_trial(GOOD | {"model.init": "torch", "model.ffn_dropout": 0.0}).identity()["model"]
    assert other.keys() - plain.keys() == {"recompute", "init", "ffn_dropout"}


def test_a_second_dropout_after_attention_without_a_rate_has_the_models() -> None:
    config = build_trial(GOOD | {"model.dropout": 0.3, "model.attention_output_dropout": None})
    assert config.flat()["model.attention_output_dropout"] == 0.3
    assert build_trial(GOOD | {"model.dropout": 0.3}).flat()["model.attention_output_dropout"] == 0.0


WORDS = {
    name: get_args(kind)
    for name in FIELDS
    if get_origin(kind := GROUPS[name.split(".")[0]].model_fields[name.split(".", 1)[1]].annotation) is Literal
}


@pytest.mark.parametrize("name", WORDS)
def test_a_field_of_a_few_words_takes_each_of_them_and_refuses_others(name: str) -> None:
    for word in WORDS[name]:
        check_value(name, word, given=f"--set {name}")
    with pytest.raises(WrongInput, match=f"--set {name} others"):
        check_value(name, "others", given=f"--set {name}")
