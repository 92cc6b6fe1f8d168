"""Ollama's requests, field by field. What is not here, or cannot be honoured, is a 400 that names the field."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from msgspec import Meta, Struct

from twofold.server.problems import Problem
from twofold.server.schema import ResponseFormat, Tool

Json = dict[str, Any]
DURATION = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)|0")
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Options(Struct, kw_only=True, forbid_unknown_fields=True):
    """Settings of one request. num_predict: 0 and less is no limit. repeat_last_n: -1, for all tokens count."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    num_predict: Annotated[int, Meta(ge=-2, le=2**31)] | None = None
    num_ctx: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    num_thread: int | None = None
    num_gpu: int | None = None


class OllamaRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """What both routes that generate have in common."""

    model: str
    stream: bool | None = None
    format: str | Json | None = None
    options: Options | None = None
    keep_alive: str | float | None = None
    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer comes line by line: unless it is asked not to."""
        return self.stream is not False

    @property
    def chosen(self) -> Options:
        """The options, all open when none are given."""
        return self.options or Options()


class OllamaFunction(Struct, kw_only=True, forbid_unknown_fields=True):
    """A function that was called."""

    name: str
    arguments: Json
    index: int | None = None


class OllamaCall(Struct, kw_only=True, forbid_unknown_fields=True):
    """A call the model made."""

    function: OllamaFunction
    id: str | None = None


class OllamaMessage(Struct, kw_only=True, forbid_unknown_fields=True):
    """One message."""

    role: str
    content: str | None = None
    images: list[str] | None = None
    thinking: str | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaChat(OllamaRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /api/chat."""

    messages: list[OllamaMessage] | None = None
    tools: list[Tool] | None = None


class OllamaGenerate(OllamaRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /api/generate."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    images: list[str] | None = None


class ShowRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /api/show. name: the older word for model."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


def refuse(value: object, field: str, why: str) -> None:
    """Raise Problem 400 when a field that cannot be honoured asks for something."""
    if value:
        raise Problem(400, f"{field} is not supported: {why}. Leave it out.", param=field)


def check_request(asked: OllamaRequest, threads: int) -> None:
    """Raise Problem 400 for what would change the answer or the server and cannot. threads: those that compute."""
    refuse(asked.think, "think", "the models of this server do not think before they answer")
    refuse(asked.truncate, "truncate", "a conversation that is too long is an error and never cut")
    refuse(asked.shift, "shift", "an answer ends where the context ends")
    check_keep_alive(asked.keep_alive)
    options = asked.chosen
    if options.repeat_last_n not in (None, -1):
        refuse(True, "options.repeat_last_n", "repeat_penalty looks at all tokens, which is -1")
    if (options.num_gpu or 0) > 0:
        refuse(True, "options.num_gpu", "this server computes on the CPU")
    if options.num_thread not in (None, 0, threads):
        refuse(True, "options.num_thread", f"this server computes with {threads} threads, chosen when it was started")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise Problem(400, "top_logprobs needs logprobs: true", param="top_logprobs")


def check_keep_alive(value: str | float | None) -> None:
    """Raise Problem 400 for what is no time, or asks to unload the model at once: this server keeps it."""
    if value is not None and seconds_of(value) == 0:
        raise Problem(
            400, "keep_alive: 0 asks to unload the model, and this server keeps its model until it is stopped. "
            "Leave it out, or stop the server.", param="keep_alive",
        )  # fmt: skip


def seconds_of(value: str | float) -> float:
    """Seconds of a number or of a text like 1h30m. Raises Problem 400 when it is neither."""
    if isinstance(value, int | float):
        return value
    parts = list(DURATION.finditer(value.strip()))
    if not parts or "".join(part[0] for part in parts) != value.strip():
        raise Problem(
            400, f"keep_alive is {value[:50]!r}; a number of seconds or a time like 5m was expected",
            param="keep_alive",
        )  # fmt: skip
    return math.fsum(float(part[1]) * SECONDS[part[3]] if part[3] else 0.0 for part in parts)


def read_format(asked: OllamaRequest) -> ResponseFormat | None:
    """The form the answer must have. Raises Problem 400."""
    if isinstance(asked.format, dict):
        return ResponseFormat(type="json_schema", json_schema={"schema": asked.format})
    if asked.format in (None, ""):
        return None
    if asked.format != "json":
        raise Problem(400, f"format is {asked.format[:50]!r}; json or a JSON schema was expected", param="format")
    return ResponseFormat(type="json_object")
