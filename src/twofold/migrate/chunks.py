"""Puts an answer together from what an endpoint sends, and trusts nothing of it."""

from __future__ import annotations

import json
from typing import Any

from twofold.migrate.answers import Answer, Call

MOST_CALLS = 64


class NonsenseError(Exception):
    """What came is not what the API says."""


class Chunks:
    """The parts of one answer so far."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls: dict[int, list[str]] = {}
        self.finish: str | None = None
        self.usage: dict[str, int] = {}
        self.first_s: float | None = None
        self.is_done = False
        self.error: str | None = None

    def take_line(self, line: bytes, now_s: float) -> None:
        """One line of an event stream. Raises NonsenseError."""
        if not line.startswith(b"data:"):
            if line.strip() and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                raise NonsenseError(f"a line of the stream is {line[:80]!r}")
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self.is_done = True
            return
        value = read_object(data)
        if "error" in value:
            error = value["error"]
            self.error = str(error.get("message", error) if isinstance(error, dict) else error)[:500]
            self.is_done = True
            return
        before = len(self.texts) + len(self.calls)
        self.take(value, "delta")
        if self.first_s is None and len(self.texts) + len(self.calls) > before:
            self.first_s = now_s

    def take_whole(self, data: bytes) -> None:
        """An answer in one piece. Raises NonsenseError."""
        value = read_object(data)
        if not value.get("choices"):
            raise NonsenseError(f"the answer has no choices: {data[:80]!r}")
        self.take(value, "message")
        self.finish = self.finish or "stop"

    def take(self, value: dict[str, Any], name: str) -> None:
        """A chunk, or a whole answer. Raises NonsenseError."""
        try:
            usage = value.get("usage") or {}
            counts = {key: usage[key] for key in ("prompt_tokens", "completion_tokens") if key in usage}
            self.usage |= {key: count for key, count in counts.items() if type(count) is int and count >= 0}
            for choice in value.get("choices") or ():
                if choice.get("index", 0) == 0:
                    self.take_choice(choice, choice.get(name) or {})
        except (AttributeError, TypeError, ValueError) as error:
            raise NonsenseError(f"a chunk has not the form of OpenAI's: {error}") from error

    def take_choice(self, choice: dict[str, Any], part: dict[str, Any]) -> None:
        """The first choice of a chunk."""
        text = part.get("content") if part else choice.get("text")
        if text:
            if not isinstance(text, str):
                raise NonsenseError(f"a text is {text!r:.80}")
            self.texts.append(text)
        for place, call in enumerate(part.get("tool_calls") or ()):
            index, function = int(call.get("index", place)), call.get("function") or {}
            if index not in self.calls and len(self.calls) >= MOST_CALLS:
                raise NonsenseError(f"more than {MOST_CALLS} tool calls")
            held = self.calls.setdefault(index, ["", ""])
            held[0] += str(function.get("name") or "")
            held[1] += str(function.get("arguments") or "")
        self.finish = choice.get("finish_reason") or self.finish

    def check_end(self) -> None:
        """Raise NonsenseError when a stream ended in the middle."""
        if self.error is None and self.finish is None:
            raise NonsenseError("the stream ended before the answer did")

    def answer(self, total_s: float, failure: str | None) -> Answer:
        """All of it."""
        calls = tuple(Call(name, arguments) for _, (name, arguments) in sorted(self.calls.items()))
        return Answer(
            text="".join(self.texts), calls=calls, finish=str(self.finish) if self.finish else None,
            prompt_tokens=self.usage.get("prompt_tokens"), completion_tokens=self.usage.get("completion_tokens"),
            first_token_s=self.first_s, total_s=total_s,
            failure=failure or (f"error: {self.error}" if self.error is not None else None),
        )  # fmt: skip


def read_object(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises NonsenseError."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NonsenseError(f"no JSON: {data[:80]!r}") from error
    if not isinstance(value, dict):
        raise NonsenseError(f"no JSON object: {data[:80]!r}")
    return value
