"""The chat page in a real browser without a screen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import Live, started
from twofold.server.page import PATHS

STATIC = Path(__file__).parents[2] / "src" / "twofold" / "server" / "static"
NAMESPACE = "http://www.w3.org/2000/svg"
PASSAGE = "The mayor of Quillmere is Torvane. Quillmere has 7215 inhabitants.\n\nHow many people live in Quillmere?"


@pytest.fixture
def page(browser: Any, live: Live) -> Iterator[Any]:
    """A fresh page at the chat; whatever it logs as an error or asks of another host fails the test."""
    context = browser.new_context()
    opened = context.new_page()
    troubles: list[str] = []
    opened.on("console", lambda message: troubles.append(message.text) if is_trouble(message) else None)
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on(
        "request", lambda asked: None if asked.url.startswith((live.url, "data:")) else troubles.append(asked.url)
    )
    opened.goto(live.url)
    opened.fill("#temperature", "0")
    yield opened
    context.close()
    assert troubles == []


def is_trouble(message: Any) -> bool:
    return message.type == "error" and not re.search(
        "status of 4|ERR_INTERNET_DISCONNECTED", message.text
    )  # a refused request is told on the page


def ask(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def answers(page: Any) -> list[str]:
    page.wait_for_selector("#again:not([hidden])")
    return [item.inner_text() for item in page.query_selector_all("li.assistant .text")]


def test_the_policy_is_strict_and_nothing_comes_from_elsewhere(live: Live) -> None:
    for path in PATHS.values():
        answer = httpx.get(live.url + path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.text.replace(NAMESPACE, "").find("://") == -1


def test_no_text_can_become_markup_and_nothing_is_inline() -> None:
    files = {path.name: path.read_text() for path in STATIC.iterdir()}
    assert set(files) == set(PATHS)
    for name, text in files.items():
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "srcdoc", "DOMParser"):
            assert way not in text, name
    assert not re.search(r"<style|style=|\son\w+=|<script(?! src)", files["index.html"])


def test_colours_have_the_contrast_that_accessibility_asks_for() -> None:
    for theme in re.findall(r"--back:[^}]*", (STATIC / "page.css").read_text()):
        colour = dict(re.findall(r"--([\w-]+): (#\w{6});", theme))
        grounds = ("back", "soft", "raised", "code", "mine")
        pairs = [(ink, ground, 4.5) for ink in ("ink", "dim", "strong") for ground in grounds]
        pairs += [("on-strong", "strong", 4.5), ("bad", "bad-back", 4.5)]
        pairs += [("edge", ground, 3.0) for ground in ("back", "soft", "raised")]
        for ink, ground, least in pairs:
            assert contrast(colour[ink], colour[ground]) >= least, (ink, ground)


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two colours like #1b1c22."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.browser
def test_an_answer_streams_in_with_its_figures(page: Any) -> None:
    ask(page, PASSAGE)
    assert answers(page) == ["It is 7215."]
    figures = page.inner_text("li.assistant .figures")
    for words in ("first token after", "tokens/s", "cached"):
        assert words in figures
    assert page.inner_text("#model").startswith("demo")


@pytest.mark.browser
def test_an_answer_can_be_stopped_and_made_again(page: Any) -> None:
    page.fill("#system", "x")
    page.fill("#temperature", "5")
    ask(page, "Tell me a long story")
    page.wait_for_selector("li.assistant .text:not(:empty)")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send:not([hidden])")
    page.fill("#temperature", "0")
    page.fill("#max_tokens", "5")
    page.click("#again")
    assert len(answers(page)) == 1
    assert "cut at the most tokens" in page.inner_text("li.assistant .figures")


@pytest.mark.browser
def test_conversations_are_kept_in_the_browser(page: Any) -> None:
    ask(page, PASSAGE)
    answers(page)
    page.click("#new")
    ask(page, "Hello!")
    answers(page)
    page.reload()
    names = [item.inner_text() for item in page.query_selector_all("#conversations li button:first-child")]
    assert names == ["Hello!", "The mayor of Quillmere is Torvane. Quillmere…"]
    page.click("#conversations li:nth-child(2) button")
    assert page.inner_text("li.assistant .text") == "It is 7215."


@pytest.mark.browser
def test_what_a_model_writes_is_text_and_never_markup(page: Any) -> None:
    ask(page, "<img src=x onerror=alert(1)>")
    answers(page)
    assert page.inner_text("li.user .text") == "<img src=x onerror=alert(1)>"
    assert page.query_selector("#messages img") is None


@pytest.mark.browser
def test_a_refused_request_is_told(page: Any) -> None:
    page.fill("#max_tokens", "99999")
    ask(page, "Hello!")
    page.wait_for_selector("#problem:not([hidden])")
    assert "99999" in page.inner_text("#problem")


@pytest.mark.browser
def test_a_small_screen_hides_the_side_until_it_is_asked_for(page: Any) -> None:
    page.set_viewport_size({"width": 380, "height": 700})
    assert not page.is_visible("#side")
    page.click("#open-side")
    assert page.is_visible("#side")
    assert page.evaluate("document.documentElement.scrollWidth") <= 380


@pytest.mark.browser
def test_with_a_key_the_page_asks_for_a_password(browser: Any) -> None:
    with started("--api-key", "secret-key") as server:
        assert httpx.get(server.url + "/").headers["www-authenticate"].startswith("Basic")
        context = browser.new_context(http_credentials={"username": "me", "password": "secret-key"})
        opened = context.new_page()
        opened.goto(server.url)
        ask(opened, PASSAGE)
        assert answers(opened)[0]
        context.close()


MARKDOWN = """# Title

