"""transformers behind OpenAI's API, as a baseline: one request at a time, every token sent when it is made.

python -m twofold.bench.proof.transformers_server FOLDER bf16 --port 8001
"""

from __future__ import annotations

import argparse
import importlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DTYPES = {"f32": "float32", "bf16": "bfloat16"}
DEFAULT_TOKENS = 256


class Gone(Exception):
    """The client has left."""


class Served:
    """A loaded checkpoint; `lock` lets one request at a time use it."""

    def __init__(self, folder: Path, dtype: str, threads: int | None) -> None:
        torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
        if threads:
            torch.set_num_threads(threads)
        self.torch = torch
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, DTYPES[dtype]), local_files_only=True
        ).eval()
        self.lock = threading.Lock()

    def encode(self, body: dict[str, Any]) -> Any:
        """Token ids of a request, [1, T]."""
        if "messages" in body:
            text = self.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=False)
            return self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return self.tokenizer(body["prompt"], return_tensors="pt")["input_ids"]

    def generate(self, ids: Any, body: dict[str, Any], streamer: Any) -> None:
        """Draw an answer; `streamer.put` hears of every token."""
        temperature = body.get("temperature", 1.0)
        sampling = {"do_sample": True, "temperature": temperature, "top_p": body.get("top_p", 1.0), "top_k": 0}
        most = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_TOKENS
        with self.lock, self.torch.no_grad():
            self.torch.manual_seed(body.get("seed") or 0)
            self.model.generate(
                ids, attention_mask=self.torch.ones_like(ids), max_new_tokens=most, streamer=streamer,
                **(sampling if temperature else {"do_sample": False}),
            )  # fmt: skip


class Streamer:
    """What generate() calls: the prompt first, then every token."""

    def __init__(self, handler: Handler, ids: Any, is_chat: bool) -> None:
        self.handler = handler
        self.prompt_tokens = ids.shape[1]
        self.is_chat = is_chat
        self.tokens: list[int] = []
        self.shown = ""
        self.saw_prompt = False

    def put(self, value: Any) -> None:
        """Send the text a token adds, unless half a character is open."""
        if not self.saw_prompt:
            self.saw_prompt = True
            return
        self.tokens += value.reshape(-1).tolist()
        text = self.handler.served.tokenizer.decode(self.tokens, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            self.handler.event(self.choice(text[len(self.shown) :]))
            self.shown = text

    def choice(self, text: str, finish: str | None = None) -> dict[str, Any]:
        """One chunk."""
        part = {"delta": {"content": text}} if self.is_chat else {"text": text}
        return {"object": "chunk", "choices": [{"index": 0, "finish_reason": finish, **part}]}

    def end(self) -> None:
        """The last chunks."""
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": len(self.tokens)}
        self.handler.event(self.choice("", "stop"))
        self.handler.event({"object": "chunk", "choices": [], "usage": usage})


class Handler(BaseHTTPRequestHandler):
    """GET /health, GET /v1/models, and the two routes that generate, streaming only."""

    served: Served

    def do_GET(self) -> None:
        """Ready, and which model."""
        body = json.dumps({"object": "list", "data": [{"id": "transformers", "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """A streamed answer."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ids = self.served.encode(body)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self.served.generate(ids, body, Streamer(self, ids, "messages" in body))
            self.wfile.write(b"data: [DONE]\n\n")
        except Gone:
            return

    def event(self, value: dict[str, Any]) -> None:
        """One server-sent event. Raises Gone."""
        try:
            self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
            self.wfile.flush()
        except OSError as error:
            raise Gone from error

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing per request."""


def main() -> None:
    """Load and serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("dtype", choices=DTYPES)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args()
    Handler.served = Served(chosen.folder, chosen.dtype, chosen.threads)
    ThreadingHTTPServer(("127.0.0.1", chosen.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
