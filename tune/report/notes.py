"""The lines beside the table."""

from __future__ import annotations

from collections.abc import Sequence

from tune.machine.environment import mixture
from tune.report.ablation import ablation_notes
from tune.report.answer import answer_line
from tune.report.arms import ArmRow, arm_of, has_arm_and_seed, json_or_text, trained_by_arm
from tune.report.bottlenecks import time_notes
from tune.report.comparisons import moved_notes, pairing_notes
from tune.report.data import data_notes
from tune.report.errors_on_test import errors_on_test_notes
from tune.report.looks import look_notes
from tune.report.naive import is_beaten_by_naive, naive_note
from tune.report.pareto import search_notes
from tune.report.proof import proof_note
from tune.report.published import published_notes
from tune.report.same_epochs import same_epochs, same_epochs_note
from tune.report.series import left_out_note
from tune.report.setting import batch_note, setting_note, untested_note
from tune.report.stalls import stall_note
from tune.report.work import REFUSED
from tune.stats.pairs import MARGIN
from tune.tracking.reader import SweepRecord
from tune.tracking.store import REFUSED as REFUSED_RECORDS
from tune.tracking.store import STOPPED

TIME_NOTE = (
    "Values are means over the seeds: 'val MSE' of a trial's best epoch, 'test MSE' of the same epoch. An epoch drops "
    "the last part of a batch: it trains 'windows/epoch' in 'steps/epoch'. 'all windows s/epoch' is the median time of "
    "the training part of an epoch, without validation, times all training windows over those trained; 'train total s' "
    "likewise. For a pruned arm, only epochs after the last removal count."
)


def notes(record: SweepRecord, rows: Sequence[ArmRow], *, margin: float = MARGIN) -> list[str]:
    """What a reader must know beside the table. The last line is the sweep's answer.

    The lines say what all trials share, what naive forecasts reach, what did not run or is missing, what bounds each
    arm and what the ratios are of. `rows` and `margin` are those of `arm_rows`.
    """
    lines = setting_note(record) + batch_note(record) + untested_note(record) + data_notes(record) + naive_note(record)
    lines += left_out_note(record) + stall_note(trained_by_arm(record))
    lines += [f"{row.arm}: {row.status}: {row.reason}" for row in rows if row.reason]
    if record.status == "interrupted" and (stopped := record.tags.get(STOPPED)):
        lines.append(f"{stopped[0].upper()}{stopped[1:]}. The same command goes on from here.")
    if unknown := [trial.trial_id for trial in record.trials if not has_arm_and_seed(trial)]:
        lines.append(f"MLflow holds no arm or seed of {', '.join(unknown)}: the same command again sends them.")
    lines += _refused_note(record)
    if "baseline" not in record.tags:
        lines.append("MLflow does not hold which arm is the baseline: there is no 'x baseline'.")
    epochs = {arm_of(trial): trial.params.get("train.epochs", "?") for trial in record.trials}
    lines += [
        f"{row.arm} is the same computation as {row.same_as}: same removals at {epochs[row.arm]} epochs."
        for row in rows
        if row.same_as
    ]
    arms = trained_by_arm(record)
    lines += [f"{row.arm} is refused, so it is in no comparison: {row.refused}." for row in rows if row.refused]
    lines += [*proof_note(arms), *time_notes(arms), TIME_NOTE, *published_notes(arms)]
    lines += ablation_notes(record, arms, margin=margin)
    by_arm = {row.arm: row.comparison for row in rows if row.comparison}
    lines += pairing_notes(by_arm, margin) + look_notes(by_arm)
    baseline = record.tags.get("baseline")
    in_order = [trial for trials in arms.values() for trial in trials]
    lines += same_epochs_note(
        same_epochs([trial for trial in in_order if REFUSED not in trial.tags], baseline, margin), baseline
    )
    lines += moved_notes(arms, baseline) + _environments_note(record) + search_notes(record)
    lines += errors_on_test_notes(arms, baseline, by_arm, margin)
    answer = answer_line(record, rows)
    return [*lines, answer] if answer else lines


def warnings(record: SweepRecord, rows: Sequence[ArmRow], margin: float) -> list[str]:
    """What a reader must know before the numbers: a model of no use, timings or errors that are not to be trusted."""
    arms, baseline = trained_by_arm(record), record.tags.get("baseline")
    compared = {row.arm: row.comparison for row in rows if row.comparison}
    naive = naive_note(record) if is_beaten_by_naive(record) else []
    return [*naive, *stall_note(arms), *errors_on_test_notes(arms, baseline, compared, margin)]


def _refused_note(record: SweepRecord) -> list[str]:
    refused = record.tags.get(REFUSED_RECORDS, "0")
    kept = "outbox.jsonl.rejected in the sweep's folder keeps them"
    return [] if refused == "0" else [f"MLflow refused {refused} records, whose values are missing here; {kept}."]


def _environments_note(record: SweepRecord) -> list[str]:
    """One line where --resume continued with other versions or code than some of the trials ran on."""
    texts = dict.fromkeys(trial.tags["environment"] for trial in record.trials if "environment" in trial.tags)
    contents = [json_or_text(text) for text in texts]
    differing = mixture([content for content in contents if isinstance(content, dict)])
    if not differing:
        return []
    effect = "the trials of a pair may differ in these too, not only in what is compared"
    return [f"The sweep was resumed in another environment: {'; '.join(differing)}; {effect}."]
