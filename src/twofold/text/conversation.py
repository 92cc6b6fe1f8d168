"""Checks messages and tools as clients send them, and brings them into the one form templates are written for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from twofold.errors import TemplateError
from twofold.text.guard import mapped

ROLES = ("system", "developer", "user", "assistant", "tool", "ipython")

Message = Mapping[str, Any]


def plain_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as plain JSON: developer is system, text parts are joined, arguments of tool calls are objects.

    Raises TemplateError naming the index of a message that is malformed.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise TemplateError(f"messages is a {type(messages).__name__}; a list of messages was expected.")
    if not messages:
        raise TemplateError("messages is empty; at least one message was expected.")
    return [plain_message(index, message) for index, message in enumerate(messages)]


def plain_message(index: int, message: Message) -> dict[str, Any]:
    """One message, see `plain_messages`."""
    if not isinstance(message, Mapping):
        raise TemplateError(
            f"message {index} is a {type(message).__name__}; an object with role and content was expected."
        )
    try:
        plain: dict[str, Any] = mapped(message, str)
    except (TypeError, RecursionError) as error:
        raise TemplateError(f"message {index} holds {error}. Send text, numbers, lists and objects only.") from error
    role = plain.get("role")
    if role not in ROLES:
        raise TemplateError(f"message {index} has the role {role!r}; one of {', '.join(ROLES)} was expected.")
    plain["role"] = "system" if role == "developer" else role
    calls = plain.pop("tool_calls", None)
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise TemplateError(f"message {index}: tool_calls must be a list, and of role assistant (found {role}).")
        plain["tool_calls"] = [plain_call(index, call) for call in calls]
    plain["content"] = plain_content(index, plain)
    return plain


def plain_content(index: int, message: Mapping[str, Any]) -> str | dict[str, Any]:
    """The text of a message; a tool's answer may also be an object."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and "tool_calls" in message:
        return ""
    if isinstance(content, dict) and message["role"] in ("tool", "ipython"):
        return content
    if not isinstance(content, list):
        raise TemplateError(
            f"message {index} has the content {content!r:.60}; text or a list of text parts was expected."
        )
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise TemplateError(
                f'message {index} has a part of type {kind!r}; {{"type": "text", "text": ...}} was expected, '
                "because no image, audio, file or URL is read."
            )
        texts.append(part["text"])
    return "".join(texts)


def plain_call(index: int, call: Any) -> dict[str, Any]:
    """A tool call with its arguments as an object; clients send them as the text of one."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise TemplateError(
            f'message {index} has a tool call {call!r:.60}; {{"function": {{"name": ...}}}} was expected.'
        )
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise TemplateError(f"message {index}: arguments of {function['name']!r} are no JSON: {error}.") from error
    if not isinstance(arguments, dict):
        raise TemplateError(
            f"message {index}: arguments of {function['name']!r} must be an object, not {arguments!r:.60}."
        )
    outer = call if "function" in call else {}
    return {**outer, "type": "function", "function": {**function, "arguments": arguments}}


def plain_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tools as plain JSON, None when there are none. Raises TemplateError naming the index of a bad one."""
    if not tools:
        return None
    plain = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise TemplateError(f"tool {index} is a {type(tool).__name__}; an object was expected.")
        try:
            plain.append(mapped(tool, str))
        except (TypeError, RecursionError) as error:
            raise TemplateError(f"tool {index} holds {error}. Send text, numbers, lists and objects only.") from error
    return plain
