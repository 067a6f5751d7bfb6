"""TrialConfig: everything that decides what one trial computes, validated before anything starts.

Planning-safe: imports none of torch, transformers, ray, mlflow. `tune.plan.plan` fills fields that are left at None,
from the preset and from the device that the trial will run on; `TrialConfig` itself never guesses.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import Field, ValidationError, model_validator

from data_pipeline.options import OPTION_NAMES, DataOptions, Missing, StepRule
from model.flops import count_patches
from tune.common.errors import WrongInput, did_you_mean, shortened, unknown_name
from tune.common.published import ArmRules, PublishedPruning, rules_for
from tune.config.base import Frozen
from tune.config.data_fields import Names, Split
from tune.config.model_config import UNSAID_OF_A_MODEL, ModelConfig
from tune.storage.params import from_text

READ_TEST = "train.read_test"
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class DataConfig(Frozen):
    """Which series, cut into which windows, read in which way (data_pipeline.options)."""

    dataset: str = "ETTh1"  # a name in data_pipeline.datasets.DATASETS, or the path of a text or Parquet file
    timestamp_column: str | None = None  # this field and those to `split` are for files
    id_column: str | None = None
    columns: Names = ()
    ignore: Names = ()
    separator: str | None = None
    decimal: Literal[".", ","] | None = None
    encoding: str | None = None
    time_format: str | None = None
    step: StepRule = "auto"
    missing: Missing = "refuse"
    max_gap: int | None = Field(None, ge=1, le=1_000_000)  # rows
    split: Split = None
    context_length: int = Field(512, ge=2, le=65_536)  # time steps that the model sees
    prediction_length: int = Field(96, ge=1, le=65_536)  # time steps that it forecasts
    feed: str = "device"  # a name in data_pipeline.feed.FEEDS; a plan takes device, pinned or mapped by what is free
    num_workers: int = Field(0, ge=0, le=128)  # loader processes; 0 for a feed without workers

    @property
    def options(self) -> DataOptions:
        """How the data set's file is read."""
        return DataOptions(**{name: getattr(self, name) for name in OPTION_NAMES})


class TrainConfig(Frozen):
    """The optimizer and the training loop: Adam on the mean squared error of standardised values."""

    batch_size: int = Field(128, ge=1, le=1_048_576)  # windows in a step
    epochs: int = Field(10, ge=1, le=100_000)  # passes over the training windows
    learning_rate: float = Field(1e-4, gt=0, le=10)  # of Adam, before the schedule
    schedule: str = "constant"  # a name in tune.engine.lr.LR_SCHEDULES
    pct_start: float = Field(0.3, ge=0, le=1)  # one_cycle: share of the steps in which the rate rises
    patience: int | None = Field(None, ge=1)  # epochs without a better validation MSE; None: never stop early
    precision: Precision  # bf16 and fp16: autocast over fp32 weights; fp32: no tf32
    engine: str  # a name in tune.engine.ENGINES
    seed: int = Field(1, ge=0, lt=2**31)  # of weights, data order, dropout and random scores
    read_test: bool = True  # whether the trained model's errors on the test set are computed; --no-test: they are not


class PruningConfig(Frozen):
    """Which attention heads are removed, when, and chosen by what."""

    score: str = "none"  # none | static | a name in model.pruning.SCORES
    schedule: str = "one_shot"  # a name in model.pruning.schedules.SCHEDULES; not used by none and static
    heads_per_layer: int = Field(0, ge=0)  # how many heads each layer loses
    heads: tuple[int, ...] = ()  # static: the heads that every layer loses before training
    as_published: PublishedPruning | None = None  # the replaced study's; only the sweep seed_study sets it

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.as_published:
            if self.score != "none" or self.heads_per_layer or bool(self.heads) != (self.as_published == "zeroed"):
                raise ValueError("pruning.as_published=zeroed takes pruning.heads and no score, dynamic takes neither")
            return self
        if self.score == "static":
            if not self.heads or self.heads_per_layer:
                raise ValueError("pruning.score=static takes pruning.heads, for example pruning.heads=[4,8]")
            if len(set(self.heads)) != len(self.heads) or min(self.heads) < 0:
                raise ValueError(f"pruning.heads={list(self.heads)} must be different head numbers from 0")
        elif self.heads:
            raise ValueError(f"pruning.heads is for pruning.score=static, given with pruning.score={self.score}")
        elif self.score == "none" and self.heads_per_layer:
            raise ValueError("pruning.heads_per_layer is given with pruning.score=none; choose a score or leave it out")
        elif self.score != "none" and not self.heads_per_layer:
            raise ValueError(f"pruning.score={self.score} needs pruning.heads_per_layer of 1 or more")
        return self

    @property
    def heads_to_remove(self) -> int:
        """How many heads each layer loses in total; the replaced study's pruning removes none."""
        return 0 if self.as_published else len(self.heads) or self.heads_per_layer


