"""What stands before the gate: the path a proxy serves under, and pages of other origins."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twofold.server.access import problem_response
from twofold.server.problems import Problem

METHODS = "GET, POST, DELETE, HEAD"
EXPOSED = "X-Request-Id, Retry-After"
KEPT_S = 600
"""How long a browser may remember what it was allowed."""
HEADER_NAMES = re.compile(r"[A-Za-z0-9\-_, ]{0,4096}")


class RootPath:
    """ASGI middleware for a proxy that serves us under a path, whether it takes the path away or not."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Everything further in sees the path without it."""
        path, root = scope["path"], self.root_path
        if root and (path == root or path.startswith(root + "/")):
            scope = {**scope, "path": path[len(root) :] or "/", "raw_path": scope["raw_path"][len(root) :] or b"/"}
        await self.app(scope, receive, send)


class Cors:
    """ASGI middleware that lets pages of some origins read answers; a key is still needed where keys are.

    Cookies and a browser's passwords are never sent along: keys travel in a header that the page must set itself.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self.app = app
        self.origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight, or add to the headers of the answer."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is None or not self.origins:
            await self.app(scope, receive, send)
            return
        allowed = self.allowed(origin)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await self.preflight(headers, allowed)(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                found.add_vary_header("Origin")
                if allowed:
                    found["Access-Control-Allow-Origin"] = allowed
                    found["Access-Control-Expose-Headers"] = EXPOSED
            await send(message)

        await self.app(scope, receive, answer)

    def allowed(self, origin: str) -> str | None:
        """What Access-Control-Allow-Origin says to this origin."""
        return "*" if "*" in self.origins else origin if origin in self.origins else None

    def preflight(self, headers: Headers, allowed: str | None) -> Response:
        """What a browser asks before it sends a request; there is never a key in that question."""
        if allowed is None:
            return problem_response(
                Problem(403, "this origin is not among those of --cors-origin", code="origin_not_allowed"), "/"
            )
        asked = headers.get("access-control-request-headers", "")
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Origin": allowed,
                "Access-Control-Allow-Methods": METHODS,
                "Access-Control-Allow-Headers": asked if HEADER_NAMES.fullmatch(asked) else "",
                "Access-Control-Max-Age": str(KEPT_S),
                "Vary": "Origin, Access-Control-Request-Headers",
            },
        )
