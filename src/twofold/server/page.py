"""The chat page: a few files of the package, under a policy that lets them talk to this server only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TYPES = {
    "index.html": "text/html",
    "icon.svg": "image/svg+xml",
    "page.css": "text/css",
    **dict.fromkeys(("theme.js", "page.js", "markdown.js", "store.js", "stream.js"), "text/javascript"),
}
PATHS = {name: "/" if name == "index.html" else f"/{name}" for name in TYPES}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    """GET / and what the page loads."""
    return [Route(path, file_endpoint(name)) for name, path in PATHS.items()]


def file_endpoint(name: str) -> Callable[[Request], Awaitable[Response]]:
    """Answers with one of the files."""
    content = (resources.files("twofold.server") / "static" / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=TYPES[name], headers=HEADERS)

    return answer
