"""The report as one HTML file: nothing is loaded from elsewhere, and nothing in it runs."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from typing import Any

from twofold.migrate.answers import Answer
from twofold.migrate.charts import curves, histogram, told_s
from twofold.migrate.figures import SideFigures
from twofold.migrate.judging import Pair, Validity
from twofold.migrate.report import Report

MOST_PAIRS = 300
MOST_TEXT = 20_000
"""Characters of a text that are shown; report.json has all of it."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page_of(report: Report) -> str:
    """The whole page."""
    style = (resources.files("twofold.migrate") / "report.css").read_text("utf-8")
    verdict = "go" if report.verdict.is_go else "no-go"
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{verdict}: old and new compared</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="referrer" content="no-referrer">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head><body>'
    )
    parts = [opening(report), checks(report), figures(report), charts(report), troubles(report), answers(report)]
    return head + "".join(parts) + "</body></html>\n"


def opening(report: Report) -> str:
    """Title, sides and verdict."""
    kind, word = ("go", "Go") if report.verdict.is_go else ("no", "No-go")
    reasons = "".join(f"<li>{shown(reason)}</li>" for reason in report.verdict.reasons)
    told = f"<ul>{reasons}</ul>" if reasons else "<p>Every check passed.</p>"
    asked = f"{report.figures.requests} of {report.wanted} requests asked"
    return (
        f"<h1>Old and new on the same traffic</h1><p><b class='old'>Old</b> {shown(report.old)}<br>"
        f"<b class='new'>New</b> {shown(report.new)}</p><p class='dim'>{shown(report.made)} · {asked}</p>"
        f"<section class='verdict {kind}'><strong>{word}</strong>{told}</section>"
    )


def checks(report: Report) -> str:
    """Every check with its limit."""
    words = {True: ("passed", "passed"), False: ("failed", "not passed"), None: ("dim", "nothing to judge")}
    rows = "".join(
        f"<tr><td>{shown(check.name)}</td><td>{shown(check.found)}</td><td>{shown(check.limit)}</td>"
        f"<td class='{words[check.passed][0]}'>{words[check.passed][1]}</td></tr>"
        for check in report.verdict.checks
    )
    head = "<thead><tr><th>check</th><th>found</th><th>limit</th><th>result</th></tr></thead>"
    return f"<h2>Checks</h2><table class='checks'>{head}<tbody>{rows}</tbody></table>"


def figures(report: Report) -> str:
    """The figures of both sides, and how they were measured."""
    rows = "".join(
        f"<tr><td>{shown(name)}</td><td class='number'>{shown(old)}</td><td class='number'>{shown(new)}</td></tr>"
        for (name, old), (_, new) in zip(
            side_rows(report.figures.old, report), side_rows(report.figures.new, report), strict=True
        )
    )
    both = report.figures
    alike = (
        f"Of {both.pairs} requests that both answered, {percent(both.exact)} have the same answer to the letter, "
        f"{percent(both.normalised)} the same but for case, spaces and closing signs; on average "
        f"{percent(both.overlap)} of the words are in common."
    )
    if both.calls_judged:
        alike += f" Where one of them calls tools, {both.same_calls} of {both.calls_judged} times both call the same."
    settings = "; ".join(f"{name}: {value}" for name, value in report.settings.items())
    return (
        f"<h2>Figures</h2><p>{alike}</p><table><thead><tr><th></th><th class='number old'>old</th>"
        f"<th class='number new'>new</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<p class='dim'>One request at a time, the sides take turns in going first; times count from when a request "
        f"is sent over an open connection. Tokens are each side's own count, with its own tokenizer.<br>"
        f"{shown(settings)}</p>"
    )


def side_rows(side: SideFigures, report: Report) -> list[tuple[str, str]]:
    """Names and figures of one side."""
    asked = report.figures.requests
    return [
        ("answered", f"{side.answered} of {asked}"),
        ("empty answers", str(side.empty)),
        ("cut at the longest length", str(side.cut)),
        ("valid tool calls", f"{side.tools_valid} of {side.tools_judged}"),
        ("valid JSON answers", f"{side.forms_valid} of {side.forms_judged}"),
        ("tokens read", count(side.prompt_tokens)),
        ("tokens written", count(side.completion_tokens)),
        ("first token, median", seconds(side.first_token_median_s)),
        ("first token, 95 %", seconds(side.first_token_p95_s)),
        ("whole answer, median", seconds(side.total_median_s)),
        ("whole answer, 95 %", seconds(side.total_p95_s)),
        (f"cost of these requests, {report.currency}", "no price given" if side.cost is None else f"{side.cost:.6f}"),
    ]


def charts(report: Report) -> str:
    """Times of both sides, and how much the answers have in common."""
    old = [pair.old.total_s for pair in report.pairs if pair.old.failure is None]
    new = [pair.new.total_s for pair in report.pairs if pair.new.failure is None]
    times = curves(old, new)
    alike = histogram([pair.agreement.overlap for pair in report.pairs if pair.agreement])
    drawn = [(times, "Time to the end of an answer"), (alike, "How alike the answers are")]
    inside = "".join(f"<figure><figcaption>{words}</figcaption>{chart}</figure>" for chart, words in drawn if chart)
    return f"<h2>Charts</h2><div class='charts'>{inside}</div>" if inside else ""


