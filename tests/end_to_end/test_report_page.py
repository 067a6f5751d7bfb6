"""The report page in Chromium: wide, narrow, dark and printed, also with names and reasons that are very long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from report_kit import sweep, trial
from ui_kit import chromium

from tune.report.render.page import html_page

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
LONG = "patch-patch-192-batch-128-device-0-taylor-1-one_shot-and-still_more_without_any_space"
# "fast" is faster and not worse, so there is an answer
TIMES = {"none": 2.0, "fast": 1.0, LONG: 3.0}


@pytest.fixture(scope="module", name="browser")
def browser_fixture() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module", name="html")
def html_fixture() -> str:
    curve = {"loss/val_mse": [0.5, 0.4, 0.3], "loss/train_mse": [0.4, 0.3, 0.2]}
    curve |= {f"time/{part}_s": [1.0, 0.9, 0.9] for part in ("step", "h2d", "data_wait", "launch", "other")}
    trials = [
        trial(arm, seed, s=s * (1 + 1e-3 * seed**2), history=curve) for arm, s in TIMES.items() for seed in (1, 2, 3)
    ]
    trials.append(trial("flash", 1, status="unsupported", reason="needs " + "x" * 300))
    return html_page(sweep(*trials, arms=",".join([*TIMES, "flash"]), swept="model.attention"))


def _open(browser: Any, html: str, viewport: dict[str, int], scheme: str = "light") -> Any:
    page = browser.new_page(viewport=viewport, color_scheme=scheme)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.set_content(html)
    assert problems == []  # among them: what the page's policy forbids
    return page


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["1440", "390"])
def test_no_part_of_the_page_needs_sideways_scrolling_and_the_chart_is_on_the_first_screen(
    browser: Any, html: str, viewport: dict[str, int]
) -> None:
    page = _open(browser, html, viewport)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    shown = page.locator("#chart-answer svg").locator("visible=true")
    assert shown.count() == 1
    box = shown.bounding_box()
    assert box["y"] + 120 < viewport["height"] and box["x"] >= 0 and box["x"] + box["width"] <= viewport["width"]
    page.close()


def test_letters_of_a_chart_are_no_smaller_on_a_phone(browser: Any, html: str) -> None:
    def height(viewport: dict[str, int]) -> float:
        page = _open(browser, html, viewport)
        text = page.locator("#chart-answer svg text").locator("visible=true").first
        try:
            return float(text.bounding_box()["height"])
        finally:
            page.close()

    assert height(NARROW) >= 0.9 * height(WIDE) > 10


def test_a_dark_window_gets_light_letters_in_text_and_chart_on_a_dark_page(browser: Any, html: str) -> None:
    page = _open(browser, html, WIDE, "dark")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    name = page.locator("#chart-answer .wide svg text").filter(has_text=re.compile("^fast$"))
    letters = name.evaluate("text => getComputedStyle(text).fill")
    assert background == "rgb(13, 17, 23)" and letters == "rgb(230, 237, 243)"
    page.close()


def test_print_shows_what_is_folded_on_white(browser: Any, html: str) -> None:
    page = _open(browser, html, WIDE, "dark")
    folded = "document.querySelector('details table').getBoundingClientRect().height"
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(folded) > 50
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--page').trim()") == "#ffffff"
    assert not page.locator("nav").is_visible()
    page.close()


def test_a_click_in_the_navigation_brings_the_part_to_the_top(browser: Any, html: str) -> None:
    page = _open(browser, html, WIDE)
    page.get_by_role("link", name="By epoch").click()
    top = page.locator("#epochs").evaluate("part => part.getBoundingClientRect().top")
    assert 0 <= top < 120
    page.close()
