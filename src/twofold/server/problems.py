"""What goes wrong, in the shape the clients of each API understand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from twofold.errors import (
    GrammarFailed,
    InvalidSampling,
    Overloaded,
    RankLost,
    RequestError,
    RequestTooLong,
    ShuttingDown,
    SlowReader,
    TemplateError,
)

KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 413: "invalid_request_error", 415: "invalid_request_error",
    429: "rate_limit_error", 431: "invalid_request_error", 500: "server_error", 503: "unavailable_error",
}  # fmt: skip
ANTHROPIC_KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


class Problem(Exception):
    """An answer with an HTTP status of 400 or more. param: the field at fault. retry_after_s: when to come back.

    challenge: how a client of a 401 may show its key. allow: the methods a route has, for a 405.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        challenge: str = "Bearer",
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.challenge = challenge
        self.allow = allow

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def told(self) -> str:
        """The message with the field at fault, for APIs that have no place of its own for it."""
        named = self.param is None or self.param in self.message
        return self.message if named else f"{self.param}: {self.message}"

    def renamed(self, names: Mapping[str, str]) -> Problem:
        """The same in the words of an API that calls the field something else."""
        if self.param is None or self.param not in names:
            return self
        name = names[self.param]
        message = re.sub(rf"^{self.param}\b", name, self.message)
        return Problem(self.status, message, param=name, code=self.code, retry_after_s=self.retry_after_s)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to it."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        headers |= {} if self.allow is None else {"Allow": self.allow}
        return headers | ({"WWW-Authenticate": self.challenge} if self.status == 401 else {})


def problem_of(error: BaseException) -> Problem:
    """The answer to an exception; what we did not raise on purpose is a 500 that tells nothing of the inside."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Overloaded):
        return Problem(429, str(error), code="overloaded", retry_after_s=1)
    if isinstance(error, ShuttingDown | RankLost):
        return Problem(503, str(error), code="shutting_down", retry_after_s=5)
    if isinstance(error, SlowReader):
        return Problem(408, str(error), code="slow_reader")
    if isinstance(error, RequestTooLong):
        return Problem(400, str(error), code="context_length_exceeded")
    if isinstance(error, InvalidSampling):
        named = re.match(r"(\w+) (?:of \d+ )?is ", str(error))
        return Problem(400, str(error), param=named[1] if named else None, code="invalid_value")
    if isinstance(error, TemplateError):
        return Problem(400, str(error), param="messages", code="invalid_messages")
    if isinstance(error, GrammarFailed):
        return Problem(400, str(error), param="response_format", code="grammar_too_complex")
    if isinstance(error, RequestError):
        return Problem(500, str(error), code="request_failed")
    return Problem(500, "the server failed; its log says more under this request's id", code="internal_error")


def anthropic_body(problem: Problem) -> dict[str, Any]:
    """Anthropic's error object."""
    kind = ANTHROPIC_KINDS.get(problem.status, "api_error" if problem.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": problem.told}}


def ollama_body(problem: Problem) -> dict[str, Any]:
    """Ollama's error object."""
    return {"error": problem.told}


def body_for(path: str, problem: Problem) -> dict[str, Any]:
    """The error object of the API that a path belongs to."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return anthropic_body(problem)
    return ollama_body(problem) if path.startswith("/api/") else problem.body
