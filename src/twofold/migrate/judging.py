"""Two answers to one request, judged: how alike they are, and whether calls and forms are valid."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from twofold.migrate.answers import Answer, Ask, Call
from twofold.migrate.json_schema import canonical, check

WORD = re.compile(r"\w+|[^\w\s]")
MOST_PROBLEMS = 10


@dataclass(frozen=True, kw_only=True)
class Validity:
    """Whether an answer's tool calls, and its form, are valid; None where there was nothing to judge.

    problems: what is wrong. unchecked: parts of schemas that were not looked at.
    """

    tools: bool | None = None
    form: bool | None = None
    problems: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike two answers are. overlap: F1 of their words and signs, 0 to 1. calls: whether both call the same."""

    exact: bool
    normalised: bool
    overlap: float
    calls: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One request with both answers. agreement: None unless both answered."""

    ask: Ask
    old: Answer
    new: Answer
    agreement: Agreement | None = None
    old_validity: Validity = field(default_factory=Validity)
    new_validity: Validity = field(default_factory=Validity)


def judge(ask: Ask, old: Answer, new: Answer) -> Pair:
    """Everything there is to say of two answers."""
    both = old.failure is None and new.failure is None
    return Pair(
        ask=ask, old=old, new=new, agreement=agreement(old, new) if both else None,
        old_validity=validity(ask.body, old), new_validity=validity(ask.body, new),
    )  # fmt: skip


def agreement(old: Answer, new: Answer) -> Agreement:
    """How alike two answers are; calls count as a part of what is said, written the same way."""
    first, second = (f"{answer.text}\n{'; '.join(map(call_text, answer.calls))}".strip() for answer in (old, new))
    calls = None
    if old.calls or new.calls:
        calls = [call_text(call) for call in old.calls] == [call_text(call) for call in new.calls]
    return Agreement(
        exact=first == second, normalised=normalised(first) == normalised(second),
        overlap=overlap(normalised(first), normalised(second)), calls=calls,
    )  # fmt: skip


def call_text(call: Call) -> str:
    """A call with its arguments in one order and spacing."""
    try:
        arguments = canonical(json.loads(call.arguments or "{}"))
    except (ValueError, RecursionError):
        arguments = call.arguments
    return f"{call.name}({arguments})"


def normalised(text: str) -> str:
    """Small letters, one form of each letter, single spaces, no signs at the end."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".!;, ")


def overlap(first: str, second: str) -> float:
    """F1 of the words and signs of two texts, each counted as often as it occurs."""
    ours, theirs = Counter(WORD.findall(first)), Counter(WORD.findall(second))
    total = sum(ours.values()) + sum(theirs.values())
    return 2 * sum((ours & theirs).values()) / total if total else 1.0


def validity(body: Mapping[str, Any], answer: Answer) -> Validity:
    """Whether calls name tools that were offered, with arguments that fit, and the form is the one asked for."""
    if answer.failure is not None:
        return Validity()
    problems: list[str] = []
    unchecked: set[str] = set()
    tools = tools_valid(body, answer, problems, unchecked)
    form = form_valid(body, answer, problems, unchecked)
    return Validity(
        tools=tools, form=form, problems=tuple(problems[:MOST_PROBLEMS]), unchecked=tuple(sorted(unchecked))
    )  # fmt: skip


def tools_valid(body: Mapping[str, Any], answer: Answer, problems: list[str], unchecked: set[str]) -> bool | None:
    """Whether every call is valid, and there is one where one was required; None where no tool was in play."""
    schemas = offered_schemas(body)
    required = body.get("tool_choice") not in (None, "auto", "none")
    if not answer.calls and not (required and schemas):
        return None
    before = len(problems)
    if not answer.calls:
        problems.append("no tool was called, and tool_choice asks for one")
    for call in answer.calls:
        if call.name not in schemas:
            problems.append(f"{call.name!r} was not offered")
            continue
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError) as error:
            problems.append(f"arguments of {call.name!r} are no JSON: {error}")
            continue
        found = check({"type": "object", **schemas[call.name]}, arguments)
        problems += [f"{call.name}: {problem}" for problem in found.errors]
        unchecked |= found.unchecked
    return len(problems) == before


def offered_schemas(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name and schema of the tools of a request; what has not their form is left out."""
    found = {}
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            schema = function.get("parameters")
            found[function["name"]] = schema if isinstance(schema, dict) else {}
    return found


def form_valid(body: Mapping[str, Any], answer: Answer, problems: list[str], unchecked: set[str]) -> bool | None:
    """Whether the text is the JSON asked for; None where none was, or tools were called in its place."""
    kind = body.get("response_format")
    kind = kind if isinstance(kind, dict) else {}
    if kind.get("type") not in ("json_object", "json_schema") or (answer.calls and not answer.text.strip()):
        return None
    try:
        value = json.loads(answer.text)
    except (ValueError, RecursionError) as error:
        problems.append(f"the text is no JSON: {error}")
        return False
    outer = kind.get("json_schema")
    schema = outer.get("schema", {}) if isinstance(outer, dict) else {"type": "object"}
    found = check(schema, value)
    problems += found.errors
    unchecked |= found.unchecked
    return not found.errors
