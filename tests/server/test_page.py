"""The chat page in a real browser without a screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.conftest import Live, started

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PASSAGE = "The mayor of Quillmere is Torvane. Quillmere has 7215 inhabitants.\n\nHow many people live in Quillmere?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    if CHROMIUM is None:
        pytest.skip("no chromium found (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        started_browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started_browser
        started_browser.close()


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
    return message.type == "error" and "status of 4" not in message.text  # a refused request is told on the page


def ask(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def answers(page: Any) -> list[str]:
    page.wait_for_selector("#again:not([hidden])")
    return [item.inner_text() for item in page.query_selector_all("li.assistant .text")]


def test_the_policy_is_strict_and_nothing_comes_from_elsewhere(live: Live) -> None:
    for path in ("/", "/page.css", "/page.js"):
        answer = httpx.get(live.url + path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "://" not in answer.text


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
    assert "length" in page.inner_text("li.assistant .figures")


@pytest.mark.browser
def test_conversations_are_kept_in_the_browser(page: Any) -> None:
    ask(page, PASSAGE)
    answers(page)
    page.click("#new")
    ask(page, "Hello!")
    answers(page)
    page.reload()
    names = [item.inner_text() for item in page.query_selector_all("#conversations li button:first-child")]
    assert names == ["Hello!", PASSAGE[:40]]
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
