"""The shapes of answers, as the description of the API tells them. Answers may hold more than is written here."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

Json = dict[str, Any]
Finish = Literal["stop", "length", "tool_calls"]


class ErrorTold(Struct, kw_only=True, forbid_unknown_fields=True):
    """What is wrong. param: the field at fault. code: a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """Every answer that is no success."""

    error: ErrorTold


class AnthropicErrorTold(Struct, kw_only=True, forbid_unknown_fields=True):
    """What is wrong."""

    type: str
    message: str


class AnthropicError(Struct, kw_only=True, forbid_unknown_fields=True):
    """Every answer of Anthropic's routes that is no success."""

    type: Literal["error"]
    error: AnthropicErrorTold


class OllamaError(Struct, kw_only=True, forbid_unknown_fields=True):
    """Every answer of Ollama's routes that is no success."""

    error: str


class CachedTokens(Struct, kw_only=True):
    """Tokens of the prompt that were known."""

    cached_tokens: int


class UsageDetails(Struct, kw_only=True):
    """What a request took of the engine, and what that cost where the server knows a price."""

    engine_seconds: float
    queue_seconds: float
    cost: float | None
    currency: str | None


class Usage(Struct, kw_only=True):
    """Tokens read and written; details: with usage_details: true."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    details: UsageDetails | UnsetType = UNSET


class TokenLogprob(Struct, kw_only=True):
    """A token, its natural logarithm of probability, and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class DrawnLogprob(TokenLogprob, kw_only=True):
    """A token of the answer, and the best ones in its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Struct, kw_only=True):
    """One entry per token of the answer."""

    content: list[DrawnLogprob]
    refusal: None


class CalledFunction(Struct, kw_only=True):
    """arguments: the text of a JSON object."""

    name: str
    arguments: str


class Call(Struct, kw_only=True):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Struct, kw_only=True):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[Call] | UnsetType = UNSET


class ChatChoice(Struct, kw_only=True):
    """One of n answers."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatCompletion(Struct, kw_only=True):
    """The answer to a chat; streamed, it comes in chunks of object chat.completion.chunk."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionLogprobs(Struct, kw_only=True):
    """One entry per token in each list."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct, kw_only=True):
    """One of n answers to one of the prompts."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish


class Completion(Struct, kw_only=True):
    """How prompts go on."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class ModelCard(Struct, kw_only=True):
    """A model by one of its names."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int


class ModelList(Struct, kw_only=True):
    """All names."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokens(Struct, kw_only=True):
    """Ids of a text."""

    tokens: list[int]
    count: int
    max_model_len: int


class PromptText(Struct, kw_only=True):
    """The text of ids."""

    prompt: str


class VersionTold(Struct, kw_only=True):
    """Version of twofold."""

    version: str


class ServerVersionTold(VersionTold, kw_only=True):
    """sessions: whether this server keeps conversations by their session_id."""

    sessions: bool


class LoadTold(Struct, kw_only=True):
    """Requests in flight, how many of them run and wait, room, tokens per second in the last ten seconds, leaving."""

    server_load: int
    running: int
    waiting: int
    cache_free_share: float
    prompt_tokens_per_second: float
    generation_tokens_per_second: float
    draining: bool


class ExpertsTold(Struct, kw_only=True):
    """Tokens each expert was given since the start, for each layer that has experts, in the network's order."""

    layers: list[list[int]]


class SessionCard(Struct, kw_only=True):
    """A kept conversation."""

    id: str
    object: Literal["session"]
    tokens: int
    last_used: int


class SessionList(Struct, kw_only=True):
    """The conversations kept for this key."""

    object: Literal["list"]
    data: list[SessionCard]


class SessionGone(Struct, kw_only=True):
    """A conversation that is forgotten."""

    id: str
    object: Literal["session.deleted"]
    deleted: bool


class AnthropicUsage(Struct, kw_only=True):
    """Tokens read and written; those that were known are not among the input tokens."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int


class AnthropicMessage(Struct, kw_only=True):
    """The answer; content: blocks of text and tool_use."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Json]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: AnthropicUsage


class TokenCount(Struct, kw_only=True):
    """Tokens of a conversation."""

    input_tokens: int


class OllamaAnswer(Struct, kw_only=True):
    """A whole answer, in message or response; streamed, each line holds a piece of it."""

    model: str
    created_at: str
    done: bool
    done_reason: str
    message: Json | UnsetType = UNSET
    response: str | UnsetType = UNSET


class OllamaModels(Struct, kw_only=True):
    """Models by their names."""

    models: list[Json]


class OllamaShown(Struct, kw_only=True):
    """What is known of a model."""

    details: Json
    model_info: Json
    capabilities: list[str]
