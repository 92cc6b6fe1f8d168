"""Why a field of OpenAI's API is refused, or taken with one value only: the answer to those who send it anyway."""

from __future__ import annotations

REASONS = {
    "audio": "the models served here read and write text only. Leave it out.",
    "best_of": "answers are not compared with each other; it may only be what n is. Use n.",
    "function_call": "it was replaced by tool_choice. Use that.",
    "functions": "it was replaced by tools. Use those.",
    "modalities": 'the models served here write text only. Leave it out or send ["text"].',
    "moderation": "nothing is moderated here; run a guard model on the text. Leave it out.",
    "prediction": "an expected answer is not used; what repeats the prompt is guessed without it. Leave it out.",
    "prompt_cache_options": "what prompts have in common is known without it, until its room is needed. Leave it out.",
    "prompt_cache_retention": 'what prompts have in common is kept in memory only. Leave it out or send "in_memory".',
    "reasoning_effort": 'the models served here answer without hidden reasoning. Leave it out or send "none".',
    "service_tier": 'all requests are served alike. Leave it out or send "auto" or "default".',
    "store": "answers are not stored. Leave it out or send false.",
    "suffix": "a text cannot be filled in before another. Leave it out.",
    "verbosity": 'no model served here knows it; ask for it in words. Leave it out or send "medium".',
    "web_search_options": "nothing is searched for. Put what was found into the messages, and leave it out.",
    "stream_options.include_obfuscation": "chunks are not padded. Leave it out or send false.",
}


def reason_for(field: str | None) -> tuple[str, str] | None:
    """The field and its reason, for a field or a part of one."""
    for name, reason in REASONS.items():
        if field == name or (field or "").startswith((name + ".", name + "[")):
            return name, f"{name} is not supported: {reason}"
    return None
