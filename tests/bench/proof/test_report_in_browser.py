"""The report in a real browser without a screen: in light, in dark, on a phone, on paper.

REPORT_SHOTS=FOLDER keeps pictures.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from tests.bench.proof.proofs import MAKERS
from twofold.bench.proof.report import render

VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1100, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1100, "height": 900}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 360, "height": 740}, "color_scheme": "light"},
}
LEAST_PIXELS = 9.9
LEAST_CONTRAST = 4.5
"""What WCAG 2.2 asks of text (AA)."""

TEXT_SIZES = """[...document.querySelectorAll("svg.plot")].flatMap(plot => {
  const factor = plot.getBoundingClientRect().width / plot.viewBox.baseVal.width;
  return [...plot.querySelectorAll("text")].map(text => factor * parseFloat(getComputedStyle(text).fontSize));
})"""
OUTSIDE = """[...document.querySelectorAll("svg text, svg rect, svg circle")].filter(item => {
  const own = item.getBoundingClientRect(), plot = item.ownerSVGElement.getBoundingClientRect();
  return own.left < plot.left - 2 || own.right > Math.max(plot.right + 2, document.documentElement.clientWidth)
    || own.top < plot.top - 2 || own.bottom > plot.bottom + 2;
}).map(item => item.outerHTML)"""
HIDDEN = """[...document.querySelectorAll("svg.plot")].filter(plot => {
  const box = plot.getBoundingClientRect();
  return box.width < 250 || box.height < 80 || !plot.checkVisibility();
}).length"""
CONTRASTS = """[".note", ".absent", "h1", ".says", "td", "small", ".baseline-text", ".candidate-text", "svg.plot text"]
.flatMap(kind => [...document.querySelectorAll(kind)].slice(0, 3)).map(item => {
  const light = colour => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(item);
  const ink = light(item.ownerSVGElement ? style.fill : style.color);
  const back = light(getComputedStyle(document.body).backgroundColor);
  return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of report as a file."""
    folder = tmp_path_factory.mktemp("reports")
    for name, maker in MAKERS.items():
        (folder / f"{name}.html").write_text(render(*maker()), encoding="utf-8")
    return folder


def opened(browser: Any, path: Path, view: str, troubles: list[str]) -> Any:
    page = browser.new_context(**VIEWS[view]).new_page()
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.on("request", lambda asked: None if asked.url == path.as_uri() else troubles.append(asked.url))
    page.goto(path.as_uri())
    return page


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "view"),
    [*((name, "narrow") for name in MAKERS), *itertools.product(("complete", "hostile"), ("light", "dark"))],
)
def test_a_report_can_be_read_anywhere_and_asks_for_nothing(browser: Any, folder: Path, name: str, view: str) -> None:
    troubles: list[str] = []
    page = opened(browser, folder / f"{name}.html", view, troubles)
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= VIEWS[view]["viewport"]["width"]
    assert page.evaluate(HIDDEN) == 0
    assert page.evaluate(OUTSIDE) == []
    assert min(page.evaluate(TEXT_SIZES), default=LEAST_PIXELS) >= LEAST_PIXELS
    assert min(page.evaluate(CONTRASTS)) >= LEAST_CONTRAST
    if os.environ.get("REPORT_SHOTS"):
        page.screenshot(path=Path(os.environ["REPORT_SHOTS"]) / f"{name}-{view}.png", full_page=True)
    page.context.close()
    assert troubles == []


@pytest.mark.browser
def test_the_style_is_applied_in_both_themes_and_paper_is_white(browser: Any, folder: Path) -> None:
    backs = {}
    for view in ("light", "dark"):
        page = opened(browser, folder / "complete.html", view, [])
        backs[view] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.context.close()
    assert backs == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 22, 21)"}


@pytest.mark.browser
def test_figures_of_a_plot_are_told_under_the_pointer(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "complete.html", "light", [])
    titles = page.evaluate("[...document.querySelectorAll('svg.plot title')].map(item => item.textContent)")
    assert any(title.startswith("candidate: half within") for title in titles)
    assert any(title.startswith("round 4: ") for title in titles)
    page.context.close()
