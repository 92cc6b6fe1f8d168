"""Anthropic's requests, field by field. What is not here is a 400 that names the field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from twofold.server.schema import Count

Json = dict[str, Any]
Text = Annotated[str, Meta(min_length=1)]


class CacheControl(Struct, kw_only=True, forbid_unknown_fields=True):
    """Where a prefix should be kept. The prefix cache keeps every prefix, so nothing is to be done."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A text."""

    text: str
    cache_control: CacheControl | None = None
    citations: None = None


class DirectCaller(Struct, kw_only=True, forbid_unknown_fields=True):
    """The model itself made a call."""

    type: Literal["direct"]


class ToolUseBlock(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_use"):
    """A call the model made."""

    id: Text
    name: Text
    input: Json
    caller: DirectCaller | None = None
    cache_control: CacheControl | None = None


class ToolResultBlock(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_result"):
    """What a call gave."""

    tool_use_id: Text
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class Turn(Struct, kw_only=True, forbid_unknown_fields=True):
    """One message."""

    role: Literal["user", "assistant"]
    content: str | list[TextBlock | ToolUseBlock | ToolResultBlock]


class CustomTool(Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool that the client runs."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")]
    input_schema: Json
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class ToolChoice(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which tool the model must use. name: with the type tool only."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Metadata(Struct, kw_only=True, forbid_unknown_fields=True):
    """Who asks; changes nothing."""

    user_id: str | None = None


class NoThinking(Struct, kw_only=True, forbid_unknown_fields=True):
    """These models do not think before they answer."""

    type: Literal["disabled"]


class JsonFormat(Struct, kw_only=True, forbid_unknown_fields=True):
    """An answer that follows a JSON schema."""

    type: Literal["json_schema"]
    schema: Json


class OutputConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    """The form the answer must have."""

    format: JsonFormat | None = None


class CountRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/messages/count_tokens: what makes up the prompt."""

    model: str
    messages: list[Turn]
    system: str | list[TextBlock] | None = None
    tools: list[CustomTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: NoThinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None


class MessagesRequest(CountRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/messages."""

    max_tokens: Count
    stream: bool | None = None
    stop_sequences: list[Text] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer comes piece by piece."""
        return bool(self.stream)