def troubles(report: Report) -> str:
    """Lines that could not be asked, and what was not checked."""
    lines = [f"line {line} was not asked: {problem}" for line, problem in report.bad_lines]
    unchecked: set[str] = set()
    notes: set[str] = set()
    for pair in report.pairs:
        unchecked |= {*pair.old_validity.unchecked, *pair.new_validity.unchecked}
        notes |= {f"old: {note}" for note in pair.old.notes} | {f"new: {note}" for note in pair.new.notes}
    lines += [f"not checked in schemas: {', '.join(sorted(unchecked))}"] if unchecked else []
    lines += sorted(notes)
    inside = "".join(f"<li>{shown(line)}</li>" for line in lines)
    return f"<h2>Notes</h2><ul>{inside}</ul>" if inside else ""


def answers(report: Report) -> str:
    """Side by side, the worst first."""
    ordered = sorted(report.pairs, key=badness)
    some = ordered[:MOST_PAIRS]
    left = f" Shown are {MOST_PAIRS} of {len(ordered)}; report.json has all." if len(ordered) > MOST_PAIRS else ""
    return f"<h2>Answers</h2><p class='dim'>The least alike first.{left}</p>" + "".join(map(pair_part, some))


def badness(pair: Pair) -> tuple[float, int]:
    """Failures first, then what is invalid, then by how alike the answers are."""
    if pair.new.failure is not None or pair.old.failure is not None:
        return (-2 if pair.new.failure is not None else -1, pair.ask.line)
    invalid = False in (pair.new_validity.tools, pair.new_validity.form)
    return (-0.5 if invalid else pair.agreement.overlap if pair.agreement else 0.0, pair.ask.line)


def pair_part(pair: Pair) -> str:
    """One request with both answers, closed at first."""
    badges = []
    for name, side, judged in (("old", pair.old, pair.old_validity), ("new", pair.new, pair.new_validity)):
        if side.failure is not None:
            badges.append(badge(f"{name}: {side.failure.split(':')[0][:24]}", False))
        elif False in (judged.tools, judged.form):
            badges.append(badge(f"{name}: invalid", False))
    if pair.agreement:
        alike = "the same" if pair.agreement.exact else f"{pair.agreement.overlap * 100:.0f} % alike"
        badges.append(badge(alike, True if pair.agreement.normalised else None))
    words = question(pair.ask.body)
    return (
        f"<details><summary><span class='number'>line {pair.ask.line}</span><span class='words'>{shown(words)}</span>"
        f"{''.join(badges)}</summary><pre>{shown(request_text(pair.ask.body))}</pre><div class='sides'>"
        f"{side_part('old', pair.old, pair.old_validity)}"
        f"{side_part('new', pair.new, pair.new_validity)}</div></details>"
    )


def badge(words: str, is_good: bool | None) -> str:
    """A short word in a frame."""
    kind = {True: " passed", False: " failed", None: ""}[is_good]
    return f"<span class='badge{kind}'>{shown(words)}</span>"


def side_part(name: str, answer: Answer, judged: Validity) -> str:
    """One answer."""
    parts = []
    if answer.failure is not None:
        parts.append(f"<p class='failed'>{shown(answer.failure)}</p>")
    if answer.text or (answer.failure is None and not answer.calls):
        parts.append(f"<pre>{shown(answer.text) or '<span class=dim>(empty)</span>'}</pre>")
    parts += [f"<pre>{shown(call.name)}({shown(call.arguments)})</pre>" for call in answer.calls]
    parts += [f"<p class='failed'>{shown(problem)}</p>" for problem in judged.problems]
    facts = [
        f"{count(answer.prompt_tokens)} tokens read, {count(answer.completion_tokens)} written",
        f"first token {seconds(answer.first_token_s)}, all {seconds(answer.total_s)}",
        f"ended by {answer.finish or 'nothing'}",
    ]
    return f"<div class='side {name}'><h3>{name}</h3>{''.join(parts)}<small>{shown(' · '.join(facts))}</small></div>"


def question(body: Any) -> str:
    """What a request asks, in a line: the last line of its last message, or of its prompt."""
    text = str(body.get("prompt", "")) if "messages" not in body else content_text(body["messages"][-1])
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "(empty)"


def request_text(body: Any) -> str:
    """A request to read: its messages one after the other, and the names of its tools."""
    if "messages" not in body:
        return str(body.get("prompt", ""))
    lines = [f"{message.get('role')}: {content_text(message)}" for message in body["messages"]]
    others = {name: value for name, value in body.items() if name != "messages"}
    return "\n".join([*lines, json.dumps(others)] if others else lines)


def content_text(message: Any) -> str:
    """A message's content, and its tool calls."""
    content = message.get("content")
    calls = f" {json.dumps(message['tool_calls'])}" if message.get("tool_calls") else ""
    return (content if isinstance(content, str) else json.dumps(content)) + calls


def shown(words: str) -> str:
    """Words made safe for the page, and cut to a length that can be shown."""
    cut = words if len(words) <= MOST_TEXT else words[:MOST_TEXT] + f" ... ({len(words) - MOST_TEXT:,} characters more)"
    return escape("".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in cut))


def percent(share: float | None) -> str:
    """A share, or that there is none."""
    return "none" if share is None else f"{share * 100:.0f} %"


def count(number: int | None) -> str:
    """A whole number with its thousands parted."""
    return "not told" if number is None else f"{number:,}"


def seconds(value: float | None) -> str:
    """Seconds with their unit."""
    return "not known" if value is None else f"{told_s(value)} s"