class TrialConfig(Frozen):
    """One trial. `model_dump(mode="json")` is what travels to the worker."""

    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    pruning: PruningConfig

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        context = self.data.context_length
        if self.model.patch_length >= context:
            raise ValueError(
                f"model.patch_length={self.model.patch_length} must be shorter than data.context_length={context}"
            )
        heads = self.model.num_heads
        if self.pruning.heads_to_remove >= heads:
            raise ValueError(
                f"pruning would remove {self.pruning.heads_to_remove} of {heads} heads a layer; at least one must stay"
            )
        if self.pruning.heads and max(self.pruning.heads) >= heads:
            raise ValueError(f"pruning.heads={list(self.pruning.heads)}: a layer has heads 0 to {heads - 1}")
        return self

    @property
    def num_patches(self) -> int:
        """Tokens in a sequence."""
        model = self.model
        return count_patches(
            context_length=self.data.context_length,
            patch_length=model.patch_length,
            patch_stride=model.patch_stride,
            end_padding=model.end_padding,
        )

    @property
    def rules(self) -> ArmRules:
        """How this arm is treated: an arm of the replaced study differs from an ordinary one."""
        return rules_for(self.model.as_published, self.pruning.as_published, feed=self.data.feed)

    @property
    def attention_precision(self) -> str:
        """The precision of attention's inputs."""
        return self.rules.attention_precision or self.train.precision

    def builder_fields(self, channels: int) -> dict[str, Any]:
        """Arguments of `model.patchtst.build_model` for a series with `channels`."""
        return self.model.model_dump(exclude={"preset"}) | {
            "num_channels": channels,
            "context_length": self.data.context_length,
            "prediction_length": self.data.prediction_length,
        }

    @property
    def compiles(self) -> bool:
        """Whether PyTorch's compiler takes part."""
        return self.train.engine != "eager" or self.model.attention == "flex"

    def identity(self) -> dict[str, Any]:
        """What two configurations must share to be the same one; options of the data count where they are given.

        So a sweep of an earlier version, which had fewer fields, is the same sweep today.
        """
        values = self.model_dump(mode="json") | {"model": self.model.said}
        if values["train"]["read_test"] == UNSAID[READ_TEST]:
            del values["train"]["read_test"]
        unsaid = set(OPTION_NAMES) - {"timestamp_column"} - self.data.options.given().keys()
        return values | {"data": {name: value for name, value in values["data"].items() if name not in unsaid}}

    def flat(self) -> dict[str, Any]:
        """The same configuration keyed by field name, as in `--set` and in MLflow params."""
        return {
            f"{group}.{key}": value
            for group, fields in self.model_dump(mode="json").items()
            for key, value in fields.items()
        }


GROUPS: dict[str, type[Frozen]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "pruning": PruningConfig,
}
FIELDS = tuple(f"{group}.{field}" for group, config in GROUPS.items() for field in config.model_fields)
UNSAID: Mapping[str, Any] = (
    {  # what sweeps of earlier versions did without saying it, as `flat` says it
        f"data.{name}": value
        for name, value in DataConfig().model_dump(mode="json").items()
        if name in OPTION_NAMES and name != "timestamp_column"
    }
    | {f"model.{name}": value for name, value in UNSAID_OF_A_MODEL.items()}
    | {READ_TEST: True}
)
SEED_STUDY_ONLY = frozenset(name for name in FIELDS if name.endswith(".as_published"))


