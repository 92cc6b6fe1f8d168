"""Parts of an answer for APIs whose tool calls have objects as arguments: a call is shown when it is whole."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from twofold.text.tools import CallArguments, CallBegun, Part, Said

Json = dict[str, Any]


@dataclass(frozen=True)
class Called:
    """A whole call of a tool."""

    name: str
    arguments: Json


Piece = Said | Called


class WholeCalls:
    """Parts in, texts and whole calls out, in their order.

    A call that ends before its arguments are a JSON object stays what the model wrote: text.
    """

    def __init__(self) -> None:
        self._name: str | None = None
        self._arguments = ""

    def feed(self, parts: Iterable[Part]) -> list[Piece]:
        """What is complete now."""
        found: list[Piece] = []
        for part in parts:
            if isinstance(part, CallArguments):
                self._arguments += part.text
                continue
            found += self.flush()
            if isinstance(part, CallBegun):
                self._name = part.name
            else:
                found.append(part)
        return found

    def flush(self) -> list[Piece]:
        """The call that was being read, if any."""
        if self._name is None:
            return []
        name, arguments = self._name, self._arguments
        self._name, self._arguments = None, ""
        value = object_of(arguments)
        if value is None:
            return [Said(f'{{"name": {json.dumps(name)}, "parameters": {arguments}')]
        return [Called(name, value)]


def object_of(text: str) -> Json | None:
    """The JSON object in a text, None when it is none; {} for no text at all."""
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.MsgspecError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
