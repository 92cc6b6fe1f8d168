"""Kept conversations over HTTP: the field that names one, and the routes that list and forget them."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from twofold.engine.request import SessionName
from twofold.engine.session_book import Session
from twofold.engine.sessions import Sessions
from twofold.server.access import json_response
from twofold.server.generation import Endpoint
from twofold.server.problems import Problem
from twofold.server.schema import Sampled
from twofold.server.serving import Serving


def read_session(asked: Sampled, serving: Serving, answers: int) -> SessionName | None:
    """The session a request belongs to, its owner left open. Raises Problem 400 where there can be none."""
    if asked.session_id is None:
        return None
    kept_by(serving)
    if answers != 1:
        raise Problem(400, f"a session is one conversation, and {answers} answers are asked for", param="session_id")
    return SessionName(name=asked.session_id)


def kept_by(serving: Serving) -> Sessions:
    """The server's sessions. Raises Problem 400 when it keeps none."""
    if serving.runner.sessions is None:
        text = "this server keeps no sessions; start it with --session-dir DIR, or leave session_id out"
        raise Problem(400, text, param="session_id", code="sessions_disabled")
    return serving.runner.sessions


def session_endpoints(serving: Serving) -> list[Endpoint]:
    """GET /v1/sessions and DELETE /v1/sessions/NAME; a key sees its own only."""

    async def list_all(request: Request) -> Response:
        sessions, owner = kept_by(serving), request.state.key

        def cards() -> list[dict[str, Any]]:
            found = sessions.book.sessions.values()
            return [card(session, sessions) for session in found if session.name.owner == owner]

        found = await asyncio.wrap_future(serving.runner.ask(cards))
        return json_response({"object": "list", "data": found})

    async def forget(request: Request) -> Response:
        sessions = kept_by(serving)
        name = SessionName(owner=request.state.key, name=request.path_params["name"])
        if not await asyncio.wrap_future(serving.runner.ask(lambda: sessions.forget(name))):
            raise Problem(404, f"there is no session {name.name!r}", param="session_id", code="session_not_found")
        return json_response({"id": name.name, "object": "session.deleted", "deleted": True})

    return [
        Endpoint(path="/v1/sessions", handler=list_all),
        Endpoint(path="/v1/sessions/{name}", handler=forget, method="DELETE"),
    ]


def card(session: Session, sessions: Sessions) -> dict[str, Any]:
    """What is told of a session: tokens that need not be read again, and when it was used last (Unix time)."""
    tokens = len(session.keys) * sessions.engine.blocks.layout.block_size
    return {"id": session.name.name, "object": "session", "tokens": tokens, "last_used": int(session.used_s)}
