"""What is asked and what comes back, whoever answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One line of traffic: the fields of a chat request, or of a completion (with "prompt"). line: counted from 1."""

    line: int
    kind: Literal["chat", "completion"]
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """A tool call; arguments are the JSON text as it came."""

    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one side said. failure: why there is no answer, "kind: what happened". notes: what was not as asked for.

    Seconds count from when the request was sent; first_token_s is None where the answer came in one piece. Tokens are
    counted by the side itself, None where it does not tell.
    """

    text: str = ""
    calls: tuple[Call, ...] = ()
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_s: float | None = None
    total_s: float = 0.0
    failure: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        return not self.calls and not self.text.strip()


class Side(Protocol):
    """Something that answers. told: what it is, for the report."""

    @property
    def told(self) -> str:
        """Address or folder, and the model's name."""

    def answer(self, ask: Ask) -> Answer:
        """Answer; never raises for what the other end does."""
