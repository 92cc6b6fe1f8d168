"""What contenders are asked: made-up traffic of a kind, or traffic that was recorded.

Made-up texts state facts of invented people and places and ask for one of them, so that any model can answer and any
answer can be checked. Every round has texts of its own, made from the seed: a cache that remembers prompts gains
nothing that it would not gain from real users.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.errors import SettingsError

Body = dict[str, Any]
MOST_REQUESTS = 10_000
CHAT, TEXT = "chat/completions", "completions"
OWN_FIELDS = ("expected",)
NOT_OURS = ("model", "stream", "stream_options", "n")
"""Fields that are set here for every contender alike."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request: the route it goes to, its fields, and a text that a right answer holds ("" when nobody knows)."""

    route: str
    body: Body
    expected: str = ""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a user would wait: for the first token, and for each later one (99 of 100). Seconds."""

    first_s: float
    between_s: float


@dataclass(frozen=True, kw_only=True)
class Workload:
    """name: for people. streams: requests at once. repeats: whether every round asks the same."""

    name: str
    streams: int
    limits: Limits
    recorded: Sequence[Request] = ()
    preset: Preset | None = None

    @property
    def repeats(self) -> bool:
        """Whether every round asks the same."""
        return bool(self.recorded)

    def requests(self, seed: int, number: int) -> list[Request]:
        """The requests of a round."""
        if self.preset is None:
            return list(self.recorded)
        source = random.Random(f"{seed} {number}")
        shared = self.preset.shared(source)
        return [self.preset.request(source, shared) for _ in range(self.preset.requests)]

    def openings(self, seed: int, count: int) -> list[str]:
        """What the first requests of the first round ask, for people."""
        return [asked(request.body) for request in self.requests(seed, 0)[:count]]

    def describe(self) -> dict[str, Any]:
        """For the bundle."""
        count = len(self.recorded) or (self.preset.requests if self.preset else 0)
        limits = {"first_token_ms": 1000 * self.limits.first_s, "between_tokens_ms": 1000 * self.limits.between_s}
        return {
            "name": self.name,
            "requests": count,
            "streams": self.streams,
            "limits": limits,
            "repeats": self.repeats,
        }


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A kind of traffic. facts: in each prompt; persona: facts that all prompts of a round begin with."""

    meaning: str
    requests: int
    streams: int
    facts: int
    answer_tokens: int
    limits: Limits
    persona: int = 0

    def shared(self, source: random.Random) -> str:
        """What all prompts of a round begin with."""
        return " ".join(fact(source)[0] for _ in range(self.persona))

    def request(self, source: random.Random, shared: str) -> Request:
        """One conversation."""
        facts = [fact(source) for _ in range(self.facts)]
        _, question, expected = source.choice(facts)
        messages = [{"role": "system", "content": shared}] if shared else []
        text = " ".join(sentence for sentence, _, _ in facts)
        messages.append({"role": "user", "content": f"{text}\n\n{question}"})
        body = {"messages": messages, "max_tokens": self.answer_tokens, "temperature": 0, "seed": 1}
        return Request(route=CHAT, body=body, expected=expected)


PRESETS = {
    "chat": Preset(
        meaning="a few users at once, short questions", requests=16, streams=4, facts=8, answer_tokens=48,
        limits=Limits(first_s=1.0, between_s=0.2),
    ),
    "long": Preset(
        meaning="one user, long prompts", requests=4, streams=1, facts=90, answer_tokens=32,
        limits=Limits(first_s=5.0, between_s=0.2),
    ),
    "rag": Preset(
        meaning="questions about passages that were looked up", requests=8, streams=2, facts=36, answer_tokens=48,
        limits=Limits(first_s=2.0, between_s=0.2),
    ),
    "game": Preset(
        meaning="characters of one world, one line at a time", requests=24, streams=8, facts=3, answer_tokens=32,
        persona=24, limits=Limits(first_s=0.5, between_s=0.1),
    ),
    "batch": Preset(
        meaning="many small tasks, as many at once as can be", requests=64, streams=32, facts=4, answer_tokens=32,
        limits=Limits(first_s=10.0, between_s=1.0),
    ),
}  # fmt: skip