Some **bold**, *slanted* and `code` with [a link](https://example.org/page), [a trap](javascript:alert(1)).

- one
  1. nested
- two

```python
print("<b>" * 200 + "a line that is much wider than any screen it may be shown on, and then some more of it")
```

| a | b |
|---|---|
| 1 | <img src=x onerror=alert(1)> |

> quoted <script>alert(2)</script>
"""


def keep(page: Any, *conversations: Any) -> None:
    """Put conversations where the page keeps them, and come back."""
    page.evaluate("text => localStorage.setItem('twofold.conversations', text)", json.dumps(conversations))
    page.reload()


def conversation(name: str, *contents: str) -> Any:
    messages = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(contents)]
    return {"id": name, "name": name, "messages": messages}


@pytest.mark.browser
def test_markdown_is_shown_and_markup_in_it_stays_text(page: Any) -> None:
    keep(page, conversation("one", "Show me", MARKDOWN))
    text = page.query_selector("li.assistant .text")
    assert [item.inner_text() for item in text.query_selector_all("h2, strong, em, p code")] == [
        "Title", "bold", "slanted", "code",
    ]  # fmt: skip
    assert text.eval_on_selector("pre code", "item => getComputedStyle(item).fontFamily").find("monospace") > 0
    assert text.query_selector("ul > li > ol > li").inner_text() == "nested"
    assert [link.get_attribute("href") for link in text.query_selector_all("a")] == ["https://example.org/page"]
    assert "noopener" in text.query_selector("a").get_attribute("rel")
    assert text.query_selector("td:nth-child(2)").inner_text() == "<img src=x onerror=alert(1)>"
    assert text.query_selector_all("img, script, b") == []
    assert "[a trap](javascript:alert(1))" in text.inner_text()


@pytest.mark.browser
def test_markdown_that_is_cut_off_or_odd_is_shown_too(page: Any) -> None:
    odd = ["```", "**", "|", "- ", "1. a\n   ```\n", "> " * 50 + "x", "[](", "*" * 300, "`" * 301, "| a\n|-", "# "]
    keep(page, conversation("one", *[text for item in odd for text in ("Show me", item)]))
    assert len(page.query_selector_all("li.assistant .text")) == len(odd)


@pytest.mark.browser
def test_a_conversation_is_renamed_deleted_and_brought_back(page: Any) -> None:
    keep(page, conversation("first", "a", "b"), conversation("second", "c", "d"))
    page.hover("#conversations li:nth-child(2)")
    page.click("[aria-label='Rename second']")
    page.keyboard.type("Better name")
    page.keyboard.press("Enter")
    page.click("[aria-label='Delete first']")
    assert page.inner_text("#conversations") == "Better name"
    assert page.inner_text("#title") == "Better name"
    page.click("#undo")
    assert page.inner_text("#title") == "first"
    page.reload()
    names = [item.inner_text() for item in page.query_selector_all("#conversations .name")]
    assert names == ["first", "Better name"]


@pytest.mark.browser
def test_appearance_follows_the_system_or_what_was_chosen(page: Any) -> None:
    def background() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    page.emulate_media(color_scheme="dark")
    dark = background()
    assert light != dark
    page.select_option("#theme", "light")
    assert background() == light
    page.reload()
    assert background() == light


@pytest.mark.browser
def test_the_keyboard_reaches_everything(page: Any) -> None:
    page.fill("#text", "one")
    page.press("#text", "Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#text") == "one\ntwo"
    assert page.query_selector("#messages li") is None
    page.focus(".skip")
    reached = []
    focused = "document.activeElement"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(f"{focused} === document.body"):
            break
        reached.append(page.evaluate(f"{focused}.id"))
        assert page.evaluate(f"getComputedStyle({focused}.closest('form') ?? {focused}).outlineStyle") != "none"
    for name in ("new", "open-panel", "text", "send", "system", "temperature", "max_tokens", "theme", "key"):
        assert name in reached, name
    assert reached.index("new") < reached.index("text") < reached.index("send") < reached.index("system")


@pytest.mark.browser
def test_every_control_has_a_name(page: Any) -> None:
    keep(page, conversation("one", "Show me", MARKDOWN))
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, textarea, select, a, aside, nav")]
            .filter(item => !(item.getAttribute("aria-label") || item.textContent.trim() || item.labels?.length))
            .map(item => item.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.browser
def test_a_panel_over_the_chat_takes_and_returns_the_focus(page: Any) -> None:
    page.set_viewport_size({"width": 380, "height": 700})
    page.click("#open-panel")
    assert page.evaluate("document.activeElement.id") == "system"
    assert page.evaluate("document.getElementById('main').inert")
    page.keyboard.press("Escape")
    assert not page.is_visible("#panel")
    assert page.evaluate("document.activeElement.id") == "open-panel"


@pytest.mark.browser
def test_no_width_makes_the_page_scroll_sideways(page: Any) -> None:
    keep(page, conversation("one", "word" * 200, MARKDOWN + "x" * 500))
    for width in (320, 380, 700, 1000, 1600):
        page.set_viewport_size({"width": width, "height": 700})
        for inner in ("document.documentElement", "document.getElementById('scroll')"):
            assert page.evaluate(f"{inner}.scrollWidth <= {inner}.clientWidth"), width


@pytest.mark.browser
def test_a_reader_who_scrolled_up_is_left_in_peace(page: Any) -> None:
    keep(page, conversation("one", *["line\n\n" * 30] * 6))
    at_end = "(item => item.scrollHeight - item.scrollTop - item.clientHeight < 5)(document.getElementById('scroll'))"
    assert page.evaluate(at_end)
    page.evaluate("document.getElementById('scroll').scrollTop = 0")
    page.wait_for_selector("#latest:not([hidden])")
    page.click("#latest")
    assert page.evaluate(at_end)


@pytest.mark.browser
def test_an_answer_goes_on_while_another_conversation_is_read(page: Any) -> None:
    keep(page, conversation("other", "a", "b"))
    page.click("#new")
    page.fill("#temperature", "5")
    page.fill("#max_tokens", "300")
    ask(page, "Tell me a long story")
    page.click("#conversations li:nth-child(2) .name")
    assert page.inner_text("li.assistant .text") == "b"
    assert page.is_visible("#send")
    page.click("#conversations li:nth-child(1) .name")
    page.wait_for_selector("#again:not([hidden])")
    assert "written" in page.inner_text("li.assistant .figures")


@pytest.mark.browser
def test_a_server_that_cannot_be_reached_is_told_and_can_be_tried_again(page: Any) -> None:
    page.context.set_offline(True)
    ask(page, PASSAGE)
    page.wait_for_selector("#problem:not([hidden])")
    assert "cannot be reached" in page.inner_text("#problem")
    page.context.set_offline(False)
    assert page.inner_text("#again") == "Try again"
    page.click("#again")
    page.wait_for_selector("li.assistant .figures")
    assert answers(page) == ["It is 7215."]


@pytest.mark.browser
def test_a_server_that_keeps_sessions_is_told_which_conversation_it_is(browser: Any, tmp_path: Path) -> None:
    with started("--session-dir", str(tmp_path)) as server:
        context = browser.new_context()
        opened = context.new_page()
        with opened.expect_response("**/version"):
            opened.goto(server.url)
        ask(opened, PASSAGE)
        answers(opened)
        kept = opened.evaluate("JSON.parse(localStorage.getItem('twofold.conversations'))[0].id")

        def sessions() -> list[str]:
            return [item["id"] for item in httpx.get(server.url + "/v1/sessions").json()["data"]]

        assert sessions() == [kept]
        opened.click("#conversations [aria-label^=Delete]")
        with opened.expect_response(f"**/v1/sessions/{kept}"):
            ask(opened, PASSAGE)
        answers(opened)
        assert kept not in sessions()
        context.close()


@pytest.mark.browser
def test_an_answer_tells_its_cost_when_the_server_knows_a_price(browser: Any, page: Any) -> None:
    ask(page, PASSAGE)
    answers(page)
    assert "$" not in page.inner_text("li.assistant .figures")
    with started("--price-per-hour", "0.35") as server:
        context = browser.new_context(locale="en-US")
        priced = context.new_page()
        priced.goto(server.url)
        ask(priced, PASSAGE)
        answers(priced)
        assert re.search(r"\$0\.0000\d+", priced.inner_text("li.assistant .figures"))
        context.close()
