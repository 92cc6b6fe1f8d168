"""What stands before every route: request ids, keys, hosts, content types, and one answer to everything that fails."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twofold.server.account import log_fields
from twofold.server.logs import fields
from twofold.server.page import PATHS
from twofold.server.problems import Problem, body_for, problem_of
from twofold.server.serving import Serving
from twofold.server.settings import LOOPBACK

log = logging.getLogger("twofold.server")
OPEN = ("/health",)
BROWSER_HEADERS = ("origin", "referer", "sec-fetch-site")
CURL_KINDS = ("", "application/x-www-form-urlencoded")
PROBES = ("/health", "/metrics", "/load", "/version")
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")


class Keys:
    """API keys, kept as digests and compared in constant time."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def find(self, given: str) -> str | None:
        """A name for the key (never the key itself), None when it is not one of ours. Looks at all of them."""
        digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest.hex()[:16] if any(found) else None


class Gate:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, serving: Serving, handlers: frozenset[str]) -> None:
        self.app = app
        self.settings = settings = serving.settings
        self.metrics = serving.metrics
        self.quotas = serving.quotas
        self.handlers = handlers
        self.keys = Keys(settings.api_keys)
        self.busy: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            return
        start, headers = time.perf_counter(), Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=request_id, key="")
        status, code = 0, None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update({"X-Request-Id": request_id, "X-Content-Type-Options": "nosniff"})
            await send(message)

        try:
            key = scope["state"]["key"] = self.admit(scope, headers)
            self.busy[key] += 1
            try:
                await self.app(scope, receive, answer)
            finally:
                self.busy[key] -= 1
                if not self.busy[key]:
                    del self.busy[key]
        except ClientDisconnect:
            status = status or 499
        except Exception as error:
            problem = as_problem(error)
            code = problem.code
            if problem.status >= 500 and not isinstance(error, Problem):
                log.exception("failed", extra=fields(request_id=request_id))
            if not status:
                await problem_response(problem, scope["path"])(scope, receive, answer)
        self.tell(scope, status, time.perf_counter() - start, code)

    def tell(self, scope: Scope, status: int, seconds: float, code: str | None) -> None:
        """Count a request that has ended, and log it; probes that went well are for debugging only."""
        state = scope["state"]
        route = scope["path"] if scope["path"] in self.handlers else "other"
        self.metrics.http(scope["method"], route, status, seconds)
        level = logging.DEBUG if route in PROBES and status < 400 else logging.INFO
        if not log.isEnabledFor(level):
            return
        about = log_fields(state["job"]) if "job" in state else {}
        known = {"request_id": state["request_id"], "key": state["key"] or None, "error": code}
        line = fields(method=scope["method"], route=route, status=status, seconds=round(seconds, 4), **known, **about)
        log.log(level, "request", extra=line)

    def admit(self, scope: Scope, headers: Headers) -> str:
        """The name of the API key, "" without keys. Raises Problem 400, 401, 403, 415 or 429."""
        if self.settings.is_local and not self.keys:
            self.check_host(headers.get("host", ""))
        key = ""
        if self.keys and scope["path"] not in OPEN:
            found = self.keys.find(key_in(headers))
            if found is None:
                raise Problem(
                    401, "a valid API key is needed: Authorization: Bearer KEY", code="invalid_api_key",
                    challenge="Basic realm=twofold" if scope["path"] in PATHS.values() else "Bearer",
                )  # fmt: skip
            key = found
        if scope["path"] not in OPEN and self.busy[key] >= self.settings.key_requests:
            raise Problem(
                429, f"{self.busy[key]} requests of this key are being served, the most allowed. Try again later.",
                code="too_many_requests", retry_after_s=1,
            )  # fmt: skip
        if scope["method"] == "POST":
            self.quotas.admit(key.encode())
        return key

    def check_host(self, host: str) -> None:
        """Without keys, a page from elsewhere must not reach this machine's server under a name of its own."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name.strip("[]") not in LOOPBACK:
            raise Problem(403, f"the host {host[:100]!r} is not this machine. Use 127.0.0.1 or set an API key.")


def check_kind(path: str, headers: Headers) -> None:
    """Raise Problem 415 unless the body is called JSON: that is what a page from elsewhere cannot send by itself.

    Ollama's clients and examples often call it nothing, or what curl calls it. That is taken on its routes from whoever
    is no browser: those tell where a POST comes from.
    """
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    is_browser = any(name in headers for name in BROWSER_HEADERS)
    if kind == "application/json" or (path.startswith("/api/") and kind in CURL_KINDS and not is_browser):
        return
    raise Problem(415, f"the content type is {kind!r}; application/json was expected", code="content_type")


def key_in(headers: Headers) -> str:
    """The key a client sent: OpenAI's or Anthropic's header, or a browser's password; "" for none."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(given, validate=True).decode().partition(":")[2]
    return headers.get("x-api-key", "")


def as_problem(error: Exception) -> Problem:
    """Also Starlette's own 404 and 405."""
    if isinstance(error, HTTPException):
        texts = {404: "there is no such route", 405: "this route does not know this method"}
        allow = (
            ", ".join(sorted((error.headers or {}).get("Allow", "").split(", "))) if error.status_code == 405 else None
        )
        return Problem(error.status_code, texts.get(error.status_code, error.detail), code="no_such_route", allow=allow)
    return problem_of(error)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON body."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def problem_response(problem: Problem, path: str) -> Response:
    """The body and headers of a problem, in the shape of the API that the path belongs to."""
    return json_response(body_for(path, problem), problem.status, problem.headers)