SYLLABLES = [
    "bra",
    "chen",
    "dol",
    "fra",
    "gel",
    "hom",
    "jar",
    "kel",
    "lin",
    "mor",
    "nea",
    "pran",
    "quis",
    "ros",
    "ster",
    "tal",
    "ver",
    "wen",
    "yor",
    "zim",
]
KINDS = (
    ("{a} lives in {b}.", "Where does {a} live?"),
    ("{a} works for {b}.", "Who does {a} work for?"),
    ("{a} lies on the river {b}.", "On which river does {a} lie?"),
    ("{a} was named after {b}.", "What was {a} named after?"),
    ("The boss of {a} is {b}.", "Who is the boss of {a}?"),
    ("{a} lies {n} metres above the sea.", "How many metres above the sea is {a}?"),
    ("{a} was founded in {n}.", "When was {a} founded?"),
)


def fact(source: random.Random) -> tuple[str, str, str]:
    """A sentence, the question it answers, and what a right answer holds."""
    sentence, question = source.choice(KINDS)
    names = {"a": invented(source), "b": invented(source), "n": str(source.randrange(100, 2000))}
    return sentence.format(**names), question.format(**names), names["n" if "{n}" in sentence else "b"]


def invented(source: random.Random) -> str:
    """A name nobody has."""
    return "".join(source.choices(SYLLABLES, k=source.choice((2, 2, 3)))).capitalize()


def preset_workload(name: str, requests: int | None, streams: int | None, limits: Limits | None) -> Workload:
    """Made-up traffic; what is None is as the preset has it."""
    preset = PRESETS[name]
    if requests is not None:
        preset = Preset(**{**vars(preset), "requests": requests})
    return Workload(
        name=f"{name}: {preset.meaning}",
        streams=streams or preset.streams,
        limits=limits or preset.limits,
        preset=preset,
    )


def recorded_workload(path: Path, requests: int | None, streams: int | None, limits: Limits | None) -> Workload:
    """Traffic of a JSON-lines file, at most `requests` of it. Raises SettingsError naming the line at fault."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}. One JSON object per line was expected") from error
    found = [read_request(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise SettingsError(f"{path} holds no requests; one JSON object per line with messages or prompt was expected")
    if len(found) > MOST_REQUESTS:
        raise SettingsError(f"{path} holds {len(found)} requests; at most {MOST_REQUESTS} are taken")
    return Workload(
        name=f"recorded: {path.name}",
        streams=streams or 4,
        limits=limits or PRESETS["chat"].limits,
        recorded=found[:requests],
    )


def read_request(line: str, where: str) -> Request:
    """A request from one line. Raises SettingsError."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{where} is no JSON: {error}") from error
    if not isinstance(raw, dict) or ("messages" in raw) == ("prompt" in raw):
        raise SettingsError(f"{where}: an object with either messages or prompt was expected, as OpenAI's API takes it")
    if "messages" in raw and not is_conversation(raw["messages"]):
        raise SettingsError(f"{where}: messages must be a list of objects with role and content")
    expected = raw.get("expected", "")
    if not isinstance(expected, str):
        raise SettingsError(f"{where}: expected is {expected!r:.60}; a text that a right answer holds was expected")
    body = {name: value for name, value in raw.items() if name not in (*OWN_FIELDS, *NOT_OURS)}
    return Request(route=CHAT if "messages" in raw else TEXT, body=body, expected=expected)


def asked(body: Body) -> str:
    """The text of a prompt or of the last message; "" where that is no text."""
    text = body["messages"][-1].get("content") if body.get("messages") else body.get("prompt")
    return text if isinstance(text, str) else ""


def is_conversation(messages: object) -> bool:
    """Whether this looks like messages; servers check the rest."""
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(message, Mapping) and isinstance(message.get("role"), str) for message in messages)
    )
