"""Recorded traffic: one JSON object a line, the fields of OpenAI's requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twofold.errors import SettingsError
from twofold.migrate.answers import Ask

MOST_LINE_BYTES = 8 * 2**20
NOT_SENT = ("model", "stream", "stream_options", "n", "user", "store", "metadata")
"""What belongs to the recording, or would make several answers."""
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed")


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The lines that can be asked, and what is wrong with the others by number of line."""

    asks: tuple[Ask, ...]
    bad: tuple[tuple[int, str], ...]


def read_traffic(path: Path, limit: int | None = None) -> Traffic:
    """The requests of a file, at most `limit`. Raises SettingsError when it cannot be read or has none."""
    asks: list[Ask] = []
    bad: list[tuple[int, str]] = []
    try:
        with path.open("rb") as file:
            for number, line in lines_of(file):
                if limit is not None and len(asks) >= limit:
                    break
                found = read_line(number, line)
                if isinstance(found, Ask):
                    asks.append(found)
                elif found:
                    bad.append((number, found))
    except OSError as error:
        raise SettingsError(f"the prompts {path} cannot be read: {error.strerror or error}") from error
    if not asks:
        first = f"; line {bad[0][0]}: {bad[0][1]}" if bad else ""
        raise SettingsError(
            f"{path} has no request{first}. One JSON object a line was expected, "
            'like {"messages": [...]} or {"prompt": "..."}'
        )
    return Traffic(asks=tuple(asks), bad=tuple(bad))


def lines_of(file: Any) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; a longer one than allowed comes cut, and is read to its end."""
    number = 0
    while line := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        yield number, line
        while len(line) > MOST_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MOST_LINE_BYTES + 1)


def read_line(number: int, line: bytes) -> Ask | str | None:
    """A request, what is wrong with it, or None for an empty line."""
    if len(line) > MOST_LINE_BYTES:
        return f"longer than {MOST_LINE_BYTES // 2**20} MiB"
    if not line.strip():
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    if not isinstance(value, dict):
        return f"a {type(value).__name__}, not an object"
    body = {name: item for name, item in value.items() if name not in NOT_SENT}
    if isinstance(body.get("prompt"), str) and "messages" not in body:
        return Ask(line=number, kind="completion", body=body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        return 'neither "messages", a list of objects, nor "prompt", a text'
    return Ask(line=number, kind="chat", body=body)


def prepared(ask: Ask, is_greedy: bool, max_tokens: int) -> Ask:
    """The request as it is sent: with is_greedy the best token always, and a bound where the recording has none."""
    body = dict(ask.body)
    if is_greedy:
        body = {name: value for name, value in body.items() if name not in SAMPLING} | {"temperature": 0}
    if "max_tokens" not in body and "max_completion_tokens" not in body:
        body["max_tokens"] = max_tokens
    return replace(ask, body=body)
