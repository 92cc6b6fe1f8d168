"""OpenAI's requests to an Ask: what is sampled, which prompts, which limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twofold.engine.request import SamplingParams
from twofold.server.judged import read_echoes, read_judging, read_length
from twofold.server.problems import Problem
from twofold.server.schema import ChatRequest, CompletionRequest, Sampled, TokenizeRequest, Tool, refuse
from twofold.server.serving import Ask, Serving
from twofold.server.sessions import read_session
from twofold.server.structure import grammar_of
from twofold.text.words import spellings

Json = dict[str, Any]


def read_params(asked: Sampled, max_tokens: int | None, logprobs: int | None, serving: Serving) -> SamplingParams:
    """Sampling settings of a request. Raises Problem or InvalidSampling naming the field."""
    most_stops = serving.settings.max_stops
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    if len(stop) > most_stops:
        raise Problem(400, f"stop has {len(stop)} entries; at most {most_stops} are allowed", param="stop")
    try:
        bias = {int(token): value for token, value in (asked.logit_bias or {}).items()}
    except ValueError as error:
        raise Problem(400, f"logit_bias: {error}; its keys are token ids", param="logit_bias") from error
    return SamplingParams(
        temperature=asked.temperature,
        top_k=0 if asked.top_k == -1 else asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        seed=asked.seed,
        max_tokens=max_tokens,
        min_tokens=asked.min_tokens or 0,
        stop=stop,
        stop_token_ids=tuple(asked.stop_token_ids or ()),
        ignore_eos=bool(asked.ignore_eos),
        logprobs=logprobs,
        logit_bias=bias,
        priority=asked.priority or 0,
        allowed_token_ids=None if asked.allowed_token_ids is None else tuple(asked.allowed_token_ids),
        bad_words=tuple(asked.bad_words or ()),
        bad_sequences=spellings(serving.model.tokenizer, asked.bad_words or ()),
        prompt_logprobs=read_judging(asked),
    )


def read_choices(asked: Sampled, most: int) -> int:
    """n. Raises Problem 400 beyond `most`."""
    if (asked.n or 1) > most:
        raise Problem(400, f"n is {asked.n}; at most {most} are allowed here", param="n")
    if asked.stream_options and not asked.stream:
        raise Problem(400, "stream_options needs stream: true", param="stream_options")
    if asked.includes_usage_so_far and not asked.includes_usage:
        name = "stream_options.continuous_usage_stats"
        raise Problem(400, "continuous_usage_stats needs include_usage: true", param=name)
    if asked.stream_options and asked.stream_options.include_obfuscation:
        raise refuse("stream_options.include_obfuscation")
    if asked.usage_details and asked.stream and not asked.includes_usage:
        message = "usage_details of a stream needs stream_options: {include_usage: true}, else it has no usage"
        raise Problem(400, message, param="usage_details")
    return asked.n or 1


def read_chat(asked: ChatRequest, serving: Serving) -> Ask:
    """What a chat request asks for. Raises Problem, TemplateError or InvalidSampling."""
    serving.check_model(asked.model)
    limits = serving.settings
    if len(asked.messages) > limits.max_messages:
        found = len(asked.messages)
        raise Problem(400, f"there are {found} messages; at most {limits.max_messages} are allowed", param="messages")
    if asked.max_tokens and asked.max_completion_tokens and asked.max_tokens != asked.max_completion_tokens:
        raise Problem(400, "max_tokens and max_completion_tokens differ; give one", param="max_completion_tokens")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise Problem(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if asked.store:
        raise refuse("store")
    tools = asked.tools or []
    if len(tools) > limits.max_tools:
        raise Problem(400, f"there are {len(tools)} tools; at most {limits.max_tools} are allowed", param="tools")
    uses_tools = bool(tools) and asked.tool_choice != "none"
    prompt = read_conversation(asked, serving, tools if uses_tools else [])
    most = asked.max_completion_tokens or asked.max_tokens
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    return Ask(
        prompts=[last_tokens(prompt, asked)],
        params=read_params(asked, most, logprobs, serving),
        choices=read_choices(asked, limits.max_choices),
        tools=tuple(tool.function.name for tool in tools) if uses_tools else (),
        most_calls=1 if asked.parallel_tool_calls is False else None,
        skip_special=asked.skip_special_tokens is not False,
        include_stop=bool(asked.include_stop_str_in_output),
        usage_details=bool(asked.usage_details),
        grammar=grammar_of(asked),
        salt=(asked.cache_salt or "").encode(),
        session=read_session(asked, serving, asked.n or 1),
    )


def read_conversation(asked: ChatRequest | TokenizeRequest, serving: Serving, tools: Sequence[Tool]) -> list[int]:
    """Token ids of the messages. Raises Problem or TemplateError."""
    if asked.chat_template is not None and not serving.settings.trusts_templates:
        raise Problem(
            400, "chat_template is taken only by a server that was started with --trust-request-chat-template. "
            "Leave it out, or start the server with that.", param="chat_template",
        )  # fmt: skip
    if asked.continue_final_message and asked.add_generation_prompt:
        raise Problem(
            400, "continue_final_message and add_generation_prompt contradict each other; give one",
            param="continue_final_message",
        )  # fmt: skip
    variables = dict(asked.chat_template_kwargs or {})
    if isinstance(asked, ChatRequest) and asked.documents is not None:
        variables["documents"] = asked.documents
    return serving.encode_messages(
        asked.messages or [],
        source=asked.chat_template,
        tools=[plain_tool(tool) for tool in tools] or None,
        add_generation_prompt=asked.add_generation_prompt is not False,
        continue_final_message=bool(asked.continue_final_message),
        variables=variables,
    )


def last_tokens(prompt: list[int], asked: Sampled) -> list[int]:
    """The end of a prompt, where the client asked for it to be cut."""
    most = asked.truncate_prompt_tokens
    return prompt if most is None else prompt[-most:]


def plain_tool(tool: Any) -> Json:
    """A tool as templates list it."""
    function = {"name": tool.function.name}
    for name in ("description", "parameters"):
        if getattr(tool.function, name) is not None:
            function[name] = getattr(tool.function, name)
    return {"type": "function", "function": function}


def read_completion(asked: CompletionRequest, serving: Serving) -> Ask:
    """What a completion request asks for. Raises Problem or InvalidSampling."""
    serving.check_model(asked.model)
    limits = serving.settings
    prompts = read_prompts(asked.prompt)
    if len(prompts) > limits.max_prompts:
        found = len(prompts)
        raise Problem(400, f"there are {found} prompts; at most {limits.max_prompts} are allowed", param="prompt")
    if asked.best_of not in (None, asked.n or 1):
        raise refuse("best_of")
    encode, bos = serving.model.tokenizer.encode, asked.add_special_tokens is not False
    encoded = [encode(prompt, bos=bos) if isinstance(prompt, str) else prompt for prompt in prompts]
    cut = [last_tokens(prompt, asked) for prompt in encoded]
    length = read_length(asked)
    return Ask(
        prompts=cut,
        echoes=read_echoes(asked, cut, serving.model.tokenizer),
        params=read_params(asked, length, asked.logprobs, serving),
        choices=read_choices(asked, limits.max_choices),
        skip_special=asked.skip_special_tokens is not False,
        include_stop=bool(asked.include_stop_str_in_output),
        usage_details=bool(asked.usage_details),
        grammar=grammar_of(asked),
        salt=(asked.cache_salt or "").encode(),
        session=read_session(asked, serving, len(prompts) * (asked.n or 1)),
    )


def read_prompts(prompt: str | list[Any]) -> list[str | list[int]]:
    """The forms of `prompt`: a text, token ids, or a list of either. Raises Problem 400 for anything else."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(is_id(item) for item in prompt):
        return [prompt]
    lists = [isinstance(item, list) and bool(item) and all(is_id(token) for token in item) for item in prompt]
    if prompt and (all(isinstance(item, str) for item in prompt) or all(lists)):
        return list(prompt)
    raise Problem(400, "prompt must be a text, a list of token ids, or a list of either", param="prompt")


def is_id(item: Any) -> bool:
    """Whether this may be a token id."""
    return isinstance(item, int) and not isinstance(item, bool)
