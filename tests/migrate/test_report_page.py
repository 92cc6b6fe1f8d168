from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from twofold.migrate.answers import Answer, Ask, Call
from twofold.migrate.charts import curves, histogram, ticks
from twofold.migrate.comparing import Comparison
from twofold.migrate.judging import judge
from twofold.migrate.report import Report
from twofold.migrate.report_page import MOST_PAIRS, page_of
from twofold.migrate.verdict import Limits

ATTACK = (
    "</pre><script>document.title = 'owned'</script><img src=http://192.0.2.1/x onerror=\"document.title='owned'\">"
)
WIDE = "x" * 3000


class Said:
    """A side that is only named."""

    def __init__(self, told: str) -> None:
        self.told = told

    def answer(self, ask: Ask) -> Answer:
        raise NotImplementedError


def report(count: int = 6, wanted: int | None = None) -> Report:
    tool = {"type": "function", "function": {"name": ATTACK, "parameters": {}}}
    body = {"messages": [{"role": "user", "content": f"A question\n{ATTACK}"}], "tools": [tool]}
    asks = [Ask(line=index + 1, kind="chat", body=body) for index in range(count)]
    good = Answer(text=ATTACK + WIDE, calls=(Call(ATTACK, ATTACK),), total_s=0.5, first_token_s=0.1, finish=ATTACK)
    pairs = [
        judge(ask, good, good if index % 2 else Answer(failure=ATTACK, total_s=2)) for index, ask in enumerate(asks)
    ]
    sides = {"old": Said(ATTACK), "new": Said(f"demo {WIDE}")}
    comparison = Comparison(**sides, limits=Limits(), bad_lines=((3, ATTACK),), settings={"prompts": ATTACK})
    return comparison.report(pairs, wanted or count)


def test_nothing_of_what_was_asked_or_said_becomes_a_part_of_the_page() -> None:
    page = page_of(report())
    assert re.findall(r"<(script|img|iframe|link|object|a)\b", page) == []
    assert "default-src 'none'" in page
    assert re.findall(r"<[^>]*\b(?:src|href|on\w+)=|url\(|@import", page) == []


def test_a_part_is_marked_and_a_long_list_is_cut_with_a_word_about_it() -> None:
    page = page_of(report(MOST_PAIRS + 5, 1000))
    assert page.count("<details>") == MOST_PAIRS
    assert f"{MOST_PAIRS} of {MOST_PAIRS + 5}; report.json has all" in page
    assert f"{MOST_PAIRS + 5} of 1000 requests asked" in page
    assert "not all requests were asked" in page


def test_charts_of_few_many_and_no_values() -> None:
    assert (curves([], []), histogram([])) == ("", "")
    for values in ([0.5], [0.5, 0.5], [0.001 * index for index in range(1, 2000)], [1e-6, 1e6]):
        chart = curves(values, [])
        assert chart.count("<path") == 2
        assert "nan" not in chart
    assert ticks(-2, 2) == [0.01, 0.1, 1.0, 10.0, 100.0]
    assert histogram([0.0, 1.0, 0.55]).count("<rect") == 10


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 360), ("dark", 360)])
def test_it_opens_in_a_browser_light_and_dark_wide_and_narrow(
    browser: Any, tmp_path: Path, scheme: str, width: int
) -> None:
    (tmp_path / "report.html").write_text(page_of(report()), "utf-8")
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    page = context.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith("file:") else troubles.append(asked.url))
    page.goto((tmp_path / "report.html").as_uri())
    page.click("summary >> nth=-1")
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert page.title() == "no-go: old and new compared"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 22, 21)")
    assert page.evaluate("[...document.querySelectorAll('.verdict strong')].map(e => e.textContent)") == ["No-go"]
    context.close()
    assert troubles == []
