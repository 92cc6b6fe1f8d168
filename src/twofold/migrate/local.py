"""A model that runs in this process, as one side of a comparison."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from twofold.api import LLM, Completion, SamplingParams
from twofold.errors import TwofoldError
from twofold.migrate.answers import Answer, Ask, Call
from twofold.text.tools import CallArguments, CallBegun, Said, ToolReader

APPLIED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
KNOWN = {*APPLIED, "messages", "prompt", "max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice"}


class LocalModel:
    """A loaded model; `name` is what the user called it."""

    def __init__(self, llm: LLM, name: str) -> None:
        self.llm = llm
        self.name = name

    @property
    def told(self) -> str:
        """Name and scheme."""
        return f"{self.name}, {self.llm.loaded.settings.dtype}, in this process"

    def answer(self, ask: Ask) -> Answer:
        """Answer; see Side."""
        completion, started = Completion(prompt_tokens=0), time.perf_counter()
        tools, notes = offered(ask.body), notes_on(ask.body)
        try:
            params = params_of(ask.body)
            if ask.kind == "chat":
                pieces = self.llm.chat_stream(ask.body["messages"], params, tools or None, completion)
            else:
                pieces = self.llm.stream(ask.body["prompt"], params, completion)
            for _ in pieces:
                pass
        except (TwofoldError, TypeError, ValueError) as error:
            return Answer(failure=f"error: {error}", total_s=time.perf_counter() - started, notes=notes)
        text, calls = read_calls(completion.text, [tool["function"]["name"] for tool in tools])
        return Answer(
            text=text, calls=calls, finish="tool_calls" if calls else completion.finish,
            prompt_tokens=completion.prompt_tokens, completion_tokens=len(completion.tokens),
            first_token_s=completion.first_token_s, total_s=time.perf_counter() - started, notes=notes,
        )  # fmt: skip


def params_of(body: Mapping[str, Any]) -> SamplingParams:
    """The sampling settings of a request. Raises InvalidSampling."""
    given = {name: body[name] for name in APPLIED if body.get(name) is not None}
    stop = body.get("stop") or ()
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    return SamplingParams(**given, stop=(stop,) if isinstance(stop, str) else tuple(stop), max_tokens=most)


def offered(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tools a request offers; none with tool_choice none. Those without a name are left out."""
    tools = body.get("tools") if body.get("tool_choice") != "none" else None
    if not isinstance(tools, list):
        return []
    return [
        tool
        for tool in tools
        if isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and isinstance(tool["function"].get("name"), str)
    ]


def notes_on(body: Mapping[str, Any]) -> tuple[str, ...]:
    """What a request asks for that the Python interface does not do."""
    notes = [f"{name} has no effect in this process" for name in sorted(set(body) - KNOWN - {"response_format"})]
    kind = body.get("response_format")
    if isinstance(kind, dict) and kind.get("type") not in (None, "text"):
        notes.append("response_format is not enforced in this process; twofold serve does it")
    if body.get("tool_choice") not in (None, "auto", "none"):
        notes.append("tool_choice is not enforced in this process; twofold serve does it")
    return tuple(notes)


def read_calls(text: str, names: list[str]) -> tuple[str, tuple[Call, ...]]:
    """Text and tool calls of an answer."""
    if not names:
        return text, ()
    reader = ToolReader(names)
    said: list[str] = []
    calls: dict[int, list[str]] = {}
    for part in [*reader.feed(text), *reader.flush()]:
        if isinstance(part, Said):
            said.append(part.text)
        elif isinstance(part, CallBegun):
            calls[part.index] = [part.name, ""]
        elif isinstance(part, CallArguments):
            calls[part.index][1] += part.text
    return "".join(said), tuple(Call(name, arguments) for name, arguments in calls.values())
