"""Servers with a script of their own, in a thread: they answer at a given pace, or lie."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Script:
    """first_s, between_s: waits; words: of an answer; breaks_after: pieces after which it hangs up."""

    first_s: float = 0.002
    between_s: float = 0.002
    words: tuple[str, ...] = ("It", " is", " what", " it", " is", ".")
    breaks_after: int | None = None
    status: int = 200
    raw: bytes | None = None


@contextlib.contextmanager
def scripted(script: Script) -> Iterator[str]:
    """The address of a server that does this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(json.dumps({"data": [{"id": "scripted"}]}).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if script.status != 200 or script.raw is not None:
                self.reply(script.raw or b"no")
                return
            self.send_response(200)
            self.end_headers()
            time.sleep(script.first_s)
            for number, word in enumerate(script.words):
                if number == script.breaks_after:
                    return
                self.event({"choices": [{"index": 0, "delta": {"content": word}}]})
                time.sleep(script.between_s)
            usage = {"prompt_tokens": 9, "completion_tokens": len(script.words)}
            self.event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

        def event(self, value: Any) -> None:
            self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
            self.wfile.flush()

        def reply(self, body: bytes) -> None:
            self.send_response(script.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