def check_field(name: str) -> str:
    """`name` if it is a field. Otherwise raises WrongInput with the field of that last word or initials, or near it."""
    if name in GROUPS:
        raise WrongInput(f"{name} is a group of fields; write the field with it, for example {name}.{_first(name)}")
    if name not in FIELDS:
        last = name.rpartition(".")[2]
        alike = [field for field in FIELDS if last in (word := field.rpartition(".")[2], _initials(word))]
        raise unknown_name("field", name, FIELDS, meant=alike[0] if len(alike) == 1 else None)
    return name


def _initials(word: str) -> str:
    return "".join(part[:1] for part in word.split("_"))


def _first(group: str) -> str:
    return next(iter(GROUPS[group].model_fields))


def is_text(name: str) -> bool:
    """Whether the field's values are texts, so that 2024 is a text too."""
    group, field = name.split(".", 1)
    kind = GROUPS[group].model_fields[field].annotation
    if get_origin(kind) is tuple:
        return False
    return kind is str or any(part is str or isinstance(part, str) for part in get_args(kind))  # str | None, Literal


def data_options(values: Mapping[str, Any]) -> DataOptions | None:
    """The options of the data among values keyed by field name; None if one has a wrong type."""
    try:
        given = {name: values[f"data.{name}"] for name in OPTION_NAMES if f"data.{name}" in values}
        return DataConfig.model_validate(given).options
    except ValidationError:
        return None


def parse_params(texts: Mapping[str, str], version: int) -> dict[str, Any]:
    """`TrialConfig.flat()` from a tracking store's texts in format `version` (tune.storage.params).

    A missing field is None, which the store leaves out, or one that earlier versions did not have, with what they did
    (UNSAID). Nothing is validated, so that old sweeps can be read: a text
    that cannot be parsed, or whose field no longer exists, stays a text.
    """
    parse = _parsed_as_literal if version == 1 else _parsed_as_json
    return {**dict.fromkeys(FIELDS), **UNSAID, **{name: parse(name, text) for name, text in texts.items()}}


def _parsed_as_json(name: str, text: str) -> Any:
    return from_text(text)


def _parsed_as_literal(name: str, text: str) -> Any:
    if name not in FIELDS or is_text(name):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def build_trial(flat: dict[str, Any]) -> TrialConfig:
    """A TrialConfig from values keyed by field name. Raises WrongInput, in one line, for a value that does not fit."""
    nested: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for name, value in flat.items():
        group, field = check_field(name).split(".", 1)
        check_no_bool(name, value)
        nested[group][field] = value
    try:
        return TrialConfig.model_validate(nested)
    except ValidationError as error:
        raise WrongInput(in_words(error)) from None


def check_no_bool(name: str, value: Any) -> None:
    """Raises WrongInput for True, False or a list with one of them in a field of numbers, where pydantic reads 1, 0."""
    holds = any(isinstance(item, bool) for item in (value if isinstance(value, list | tuple) else (value,)))
    group, field = name.split(".", 1)
    if holds and GROUPS[group].model_fields[field].annotation is not bool and not is_text(name):
        raise WrongInput(f"{name}={shortened(json.dumps(value))}: true and false are not numbers; give a number")


def in_words(error: ValidationError, *, of: str | None = None) -> str:
    """One line on what does not fit. `of` is the field that was validated, None for a whole TrialConfig."""
    first = error.errors(include_url=False)[0]
    where = of or ".".join(str(part) for part in first["loc"][:2])
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return text
    if first["type"] == "missing":
        return f"{where} is not set; give it with --set {where}=VALUE"
    near = ""
    if first["type"] == "literal_error":
        near = "." + did_you_mean(str(first["input"]), re.findall("'([^']*)'", first["ctx"]["expected"]))
    return f"{where}={shortened(repr(first['input']))}: {text[0].lower()}{text[1:]}{near}"


def as_settings(changes: Mapping[str, Any]) -> str:
    """Fields in the form of the command line."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for name, value in changes.items()
    }
    return " ".join(f"--set {name}={text}" for name, text in texts.items())
