"""What the fuzzer changes in its requests: it asks for the model that is there, and for short answers.

Loaded by schemathesis (SCHEMATHESIS_HOOKS). A value is only exchanged for another that the description allows as well,
so that a wrong request stays wrong.
"""

from __future__ import annotations

from typing import Any

import schemathesis

MOST_TOKENS = 6
LENGTHS = ("max_tokens", "max_completion_tokens", "min_tokens", "truncate_prompt_tokens", "num_predict")
NAMED = 4
"""One in so many requests keeps the model's name that was made up."""


def tame(value: Any) -> None:
    """Shorten what would only make answers longer."""
    for name in LENGTHS:
        number = value.get(name)
        if isinstance(number, int) and not isinstance(number, bool) and number > MOST_TOKENS:
            value[name] = MOST_TOKENS


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Called before each request."""
    body = case.body
    if not isinstance(body, dict):
        return
    tame(body)
    if isinstance(body.get("options"), dict):
        tame(body["options"])
    if "max_tokens" not in body and len(body) % 2 and "messages" in body and "keep_alive" not in body:
        body["max_tokens"] = MOST_TOKENS
    for name in ("model", "name"):
        if isinstance(body.get(name), str) and len(body[name]) % NAMED:
            body[name] = "demo"
