"""The requests, field by field. What is not here is a 400 that names the field: nothing is dropped in silence."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from twofold.server.problems import Problem
from twofold.server.reasons import reason_for

Identity = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:\-]{1,128}$")]
TEMPLATE_LIMIT = 64 * 2**10
TEXT_PART: Any = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
MESSAGE: Any = {
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": TEXT_PART}]},
    },
    "required": ["role"],
}
"""For the description of the API only: what messages hold is checked by text.conversation, for all who use it."""
Message = Annotated[dict[str, Any], Meta(extra_json_schema=MESSAGE)]
Count = Annotated[int, Meta(ge=1, le=2**31)]
SessionId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:\-]{1,128}$")]
Json = dict[str, Any]
T = TypeVar("T")


class StreamOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    """include_usage: one more chunk with the usage of the whole request; continuous_usage_stats: in all, so far."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class Sampled(Struct, kw_only=True, forbid_unknown_fields=True):
    """What all requests that generate have in common: OpenAI's fields, then vLLM's.

    Fields of type None are known and refused, see reasons.py.
    """

    model: str | None = None
    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Count | None = None
    stop: list[str] | str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    usage_details: bool | None = None
    cache_salt: str | None = None
    request_id: Identity | None = None
    truncate_prompt_tokens: Count | None = None
    add_special_tokens: bool | None = None
    priority: int | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    session_id: SessionId | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer comes piece by piece."""
        return bool(self.stream)

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def includes_usage_so_far(self) -> bool:
        """Whether every chunk of a stream tells it."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)


class FunctionTool(Struct, kw_only=True, forbid_unknown_fields=True):
    """A function the model may call; parameters is a JSON schema."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")]
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class Tool(Struct, kw_only=True, forbid_unknown_fields=True):
    """One tool; OpenAI knows functions only."""

    type: Literal["function"]
    function: FunctionTool


class FunctionName(Struct, kw_only=True, forbid_unknown_fields=True):
    """The name of a tool that must be called."""

    name: str


class NamedTool(Struct, kw_only=True, forbid_unknown_fields=True):
    """tool_choice with the tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class ResponseFormat(Struct, kw_only=True, forbid_unknown_fields=True):
    """The form the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Json | None = None


class StructuredOutputs(Struct, kw_only=True, forbid_unknown_fields=True):
    """vLLM's form: exactly one of a JSON schema, a regular expression, a list of answers or a grammar (Lark)."""

    json: Json | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class ChatRequest(Sampled, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/chat/completions."""

    messages: list[Message]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Json | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: Json | None = None
    documents: list[Json] | None = None
    continue_final_message: bool | None = None
    chat_template: Annotated[str, Meta(max_length=TEMPLATE_LIMIT)] | None = None
    store: bool | None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None
    modalities: list[Literal["text"]] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory"] | None = None
    safety_identifier: str | None = None
    audio: None = None
    function_call: None = None
    functions: None = None
    moderation: None = None
    prediction: None = None
    prompt_cache_options: None = None
    web_search_options: None = None


class CompletionRequest(Sampled, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/completions. prompt: a text, token ids, or a list of either."""

    prompt: str | list[Any]
    max_tokens: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Json | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    best_of: Count | None = None
    suffix: Literal[""] | None = None


class TokenizeRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /tokenize. Either a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Annotated[str, Meta(max_length=TEMPLATE_LIMIT)] | None = None
    chat_template_kwargs: Json | None = None
    tools: list[Tool] | None = None


class DetokenizeRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Meta(ge=0, le=2**31)]]


def decode(body: bytes, kind: type[T]) -> T:
    """A request from its JSON. Raises Problem 400 that names the field at fault."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        known = reason_for(field_of(str(error)))
        field, message = known or (field_of(str(error)), message_of(error))
        raise Problem(400, message, param=field, code="invalid_request") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON: {error}", code="invalid_json") from error


def refuse(field: str) -> Problem:
    """The answer to a field with a value that is not supported."""
    known = reason_for(field)
    assert known is not None, field
    return Problem(400, known[1], param=field, code="invalid_request")


def message_of(error: Exception) -> str:
    """What is wrong, in words of the API."""
    unknown = re.search(r"unknown field `(.*)`", str(error))
    if not unknown:
        return str(error)
    return f"the field {field_of(str(error))!r} is not supported by this server. Leave it out."


def field_of(message: str) -> str | None:
    """The field a validation message speaks of."""
    place = re.search(r"at `\$\.?(.*?)`$", message)
    inside = place[1] if place else ""
    named = re.search(r"(?:unknown|required) field `(.*?)`", message)
    return ".".join(part for part in (inside, named[1] if named else "") if part) or None
