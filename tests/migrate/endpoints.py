"""An endpoint that misbehaves in a way chosen by the model's name."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def call(name: str, *arguments: str) -> bytes:
    first = {"index": 0, "function": {"name": name, "arguments": arguments[0]}}
    rest = [{"index": 0, "function": {"arguments": text}} for text in arguments[1:]]
    calls = [event({"choices": [{"index": 0, "delta": {"tool_calls": [item]}}]}) for item in [first, *rest]]
    return b"".join(calls) + event({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})


STREAMS = {
    "good": event(CHUNK) + event(LAST) + event(USAGE) + b"data: [DONE]\n\n",
    "silent": event(LAST) + b"data: [DONE]\n\n",
    "cut": event(CHUNK),
    "garbage": b"data: {not json\n\n",
    "html": b"<html>hello</html>\n",
    "list": b"data: [1, 2]\n\n",
    "shape": event({"choices": "none"}),
    "text": event({"choices": [{"index": 0, "delta": {"content": ["x"]}}]}),
    "fails": event(CHUNK) + event({"error": {"message": "out of memory"}}),
    "calls": call("lookup", '{"place"', ': "here"}') + b"data: [DONE]\n\n",
    "wrong-tool": call("delete_all", "{}") + b"data: [DONE]\n\n",
    "bad-arguments": call("lookup", '{"place": 3') + b"data: [DONE]\n\n",
    "attack": event({"choices": [{"index": 0, "delta": {"content": "<script>alert(1)</script>"}}]}) + event(LAST),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.reply(200, json.dumps({"data": [{"id": "good"}]}).encode(), "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append(body)  # type: ignore[attr-defined]
        name = body["model"]
        other: dict[str, Callable[[], None]] = {
            "stalls": lambda: self.wait(),
            "trickles": self.trickle,
            "endless": self.endless,
            "status": lambda: self.reply(503, b'{"error": {"message": "loading"}}', "application/json"),
            "page": lambda: self.reply(200, b"<html>login</html>", "text/html"),
            "whole": lambda: self.reply(
                200, b'{"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}', "application/json"
            ),
            "picky": lambda: self.picky(body),
            "hangs-up": self.hang_up,
        }
        if name in other:
            other[name]()
        else:
            self.reply(200, STREAMS[name], "text/event-stream")

    def reply(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def wait(self) -> None:
        self.server.leaving.wait(20)  # type: ignore[attr-defined]
        self.close_connection = True

    def hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.close_connection = True

    def trickle(self) -> None:
        """Bytes without an end of line, for ever."""
        self.begin()
        with contextlib.suppress(OSError):
            while not self.server.leaving.wait(0.02):  # type: ignore[attr-defined]
                self.wfile.write(b"x")

    def endless(self) -> None:
        """Chunks without an end, as fast as they are read."""
        self.begin()
        with contextlib.suppress(OSError):
            while not self.server.leaving.is_set():  # type: ignore[attr-defined]
                self.wfile.write(event(CHUNK) * 2000)

    def picky(self, body: dict[str, Any]) -> None:
        if "stream_options" in body:
            self.reply(400, b'{"error": {"message": "unknown field stream_options"}}', "application/json")
        else:
            self.reply(200, STREAMS["good"], "text/event-stream")


@contextlib.contextmanager
def misbehaving() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address and the requests it has seen."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen = []  # type: ignore[attr-defined]
    server.leaving = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.seen  # type: ignore[attr-defined]
    finally:
        server.leaving.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()
