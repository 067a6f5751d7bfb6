"""A plan as text: the fields that all arms share, then every trial on a line of its own."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from data_pipeline.series.protocol import Protocol, protocol_lines
from model.fused import INSTEAD
from model.memory import ERROR
from tune.common.words import counted
from tune.config.model_config import UNSAID_OF_A_MODEL
from tune.config.repeats import AUTO, blocks_text
from tune.config.trial_config import TrialConfig
from tune.plan.batch import LARGEST, LEAST_STEPS, RULE
from tune.plan.placement import USUAL
from tune.plan.plan import Plan, PlannedTrial
from tune.plan.search_plan import SearchPlan
from tune.plan.space import describe
from tune.plan.support import why_not_fused
from tune.plan.table import TablePlan, asks_for_errors
from tune.plan.table_text import SHARING, table_lines
from tune.stats.looks import LOOKS

# These decide num_patches
PATCHING = frozenset({"data.context_length", "model.patch_length", "model.patch_stride", "model.end_padding"})
SHOWN = (
    "data.dataset", "data.context_length", "data.prediction_length", "data.feed",
    "model.preset", "model.patch_length", "model.patch_stride", "model.d_model", "model.num_heads", "model.num_layers",
    "model.attention", "model.layers", "model.recompute",
    "train.epochs", "train.patience", "train.batch_size", "train.precision", "train.engine",
)  # fmt: skip
ENDS = (LOOKS[0], LOOKS[-1])
LONG = 40  # a plan of more trials gives each reason once, at its end


def print_plan(plan: Plan, stream: IO[str], protocol: Protocol | None = None) -> None:
    """Print the trials of a plan, which cannot run and why, and which compute the same as another.

    `protocol`: what is known of the data, where they have been read.
    """
    for line in plan_lines(plan, protocol):
        stream.write(line + "\n")


def plan_lines(plan: Plan, protocol: Protocol | None = None) -> Iterator[str]:
    """The lines of `print_plan`."""
    if isinstance(plan, TablePlan):
        yield from table_lines(plan)
        return
    first = plan.trials[0].config
    varying = _varying(plan)
    fields = {name: _value(first, name) for name in SHOWN} | dict.fromkeys(varying, "(swept)")
    patches = "" if PATCHING & (varying | plan.sweep.swept) else f" ({first.num_patches} patches)"
    yield f"{plan.sweep.name}: {plan.sweep.question}"
    yield (
        f"  data   {fields['data.dataset']}, {fields['data.context_length']} -> {fields['data.prediction_length']} "
        f"steps, feed {fields['data.feed']}"
    )
    if plan.placement is not None and plan.placement.feed != USUAL:
        yield f"         feed {plan.placement.feed}: {plan.placement.reason}"
    if protocol is not None:
        yield from (f"         {line}" for line in protocol_lines(protocol))
    yield from _windows_lines(plan)
    yield (
        f"  model  preset {fields['model.preset']}, patch {fields['model.patch_length']}{patches}, "
        f"d_model {fields['model.d_model']}, {counted(fields['model.num_heads'], 'head')}, "
        f"{counted(fields['model.num_layers'], 'layer')}, "
        f"attention {fields['model.attention']}, layers {fields['model.layers']}{_recomputing(fields)}"
    )
    yield from _variant_lines(plan)
    yield from _layers_lines(plan)
    by_default = "" if all(trial.batch_named for trial in plan.trials) else " (default)"
    yield (
        f"  train  {counted(fields['train.epochs'], 'epoch')}{_patience(fields)}, "
        f"batch {fields['train.batch_size']}{by_default}, {fields['train.precision']}, engine {fields['train.engine']}"
    )
    yield from _batch_lines(plan)
    if not first.train.read_test:
        yield "         test set not read (--no-test)"
    yield f"  device {plan.device.name}{_how_known(plan)}"
    yield from _memory_lines(plan)
    if isinstance(plan, SearchPlan) or len(plan.sweep.arms) > 1:
        yield f"  ratios against the arm {plan.sweep.baseline}"
    if asks_for_errors(plan) and plan.device.device_type == "cuda":
        yield SHARING
    if isinstance(plan, SearchPlan):
        yield from describe(plan)
    known = "known before the search: " if isinstance(plan, SearchPlan) else ""
    if plan.repeats == AUTO:
        yield from _auto_lines(plan, known)
        return
    yield f"  {known}{counted(len(plan.trials), 'trial')}, {len(plan.runnable)} can run:"
    yield from _trial_lines(plan.trials)


def _patience(fields: Mapping[str, Any]) -> str:
    """at most (patience 10); "" where no training stops early."""
    patience = fields["train.patience"]
    return "" if patience in (None, "None", "null", "") else f" at most (patience {patience})"


def _auto_lines(plan: Plan, known: str) -> Iterator[str]:
    """The trials of the blocks before the first look, and how many more there may be."""
    first, most = (tuple(trial for trial in plan.trials if plan.block(trial) < look.blocks) for look in ENDS)
    looks = ", ".join(str(look.blocks) for look in LOOKS[:-1])
    yield (
        f"  {known}{len(first)} to {len(most)} trials in {blocks_text(plan.repeats)}: looks after {looks} and "
        f"{LOOKS[-1].blocks} blocks end the arms whose speed and error are decided, or have little chance of it"
    )
    yield f"  the first {ENDS[0].blocks} blocks, {sum(trial.unsupported is None for trial in first)} trials can run:"
    yield from _trial_lines(first)


def _layers_lines(plan: Plan) -> Iterator[str]:
    """On a GPU: why trials run through transformers' layers, which are slower than the fused ones."""
    if plan.device.device_type != "cuda":
        return
    configs = [trial.config for trial in plan.trials if trial.config.model.layers == "transformers"]
    for reason in dict.fromkeys(filter(None, (why_not_fused(config, plan.device) for config in configs))):
        yield f"         layers transformers: {reason.removesuffix(f': {INSTEAD}')}"


