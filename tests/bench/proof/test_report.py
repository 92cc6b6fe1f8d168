from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.bench.proof.proofs import HOSTILE, MAKERS, complete, empty, endpoint, hostile, not_proven, partial
from twofold.bench.proof.model import METRICS
from twofold.bench.proof.report import render
from twofold.bench.proof.svg import printable

OPEN = {"meta", "br", "link", "img"}


class Reader(HTMLParser):
    """Every tag with its attributes, all text, and whether the tags close as they should."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.stack: list[str] = []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in OPEN:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("seed", [1, 7, 23])
def test_any_proof_becomes_a_page_that_needs_nothing_else(name: str, seed: int) -> None:
    page = render(*MAKERS[name](seed))
    page.encode()
    read = Reader(page)
    names = {tag for tag, _ in read.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "form", "a", "foreignobject", "use", "image"}
    for tag, attributes in read.tags:
        assert not {
            key for key in attributes if key.startswith("on") or key in ("style", "src", "href", "xlink:href")
        }, tag
    assert page.isprintable() or not re.search("[\x00-\x08\x0b-\x1f]", page)
    assert "://" not in re.sub(r"http://(old\.example|new\.example|127\.0\.0\.1):\d+", "", page)


def test_the_policy_allows_the_style_and_nothing_else() -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', render(*complete()))
    assert policy
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/]{43}='; base-uri 'none'; form-action 'none'", policy[1]
    )


def test_the_verdict_is_the_headline() -> None:
    for maker, headline in (
        (complete, "PROVEN 2."),
        (not_proven, "NOT PROVEN"),
        (partial, "PARTIAL"),
        (empty, "PARTIAL"),
    ):
        page = render(*maker())
        found = re.search("<h1>(.*?)</h1>", page)
        assert found
        assert found[1].startswith(headline)
    assert "the KL divergence is 0.0840 nats" in render(*not_proven())
    proof, samples = complete()
    cut = render(replace(proof, status="partial"), samples)
    assert "<h1>PARTIAL</h1>" in cut
    assert "<h1>NOT PROVEN</h1>" in render(replace(proof, verdict=None), samples)


def test_what_was_compared_is_one_sentence() -> None:
    text = Reader(render(*complete())).text
    for words in (
        "Compared were Llama-3.2-1B-Instruct in w4a8, twofold (candidate)",
        "with Llama-3.2-1B-Instruct in bf16, transformers",
        "(baseline) on Intel Xeon Platinum 8481C, 16 threads.",
        "Workload chat: a few users at once, short questions; 24 requests a round, 4 at once; 7 rounds in turns.",
        "26 November 2026, 05:33 UTC, seed 1.",
    ):
        assert words in text


@pytest.mark.parametrize("name", MAKERS)
def test_every_figure_is_defined_below(name: str) -> None:
    page = render(*MAKERS[name]())
    text = Reader(page[page.index("<footer>") :].replace("</body>\n</html>", "")).text
    for metric in METRICS.values():
        assert metric.title in text
        assert metric.meaning in text


def test_what_others_wrote_is_text_and_never_markup() -> None:
    plainly, attacked = Reader(render(*complete())), Reader(render(*hostile()))
    assert {tag for tag, _ in attacked.tags} <= {tag for tag, _ in plainly.tags} | {"details", "summary"}
    assert " ".join(printable(HOSTILE).split()) in attacked.text
    assert "{{ 7 * 7 }}" in attacked.text


def test_missing_parts_are_told_in_words() -> None:
    text = Reader(render(*endpoint())).text
    assert text.count("not measurable here") >= 12
    assert "no price is known of this machine" in text
    assert "Only answers could be compared" in text
    assert "None was noted; every request of every round was answered." in text
    assert "measured 2.37x, in too few rounds for an interval." in Reader(render(*partial())).text
    assert "1 of 48 answers of the baseline failed." in Reader(render(*partial())).text


def test_keys_are_not_shown() -> None:
    proof, samples = complete()
    command = ["twofold", "prove", "http://x", "--key", "secret", "--baseline-key=secret", "--key", "secret"]
    page = render(replace(proof, command=command), samples)
    assert "secret" not in page
    assert "prove http://x --key KEY --baseline-key=KEY --key KEY" in page


def test_the_command_to_repeat_it_is_there() -> None:
    text = Reader(render(*complete())).text
    assert "twofold prove --replay BUNDLE" in text
    assert "twofold prove meta-llama/Llama-3.2-1B-Instruct --against transformers --out 'a b'" in text
