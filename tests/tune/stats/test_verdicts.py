"""Verdicts are stored as codes; the words of a person and of earlier versions map to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tune.stats.pairs import Accuracy, Comparison
from tune.stats.verdicts import ACCURACY_WORDS, CODES, SPEED_WORDS, stored_verdict, too_few, too_few_text

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"


def test_the_codes_are_these_and_each_has_its_words() -> None:
    assert set(CODES) == {"faster", "slower", "within_margin", "undecided", "not_worse", "worse"}
    assert SPEED_WORDS.keys() | ACCURACY_WORDS.keys() == set(CODES)
    assert SPEED_WORDS == {
        "faster": "faster", "slower": "slower", "within_margin": "within 1 %", "undecided": "too close to call",
    }  # fmt: skip
    assert ACCURACY_WORDS == {"not_worse": "not worse", "worse": "worse", "undecided": "undecided"}


def test_too_few_pairs_have_words_and_no_code() -> None:
    assert (too_few("pair"), too_few_text(2, "trial")) == ("too few pairs", "too few trials (2, 3 needed)")
    assert not any("too few" in code for code in CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_stored_code_is_read_as_it_is(code: str) -> None:
    assert stored_verdict({"verdict": code}) == code


@pytest.mark.parametrize(
    ("stored", "code"),
    [
        ({"verdict": "no difference shown"}, "undecided"),
        ({"verdict": "no verdict (2 pairs, 3 needed)"}, None),
        ({"verdict": "not worse", "bounds": [-0.1, 0.001]}, "not_worse"),
        ({"verdict": "not shown", "bounds": [-0.1, 0.1]}, "undecided"),
        ({"verdict": "not shown", "bounds": None}, None),
        ({"verdict": None}, None),
    ],
    ids=str,
)
def test_words_of_earlier_versions_are_read_as_codes(stored: dict[str, Any], code: str | None) -> None:
    assert stored_verdict(stored) == code


def test_a_verdict_that_no_version_wrote_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'quick' is no verdict: known are faster, slower, within_margin, undecided"):
        stored_verdict({"verdict": "quick"})


def _recorded() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text())
        if isinstance(result, list):  # of a benchmark, which compares no arms
            continue
        for key in ("comparisons", "total_comparisons"):
            yield from ((f"{file.stem} {key} {arm}", stored) for arm, stored in result.get(key, {}).items())


def test_every_recorded_result_reads_as_the_verdicts_that_its_numbers_give_today() -> None:
    codes = set()
    for name, stored in _recorded():
        if stored.get("looks") is not None:
            continue
        numbers = {field: value for field, value in stored.items() if field not in ("verdict", "accuracy", "looks")}
        comparison = Comparison(**numbers, accuracy=None)
        assert stored_verdict(stored) == comparison.verdict, name
        codes.add(comparison.verdict)
        if (accuracy := stored["accuracy"]) is not None:
            numbers = {field: value for field, value in accuracy.items() if field != "verdict"}
            assert stored_verdict(accuracy) == Accuracy(**numbers).verdict, name
            codes.add(stored_verdict(accuracy))
    assert codes == {"faster", "slower", "undecided", "not_worse", None}


def test_every_recorded_verdict_of_a_look_is_what_its_interval_says() -> None:
    codes = set()
    for name, stored in _recorded():
        if (looks := stored.get("looks")) is None:
            continue
        speed, accuracy = looks["speed"], looks["accuracy"]
        low, high = speed["interval"]
        assert stored_verdict(stored) == speed["verdict"], name
        assert {"faster": low > 1, "slower": high < 1}[speed["verdict"]], name
        assert (stored["ratio"], stored["interval"]) == (speed["value"], speed["interval"]), name
        assert accuracy["verdict"] == "not_worse" and accuracy["interval"][1] < stored["accuracy"]["margin"], name
        codes.add(speed["verdict"])
    assert codes == {"faster", "slower"}