def _windows_lines(plan: Plan) -> Iterator[str]:
    """How many windows an epoch can train."""
    counts = sorted({trial.train_windows for trial in plan.trials if trial.train_windows})
    if plan.data.rows is None:
        yield "  data   not read yet: the number of windows, and whether they fit, shows when the sweep starts"
    elif counts:
        how_many = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        yield f"         {how_many} training windows, of which an epoch drops the last part of a batch"


def _batch_lines(plan: Plan) -> Iterator[str]:
    """Where the batch of the arms that name none comes from, if it is not the usual one, or not known yet."""
    if all(trial.batch_named for trial in plan.trials):
        return
    if plan.data.rows is None:
        few = LARGEST * LEAST_STEPS
        yield f"         batch: less if the data turn out to hold fewer than {few:,} training windows: {RULE}"
    elif plan.data.default_batch not in (None, LARGEST):
        yield f"         batch {plan.data.default_batch}, as nobody named one: {RULE}; the same in every arm"


def _varying(plan: Plan) -> set[str]:
    """The shown fields that the sweep changes, or that differ between its trials: a preset fills several."""
    first = plan.trials[0].config
    configs = [trial.config for trial in plan.trials]
    return {
        name
        for name in SHOWN
        if name in plan.sweep.swept or any(_value(config, name) != _value(first, name) for config in configs)
    }


def _value(config: TrialConfig, name: str) -> Any:
    group, field = name.split(".")
    return getattr(getattr(config, group), field)


def _how_known(plan: Plan) -> str:
    if not plan.device.assumed:
        return ""
    if plan.device.missing is None:
        return " (assumed, as --gpu-model says; which packages are installed there is not known)"
    return " (assumed: this machine's)"


def _memory_lines(plan: Plan) -> Iterator[str]:
    """What the arms' steps need of the GPU's memory, as far as it is known."""
    sizes = sorted({trial.memory_gib for trial in plan.runnable if trial.memory_gib is not None})
    if not sizes:
        return
    needed = f"{sizes[0]:.2f}" if len(sizes) == 1 else f"{sizes[0]:.2f} to {sizes[-1]:.2f}"
    has = "" if plan.device.memory_gib is None else f" of the GPU's {plan.device.memory_gib:.1f}"
    yield f"  memory {needed} GiB{has} at the peak of a training step (estimated, +-{100 * ERROR:.0f} %)"
    if any(each.config.model.recompute == "always" for each in plan.runnable):
        yield "         recompute always: a layer's activations are computed again in the backward pass, to keep less"


def _variant_lines(plan: Plan) -> Iterator[str]:
    """What the arms' models are otherwise than transformers builds them."""
    said = []
    for name, usual in UNSAID_OF_A_MODEL.items():
        values = {getattr(trial.config.model, name) for trial in plan.trials}
        if f"model.{name}" not in SHOWN and values != {usual}:
            said.append(f"{name.replace('_', ' ')} {'(swept)' if len(values) > 1 else values.pop()}")
    yield from (f"         {line}" for line in textwrap.wrap(", ".join(said), 100))


def _recomputing(fields: Mapping[str, Any]) -> str:
    value = fields["model.recompute"]
    return "" if value in ("never", "auto") else f", recompute {value}"


def _trial_lines(trials: Sequence[PlannedTrial]) -> Iterator[str]:
    reasons = Counter(trial.unsupported for trial in trials if trial.unsupported)
    marks = {reason: f"UNSUPPORTED [{number}]" for number, reason in enumerate(reasons, 1)}
    long = len(trials) > LONG
    sizes = {trial.memory_gib for trial in trials if trial.unsupported is None}
    for trial in trials:
        size = f"  {trial.memory_gib:.2f} GiB" if len(sizes) > 1 and trial.memory_gib in sizes else ""
        yield f"    {trial.trial_id}{size}{_remark(trial, marks if long else {})}"
    if long:
        for number, (reason, count) in enumerate(reasons.items(), 1):
            yield f"  [{number}] {counted(count, 'trial')}: {reason}"


def _remark(trial: PlannedTrial, marks: dict[str, str]) -> str:
    if trial.unsupported:
        return "  " + marks.get(trial.unsupported, f"UNSUPPORTED: {trial.unsupported}")
    if not trial.config.rules.compared:
        return f"  ({trial.config.rules.shown_as}: gate not enforced, in no comparison with the baseline)"
    if trial.same_as and trial.config.pruning.heads_to_remove:
        return f"  (same removals as {trial.same_as} at {counted(trial.config.train.epochs, 'epoch')})"
    return f"  (the same computation as {trial.same_as})" if trial.same_as else ""
